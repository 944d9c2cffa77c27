//! Errors of a client whose first runtime has ended.

use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use waypost_http::{FailureKind, ServiceChannel};

use crate::net::{Host, World, begin, call};

fn runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

/// Returns a client that has called a node on a runtime which has ended; the registry has been
/// unreachable since.
fn orphaned() -> (World, ServiceChannel, Host) {
    let first = runtime();
    let world = World::new();
    let sender = world.sender();
    let host = first.block_on(async {
        let host = world.host("a").await;
        call(&sender, "/look", "hi").await.unwrap();
        host
    });
    world.memory.faults().set_unreachable(true);
    drop(first);
    (world, sender, host)
}

#[test]
fn a_call_after_the_runtime_ended_is_answered_although_the_registry_is_unreachable() {
    let (_world, sender, host) = orphaned();
    let second = runtime();
    for path in ["/look", "/act"] {
        second.block_on(call(&sender, path, "hi")).unwrap();
    }
    assert_eq!(host.dialled.load(std::sync::atomic::Ordering::Relaxed), 2);
}

#[test]
fn an_error_after_the_runtime_ended_states_what_is_known() {
    let (_world, sender, host) = orphaned();
    host.kill();
    let second = runtime();
    let snapshot = second.block_on(async { sender.snapshot() });
    assert_eq!(
        (snapshot.synced, snapshot.nodes.len()),
        (true, 1),
        "at once"
    );
    let error = second
        .block_on(begin(
            &sender,
            "/look",
            "hi",
            Some(Duration::from_millis(500)),
        ))
        .unwrap_err();
    assert_eq!(error.kind, FailureKind::Deadline);
    let text = error.to_string();
    assert!(
        text.contains("1 known, 0 ready, 1 not_connected; registry unavailable for"),
        "{text}"
    );
    assert!(
        text.ends_with("last connection failure: connect a.test:80: refused)"),
        "{text}"
    );
}

#[test]
fn an_error_states_that_the_registry_has_not_answered_if_the_runtime_ended_before_it_did() {
    let first = runtime();
    let world = World::new();
    world.memory.faults().set_unreachable(true);
    let sender = world.sender();
    let call_on = |runtime: &Runtime| {
        runtime.block_on(begin(
            &sender,
            "/look",
            "hi",
            Some(Duration::from_millis(50)),
        ))
    };
    for runtime in [first, runtime()] {
        let text = call_on(&runtime).unwrap_err().to_string();
        assert!(
            text.contains("(the registry has not answered yet"),
            "{text}"
        );
    }
}

#[test]
fn a_call_outside_of_a_runtime_reports_it() {
    let (_world, sender, _host) = orphaned();
    let mut call = pin!(begin(&sender, "/look", "hi", None));
    let Poll::Ready(Err(error)) = call.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    else {
        panic!("it waits")
    };
    assert_eq!(error.kind, FailureKind::NoRuntime);
    assert_eq!(
        error.to_string(),
        "echo: no Tokio runtime on this thread; call from within one"
    );
}
