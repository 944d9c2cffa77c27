//! Cost of one event of a large service, as the number of nodes examined.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::sleep;
use waypost_core::balance::Filter;
use waypost_http::ChannelConfig;

use crate::net::{World, begin, call, service};

const NODES: usize = 5_000;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Counter of filter calls and dials since the last reading.
struct Counter<'a> {
    world: &'a World,
    looks: Arc<AtomicUsize>,
    dials: usize,
}

impl Counter<'_> {
    async fn take(&mut self) -> (usize, usize) {
        sleep(Duration::from_millis(500)).await;
        let before = std::mem::replace(&mut self.dials, self.world.net.dials());
        (self.looks.swap(0, Relaxed), self.dials - before)
    }
}

#[tokio::test(start_paused = true)]
async fn one_event_among_thousands_of_nodes_looks_at_no_other() {
    let world = World::new();
    let hosts = world.hosts(NODES).await;
    let looks = Arc::new(AtomicUsize::new(0));
    let mut config = ChannelConfig::default();
    config.balance.max_peers = 10;
    let asked = Arc::clone(&looks);
    config.balance.filters.push(Filter::predicate(move |_| {
        asked.fetch_add(1, Relaxed);
        true
    }));
    let sender = world.sender_with(config);
    call(&sender, "/act", "hi").await.unwrap();
    let mut counter = Counter {
        world: &world,
        looks,
        dials: 0,
    };
    let first = counter.take().await;
    assert!(
        (NODES..=NODES * 2).contains(&first.0) && first.1 == 10,
        "a new channel looks at all once: {first:?}"
    );

    let mut used = hosts
        .iter()
        .enumerate()
        .filter(|(_, host)| host.open.load(Relaxed) > 0)
        .map(|(i, _)| i);
    let (dying, leaving) = (used.next().unwrap(), used.next().unwrap());
    let unused = hosts
        .iter()
        .position(|host| host.open.load(Relaxed) == 0)
        .unwrap();
    let mut costs = Vec::new();
    let mut note = |event: String, (looks, dials): (usize, usize), most_dials: usize| {
        costs.push((event, looks, dials));
        assert!(looks <= 4 && dials <= most_dials, "{costs:?}");
    };
    for (i, node) in [(leaving, "a node in use"), (unused, "a node not in use")] {
        let mut described = service(&format!("n{i}"));
        described.nodes[0].metadata.insert("zone", "b");
        world.register_service(&described, DAY).await;
        note(
            format!("{node} has other metadata"),
            counter.take().await,
            0,
        );
        world
            .memory
            .faults()
            .remove_raw("echo", &format!("echo-n{i}"));
        note(format!("{node} is lost"), counter.take().await, 0);
        world.register_service(&described, DAY).await;
        note(format!("{node} registers again"), counter.take().await, 0);
        world.leave(&format!("n{i}")).await;
        note(format!("{node} leaves"), counter.take().await, 1);
    }
    world.host("new").await;
    note("a node joins".into(), counter.take().await, 1);
    hosts[dying].kill();
    note("a node dies".into(), counter.take().await, 20);
    hosts[dying].revive();
    sleep(Duration::from_secs(40)).await;
    note("it is connected again".into(), counter.take().await, 20);
    begin(&sender, "/act", "wait", Some(Duration::from_millis(100)))
        .await
        .unwrap_err();
    note("a call fails".into(), counter.take().await, 0);
}
