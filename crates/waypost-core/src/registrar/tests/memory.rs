//! Tests of the registrar with the memory registry, as its watchers see it.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::memory::MemoryRegistry;
use crate::record::{Node, Service};
use crate::registrar::Registration;
use crate::registry::{AnyRegistry, Event, Registry, WatchOptions, Watcher};

fn greeter(address: &str) -> Service {
    let mut service = Service::new("greeter");
    service.nodes.push(Node::with_id("greeter", "1", address));
    service
}

async fn next(watcher: &mut Watcher) -> Event {
    timeout(Duration::from_secs(60), watcher.next())
        .await
        .expect("it comes")
        .expect("it goes on")
        .expect("no trouble")
}

#[tokio::test(start_paused = true)]
async fn a_removed_record_is_back_within_an_interval_and_a_standing_one_costs_no_write() {
    let registry = MemoryRegistry::new();
    let mut watcher = registry
        .watch(&WatchOptions::service("greeter"))
        .await
        .unwrap();
    assert_eq!(next(&mut watcher).await, Event::Reset(vec![]));
    let handle = AnyRegistry::new(registry.open());
    let registration = Registration::builder(handle.clone(), greeter("10.0.0.7:7000"))
        .start()
        .unwrap();
    let Event::Created(first) = next(&mut watcher).await else {
        panic!()
    };
    sleep(Duration::from_secs(60)).await;
    assert_eq!(
        registry.faults().writes(),
        1,
        "it is registered for four TTLs, written once"
    );
    registry.faults().remove_raw("greeter", "greeter-1");
    assert_eq!(next(&mut watcher).await, Event::Deleted(first.key()));
    let gone = Instant::now();
    assert_eq!(next(&mut watcher).await, Event::Created(first.clone()));
    assert!(gone.elapsed() <= Duration::from_secs(5));

    registration.close().await.unwrap();
    let Event::Updated(leaving) = next(&mut watcher).await else {
        panic!()
    };
    assert!(leaving.node.is_leaving());
    assert_eq!(next(&mut watcher).await, Event::Deleted(first.key()));
}

#[tokio::test(start_paused = true)]
async fn an_outage_longer_than_the_ttl_is_over_within_its_backoff() {
    let registry = MemoryRegistry::new();
    let handle = AnyRegistry::new(registry.open());
    let registration = Registration::builder(handle, greeter("10.0.0.7:7000"))
        .start()
        .unwrap();
    registration.registered().await.unwrap();
    registry.faults().set_unreachable(true);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(registration.state().name(), "failing");
    registry.faults().set_unreachable(false);
    assert!(
        registry.get_service("greeter").await.is_err(),
        "the record ran out"
    );
    timeout(Duration::from_secs(2), registration.registered())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(registry.get_service("greeter").await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_id_held_by_another_is_reported_and_taken_when_it_is_free() {
    let registry = MemoryRegistry::new();
    let (first, second) = (
        AnyRegistry::new(registry.open()),
        AnyRegistry::new(registry.open()),
    );
    let holder = Registration::builder(first, greeter("10.0.0.7:7000"))
        .start()
        .unwrap();
    holder.registered().await.unwrap();
    let other = Registration::builder(second, greeter("127.0.0.1:7001"))
        .start()
        .unwrap();
    let mut watch = other.watch();
    let failing = watch
        .wait_for(|state| state.name() == "failing")
        .await
        .unwrap()
        .clone();
    assert!(
        format!("{failing:?}").contains("10.0.0.7:7000"),
        "it names the holder: {failing:?}"
    );
    sleep(Duration::from_secs(30)).await;
    assert!(holder.state().is_registered(), "an id is not fought over");
    holder.close().await.unwrap();
    timeout(Duration::from_secs(2), other.registered())
        .await
        .unwrap()
        .unwrap();
    let services = registry.get_service("greeter").await.unwrap();
    assert_eq!(services[0].nodes[0].address, "127.0.0.1:7001");
}
