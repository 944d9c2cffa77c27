//! A client may be used on many runtimes, even after its first one has ended, and outside of any.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use waypost_http::FailureKind;

use crate::net::{World, begin, call};

const LONG: Duration = Duration::from_secs(5);

fn runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

/// As a `static` client in one `#[tokio::test]` after another.
#[test]
fn a_client_answers_on_each_of_eleven_runtimes() {
    let world = World::new();
    let first = world.sender();
    let host = runtime().block_on(async {
        let host = world.host("a").await;
        assert_eq!(call(&first, "/act", "hi").await.unwrap().0, "a");
        host
    });
    for number in 2..=11 {
        runtime().block_on(async {
            for (sender, what) in [
                (&first, "the same channel"),
                (&world.sender(), "a new channel"),
            ] {
                for _ in 0..3 {
                    let answered = tokio::time::timeout(LONG, call(sender, "/act", "hi")).await;
                    let answered =
                        answered.unwrap_or_else(|_| panic!("runtime {number}, {what}: no answer"));
                    answered.unwrap_or_else(|error| panic!("runtime {number}, {what}: {error}"));
                }
                sender.ready(LONG).await.unwrap();
                assert_eq!(
                    sender.snapshot().nodes[0].in_flight,
                    0,
                    "runtime {number}, {what}"
                );
            }
        });
        assert_eq!(
            host.dialled.load(Relaxed),
            number,
            "one connection for each runtime"
        );
    }
}

/// A node that registers after the first runtime has ended is found, and one that has left is not
/// called.
#[test]
fn a_client_follows_its_service_on_the_next_runtime() {
    let world = World::new();
    let sender = world.sender();
    runtime().block_on(async {
        world.host("a").await;
        call(&sender, "/act", "hi").await.unwrap();
    });
    runtime().block_on(async {
        call(&sender, "/act", "hi").await.unwrap();
        world.host("b").await;
        world.leave("a").await;
        let moved = async {
            while !matches!(call(&sender, "/look", "hi").await, Ok((node, ..)) if node == "b") {}
        };
        tokio::time::timeout(LONG, moved)
            .await
            .expect("the second node is called");
        for _ in 0..20 {
            assert_eq!(call(&sender, "/act", "hi").await.unwrap().0, "b");
        }
    });
}

/// The connections belong to the runtime that ends. A call that may be sent twice is answered
/// nevertheless; any other fails as by a lost connection. Later calls are not affected.
#[test]
fn calls_of_one_runtime_outlive_the_end_of_another() {
    let world = World::new();
    let (first, second) = (runtime(), runtime());
    let sender = world.sender();
    let host = first.block_on(async {
        let host = world.host("a").await;
        call(&sender, "/act", "hi").await.unwrap();
        host
    });
    let calls = |path: &'static str| {
        let mut calls = JoinSet::new();
        for _ in 0..20 {
            let sender = sender.clone();
            calls.spawn_on(
                async move { call(&sender, path, "sleep 100").await },
                second.handle(),
            );
        }
        calls
    };
    let (movable, fixed) = (calls("/look"), calls("/act"));
    second.block_on(async {
        while host.requests.load(Relaxed) < 41 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    drop(first);
    second.block_on(async {
        for answered in movable.join_all().await {
            answered.unwrap();
        }
        for answered in fixed.join_all().await {
            if let Err(error) = answered {
                assert_eq!(error.kind, FailureKind::NoAnswer);
                assert!(error.to_string().contains("connection lost"), "{error}");
            }
        }
        for _ in 0..20 {
            call(&sender, "/act", "hi").await.unwrap();
        }
        assert_eq!(sender.snapshot().nodes[0].in_flight, 0);
        world.client.close().await;
    });
}

/// Calls that wait for a node when their pool's runtime ends are served by the next one.
#[test]
fn calls_that_wait_outlive_the_end_of_another_runtime() {
    let world = World::new();
    let (first, second) = (runtime(), runtime());
    let sender = world.sender();
    let failed = first
        .block_on(begin(
            &sender,
            "/look",
            "hi",
            Some(Duration::from_millis(50)),
        ))
        .unwrap_err();
    assert_eq!(failed.kind, FailureKind::Deadline);
    let mut waiting = JoinSet::new();
    for _ in 0..20 {
        let sender = sender.clone();
        waiting.spawn_on(
            async move { call(&sender, "/act", "hi").await },
            second.handle(),
        );
    }
    second.block_on(async { tokio::time::sleep(Duration::from_millis(50)).await });
    drop(first);
    second.block_on(async {
        world.host("a").await;
        for answered in waiting.join_all().await {
            answered.unwrap();
        }
    });
}

/// The first snapshot is empty, and reports that the registry has not responded; a later one shows
/// the nodes, with or without a runtime.
#[test]
fn a_snapshot_outside_a_runtime_starts_nothing_and_spoils_nothing() {
    let world = World::new();
    let sender = world.sender();
    for _ in 0..2 {
        let snapshot = sender.snapshot();
        assert!(
            !snapshot.synced && snapshot.nodes.is_empty(),
            "{snapshot:?}"
        );
    }
    let runtime = runtime();
    runtime.block_on(async {
        world.host("a").await;
        for sender in [&sender, &world.sender()] {
            assert_eq!(call(sender, "/act", "hi").await.unwrap().0, "a");
        }
    });
    assert!(sender.snapshot().synced);
    assert_eq!(sender.snapshot().nodes.len(), 1);
    drop(runtime);
    sender.snapshot();
    self::runtime().block_on(async { call(&sender, "/act", "hi").await.unwrap() });
}

/// A call that is polled by an executor without a runtime returns an error, and does not panic.
#[test]
fn a_call_outside_a_runtime_is_an_error_and_spoils_nothing() {
    let world = World::new();
    let sender = world.sender();
    let mut outside = Box::pin(begin(&sender, "/act", "hi", None));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match outside.as_mut().poll(&mut context) {
        std::task::Poll::Ready(Err(error)) => assert_eq!(error.kind, FailureKind::NoRuntime),
        other => panic!("{other:?}"),
    }
    runtime().block_on(async {
        world.host("a").await;
        call(&sender, "/act", "hi").await.unwrap();
    });
}
