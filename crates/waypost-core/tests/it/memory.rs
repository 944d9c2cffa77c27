//! Tests of the memory registry: the conformance suite, and tests that need its fault injection or
//! clock.

use std::time::Duration;

use tokio::time::{Instant, advance};
use waypost_conformance::{Harness, RawChange, Time};
use waypost_core::memory::MemoryRegistry;
use waypost_core::record::{Key, Node, Service};
use waypost_core::registry::{
    AnyRegistry, DeregisterOptions, Error, Event, Instance, RegisterOptions, Registry, Result,
    WatchOptions,
};

struct Memory(MemoryRegistry);

impl Harness for Memory {
    async fn open(&self) -> Result<AnyRegistry> {
        Ok(AnyRegistry::new(self.0.open()))
    }

    async fn batch(&self, changes: Vec<RawChange>) -> Result<()> {
        self.0.faults().batch(changes);
        Ok(())
    }

    async fn expire(&self, key: &Key) -> Result<()> {
        self.0.faults().expire(key);
        Ok(())
    }

    async fn cut(&self) -> Result<()> {
        self.0.faults().cut();
        Ok(())
    }

    fn may_skip(&self) -> bool {
        false
    }
}

waypost_conformance::suite!(Time::Paused, || Memory(MemoryRegistry::new()));

const TTL: Duration = Duration::from_secs(15);

fn service(address: &str) -> Service {
    let mut service = Service::new("greeter");
    service.nodes.push(Node::with_id("greeter", "1", address));
    service
}

fn owner() -> RegisterOptions {
    RegisterOptions {
        ttl: TTL,
        instance: Instance::random(),
    }
}

fn key() -> Key {
    Key {
        service: "greeter".into(),
        id: "greeter-1".into(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_runs_out_when_its_ttl_is_over_and_not_before() {
    let (registry, options, begun) = (MemoryRegistry::new(), owner(), Instant::now());
    let mut watcher = registry.watch(&WatchOptions::all()).await.unwrap();
    registry.register(&service("h:1"), &options).await.unwrap();
    advance(Duration::from_secs(10)).await;
    registry.register(&service("h:1"), &options).await.unwrap();
    watcher.next().await.unwrap().unwrap();
    assert_eq!(
        watcher.next().await.unwrap().unwrap(),
        Event::Deleted(key())
    );
    let over = begun
        .elapsed()
        .saturating_sub(Duration::from_secs(10) + TTL);
    assert!(
        begun.elapsed() >= Duration::from_secs(10) + TTL && over <= Duration::from_millis(2),
        "{:?}",
        begun.elapsed()
    );
    assert!(registry.list_services().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_dropped_handle_leaves_its_record_to_its_ttl() {
    let registry = MemoryRegistry::new();
    let dead = registry.open();
    dead.register(&service("h:1"), &owner()).await.unwrap();
    drop(dead);
    assert_eq!(registry.list_services().await.unwrap().len(), 1);
    assert!(matches!(
        registry.register(&service("h:2"), &owner()).await,
        Err(Error::IdTaken { .. })
    ));
    advance(TTL).await;
    assert!(registry.list_services().await.unwrap().is_empty());
    registry.register(&service("h:2"), &owner()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn only_a_first_write_takes_over() {
    let (first, options) = (MemoryRegistry::new(), owner());
    let (second, heir) = (first.open(), owner());
    first.register(&service("h:1"), &options).await.unwrap();
    second.register(&service("h:1"), &heir).await.unwrap();
    for _ in 0..3 {
        assert!(matches!(
            first.register(&service("h:1"), &options).await,
            Err(Error::IdTaken { .. })
        ));
        second.register(&service("h:1"), &heir).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_without_an_owner_is_repaired() {
    let registry = MemoryRegistry::new();
    registry
        .faults()
        .put_raw("greeter", "greeter-1", service("h:9").to_json());
    assert_eq!(
        registry.get_service("greeter").await.unwrap()[0].nodes[0].address,
        "h:9"
    );
    registry.register(&service("h:1"), &owner()).await.unwrap();
    assert_eq!(
        registry.get_service("greeter").await.unwrap()[0].nodes[0].address,
        "h:1"
    );
    registry.faults().put_raw("greeter", "greeter-1", "garbage");
    assert_eq!(registry.skipped(None).count, 1);
}

#[tokio::test(start_paused = true)]
async fn an_unchanged_heartbeat_costs_no_write() {
    let (registry, options) = (MemoryRegistry::new(), owner());
    let faults = registry.faults();
    for _ in 0..5 {
        registry.register(&service("h:1"), &options).await.unwrap();
    }
    assert_eq!(faults.writes(), 1);
    registry
        .deregister(&service("h:1"), &DeregisterOptions::ours(options.instance))
        .await
        .unwrap();
    assert_eq!(faults.writes(), 3);
}

#[tokio::test(start_paused = true)]
async fn unreachable_is_one_error_then_a_reset() {
    let (registry, options) = (MemoryRegistry::new(), owner());
    registry.register(&service("h:1"), &options).await.unwrap();
    let mut watcher = registry.watch(&WatchOptions::all()).await.unwrap();
    watcher.next().await.unwrap().unwrap();
    registry.faults().set_unreachable(true);
    assert!(matches!(
        registry.list_services().await,
        Err(Error::Unavailable { .. })
    ));
    assert!(matches!(
        registry.register(&service("h:1"), &options).await,
        Err(Error::Unavailable { .. })
    ));
    let mut late = registry.watch(&WatchOptions::all()).await.unwrap();
    for watcher in [&mut watcher, &mut late] {
        assert!(matches!(
            watcher.next().await,
            Some(Err(Error::Unavailable { .. }))
        ));
    }
    advance(TTL).await;
    registry.faults().set_unreachable(false);
    for watcher in [&mut watcher, &mut late] {
        assert_eq!(
            watcher.next().await.unwrap().unwrap(),
            Event::Reset(Vec::new())
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_a_timeout_after_the_deed() {
    let (registry, options) = (MemoryRegistry::new(), owner());
    registry.faults().lose_answers(1);
    assert!(matches!(
        registry.register(&service("h:1"), &options).await,
        Err(Error::Timeout { .. })
    ));
    registry.register(&service("h:1"), &options).await.unwrap();
    assert_eq!(registry.faults().writes(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_takes_as_long_as_set_and_no_longer_than_the_timeout() {
    let (registry, begun) = (MemoryRegistry::new(), Instant::now());
    registry.faults().set_delay(Duration::from_secs(1));
    registry.register(&service("h:1"), &owner()).await.unwrap();
    assert_eq!(begun.elapsed(), Duration::from_secs(1));
    registry.faults().set_delay(Duration::from_secs(60));
    assert!(matches!(
        registry.list_services().await,
        Err(Error::Timeout { .. })
    ));
    assert_eq!(begun.elapsed(), Duration::from_secs(3));
}
