//! Tests of the directory with the memory registry, in paused time.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};
use waypost_core::directory::{Config, Directory, Snapshot};
use waypost_core::memory::MemoryRegistry;
use waypost_core::record::{Key, Node, Service};
use waypost_core::registry::{
    AnyRegistry, DeregisterOptions, Error, Instance, RegisterOptions, Registry,
};

fn greeter(id: &str) -> Service {
    let mut service = Service::new("greeter");
    service
        .nodes
        .push(Node::with_id("greeter", id, "127.0.0.1:1"));
    service
}

async fn register(memory: &MemoryRegistry, id: &str) {
    let options = RegisterOptions {
        ttl: Duration::from_secs(3600),
        instance: Instance::from(id),
    };
    memory.register(&greeter(id), &options).await.unwrap();
}

fn directory(memory: &MemoryRegistry) -> Directory {
    Directory::new(AnyRegistry::new(memory.open()), Config::default())
}

/// Returns the IDs of the confirmed nodes, and of the suspects.
pub(crate) fn ids(snapshot: &Snapshot) -> (Vec<&str>, Vec<&str>) {
    let confirmed = snapshot
        .confirmed()
        .map(|entry| entry.node.id.as_str())
        .collect();
    (
        confirmed,
        snapshot
            .suspects()
            .map(|suspect| suspect.entry.node.id.as_str())
            .collect(),
    )
}

async fn settle() {
    sleep(Duration::from_millis(5)).await;
}

#[tokio::test(start_paused = true)]
async fn registrations_leaves_and_losses_are_distinguished() {
    let memory = MemoryRegistry::new();
    register(&memory, "a").await;
    register(&memory, "b").await;
    register(&memory, "c").await;
    let directory = directory(&memory);
    let mut subscription = directory.subscribe(&"greeter".parse().unwrap()).unwrap();
    assert!(subscription.synced().await);
    assert_eq!(
        ids(&subscription.snapshot()).0,
        ["greeter-a", "greeter-b", "greeter-c"]
    );
    memory
        .deregister(&greeter("a"), &DeregisterOptions::ours(Instance::from("a")))
        .await
        .unwrap();
    memory.faults().expire(&Key {
        service: "greeter".into(),
        id: "greeter-b".into(),
    });
    settle().await;
    assert_eq!(
        ids(&subscription.snapshot()),
        (vec!["greeter-c"], vec!["greeter-b"])
    );
    sleep(Duration::from_secs(15)).await;
    assert_eq!(ids(&subscription.snapshot()), (vec!["greeter-c"], vec![]));
    directory.close().await;
}

#[tokio::test(start_paused = true)]
async fn an_outage_ages_the_picture_and_changes_nothing_else() {
    let memory = MemoryRegistry::new();
    register(&memory, "a").await;
    let directory = directory(&memory);
    let mut subscription = directory.subscribe(&"greeter".parse().unwrap()).unwrap();
    subscription.synced().await;
    let before = subscription.snapshot();
    memory.faults().set_unreachable(true);
    sleep(Duration::from_secs(600)).await;
    let during = subscription.snapshot();
    assert_eq!(
        (ids(&during), during.generation),
        (ids(&before), before.generation)
    );
    assert!(
        during.staleness(Instant::now()) >= Duration::from_secs(599),
        "{:?}",
        during.staleness(Instant::now())
    );
    assert!(during.outage.clone().unwrap().why.contains("unreachable"));
    memory.faults().set_unreachable(false);
    sleep(Duration::from_secs(5)).await;
    let after = subscription.snapshot();
    assert_eq!(
        (after.outage.clone(), after.staleness(Instant::now())),
        (None, Duration::ZERO)
    );
    assert_eq!(
        (ids(&after), after.generation),
        (ids(&before), before.generation)
    );
    directory.close().await;
}

#[tokio::test(start_paused = true)]
async fn an_empty_answer_of_the_registry_never_empties_the_picture() {
    let memory = MemoryRegistry::new();
    register(&memory, "a").await;
    let directory = directory(&memory);
    let mut subscription = directory.subscribe(&"greeter".parse().unwrap()).unwrap();
    subscription.synced().await;
    memory.faults().cut();
    memory.faults().remove_raw("greeter", "greeter-a");
    settle().await;
    assert_eq!(ids(&subscription.snapshot()), (vec![], vec!["greeter-a"]));
    directory.close().await;
}

#[tokio::test(start_paused = true)]
async fn one_watch_serves_all_and_ends_ten_minutes_after_the_last() {
    let before = Handle::current().metrics().num_alive_tasks();
    let memory = MemoryRegistry::new();
    let directory = directory(&memory);
    let name = "greeter".parse().unwrap();
    let first = directory.subscribe(&name).unwrap();
    let second = directory.subscribe(&name).unwrap();
    settle().await;
    assert_eq!(Handle::current().metrics().num_alive_tasks(), before + 1);
    drop((first, second));
    sleep(Duration::from_secs(590)).await;
    assert_eq!(Handle::current().metrics().num_alive_tasks(), before + 1);
    sleep(Duration::from_secs(20)).await;
    assert_eq!(Handle::current().metrics().num_alive_tasks(), before);
    register(&memory, "a").await;
    let mut again = directory.subscribe(&name).unwrap();
    assert!(again.synced().await);
    assert_eq!(ids(&again.snapshot()).0, ["greeter-a"]);
    directory.close().await;
    assert_eq!(Handle::current().metrics().num_alive_tasks(), before);
    assert!(matches!(directory.subscribe(&name), Err(Error::Closed)));
}
