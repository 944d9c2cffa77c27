//! Tests of ended runtimes, panics of the task, and calls from outside a runtime: the reported
//! state, and the recovery.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::scripted::{Mood, Scripted};
use crate::record::{Node, Service};
use crate::registrar::{Registration, State};
use crate::registry::AnyRegistry;

const SOON: Duration = Duration::from_secs(10);

fn registration(registry: &Scripted) -> Registration {
    let mut service = Service::new("greeter");
    service
        .nodes
        .push(Node::with_id("greeter", "1", "10.0.0.7:7000"));
    Registration::builder(AnyRegistry::new(registry.clone()), service)
        .start()
        .unwrap()
}

fn runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

/// Returns a registration that was registered on `runtime`.
fn registered_on(runtime: &Runtime, registry: &Scripted) -> Registration {
    runtime.block_on(async {
        let registration = registration(registry);
        timeout(SOON, registration.registered())
            .await
            .unwrap()
            .unwrap();
        registration
    })
}

/// Returns a registration whose runtime has ended.
fn orphaned(registry: &Scripted) -> Registration {
    let runtime = runtime();
    let registration = registered_on(&runtime, registry);
    runtime.shutdown_timeout(SOON);
    registration
}

fn why(registration: &Registration) -> String {
    match registration.state() {
        State::Failing {
            why,
            registered_before: true,
            ..
        } => why,
        state => panic!("{state:?}"),
    }
}

#[test]
fn a_start_outside_a_runtime_is_an_error() {
    let mut service = Service::new("greeter");
    service
        .nodes
        .push(Node::with_id("greeter", "1", "10.0.0.7:7000"));
    let builder = Registration::builder(AnyRegistry::new(Scripted::new(Mood::Well)), service);
    insta::assert_snapshot!(builder.start().unwrap_err(), @"registration: cannot start outside a tokio runtime; call start inside one");
}

#[test]
fn a_registration_whose_runtime_has_ended_reports_it_and_goes_on_in_the_next() {
    let registry = Scripted::new(Mood::Well);
    let registration = orphaned(&registry);
    let instance = registry.node().unwrap().instance().unwrap().to_owned();
    insta::assert_snapshot!(why(&registration), @"the tokio runtime that kept the registration has ended; it continues when the registration is used inside another");
    for _ in 0..3 {
        registry.lose();
        let next = runtime();
        next.block_on(async {
            assert!(!registration.state().is_left());
            timeout(SOON, registration.registered())
                .await
                .unwrap()
                .unwrap();
            assert_eq!(
                registry.node().unwrap().instance(),
                Some(instance.as_str()),
                "as the same instance"
            );
            registration
                .update(|metadata| metadata.insert("zone", "eu-1"))
                .unwrap();
        });
    }
    runtime().block_on(async { timeout(SOON, registration.close()).await.unwrap().unwrap() });
    assert_eq!(registry.node(), None);
}

#[test]
fn close_from_another_runtime_takes_the_record_out() {
    let registry = Scripted::new(Mood::Well);
    let registration = orphaned(&registry);
    runtime().block_on(async { timeout(SOON, registration.close()).await.unwrap().unwrap() });
    assert_eq!(registry.node(), None);
}

#[test]
fn a_drain_in_another_runtime_takes_the_record_out() {
    let registry = Scripted::new(Mood::Well);
    let registration = orphaned(&registry);
    let drain = registration.drain_on(async {});
    runtime().block_on(async { timeout(SOON, drain).await.unwrap() });
    assert_eq!(registry.node(), None);
    assert!(registration.state().is_left());
}

#[test]
fn who_waits_in_another_runtime_takes_the_task_over() {
    let registry = Scripted::new(Mood::Away);
    let (first, second) = (runtime(), runtime());
    let registration = first.block_on(async { registration(&registry) });
    let waits = std::thread::scope(|scope| {
        let waits = scope
            .spawn(|| second.block_on(async { timeout(SOON, registration.registered()).await }));
        second.block_on(registration.keeper.reach(|state| state.name() == "failing"));
        first.shutdown_timeout(SOON);
        registry.set(Mood::Well);
        waits.join().unwrap()
    });
    waits.unwrap().unwrap();
    second.block_on(registration.close()).unwrap();
}

#[test]
fn a_task_on_a_runtime_that_is_not_driven_is_taken_over_to_leave() {
    let registry = Scripted::new(Mood::Well);
    let idle = Builder::new_current_thread().enable_all().build().unwrap();
    let registration = registered_on(&idle, &registry);
    let paused = Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    paused.block_on(registration.close()).unwrap();
    assert_eq!(registry.node(), None);
}

#[test]
fn outside_any_runtime_close_is_an_error_and_does_not_hang() {
    let registration = orphaned(&Scripted::new(Mood::Well));
    let waker = std::task::Waker::noop();
    let mut close = std::pin::pin!(registration.close());
    let std::task::Poll::Ready(closed) = close
        .as_mut()
        .poll(&mut std::task::Context::from_waker(waker))
    else {
        panic!("hangs")
    };
    insta::assert_snapshot!(closed.unwrap_err(), @"registration: cannot leave outside a tokio runtime; call close inside one");
}

/// Subscriber that panics at the first event: user code that runs in the registrar's own task.
#[derive(Default)]
struct Panics(AtomicBool);

impl Subscriber for Panics {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().contains("registrar")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {
        assert!(self.0.swap(true, Ordering::SeqCst), "intended panic");
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[test]
fn a_panic_in_the_task_is_followed_by_another_task() {
    let registry = Scripted::new(Mood::Well);
    let runtime = Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    tracing::subscriber::with_default(Panics::default(), || {
        runtime.block_on(async {
            let registration = registration(&registry);
            let failing = registration
                .keeper
                .reach(|state| state.name() == "failing")
                .await;
            assert!(
                format!("{failing:?}").contains("the registrar panicked and is started again"),
                "{failing:?}"
            );
            registration.registered().await.unwrap();
            registration.close().await.unwrap();
        });
    });
    assert_eq!(registry.node(), None);
}
