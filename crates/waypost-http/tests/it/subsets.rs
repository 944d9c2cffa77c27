//! Share of a client in a large service: the nodes that it connects when some are dead, and the
//! cost of several channels of one client.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use waypost_core::balance::{Decision, Filter, LeastRequest, Random, RoundRobin, Strategy};
use waypost_http::{ChannelConfig, ServiceChannel};

use crate::hostility::Hostility;
use crate::net::{Host, World, call, sender_of};

const LONG: Duration = Duration::from_secs(5);

fn at_most(max_peers: usize) -> ChannelConfig {
    let mut config = ChannelConfig::default();
    config.balance.max_peers = max_peers;
    config
}

fn dialled(hosts: &[Host]) -> usize {
    hosts.iter().map(|host| host.dialled.load(Relaxed)).sum()
}

fn open(hosts: &[Host]) -> usize {
    hosts.iter().map(|host| host.open.load(Relaxed)).sum()
}

/// Splits the hosts into those that a client has connected, and the others.
fn by_connection(hosts: &[Host]) -> (Vec<Host>, Vec<Host>) {
    hosts
        .iter()
        .cloned()
        .partition(|host| host.open.load(Relaxed) > 0)
}

fn picked(sender: &ServiceChannel) -> usize {
    sender
        .snapshot()
        .nodes
        .iter()
        .filter(|node| node.decision == Decision::Picked)
        .count()
}

/// Makes calls one after another; returns their number, and the longest time of one.
async fn calls_for(sender: &ServiceChannel, time: Duration) -> (usize, Duration) {
    let until = Instant::now() + time;
    let (mut calls, mut longest) = (0, Duration::ZERO);
    while Instant::now() < until {
        let start = Instant::now();
        call(sender, "/look", "hi").await.unwrap();
        longest = longest.max(start.elapsed());
        calls += 1;
        sleep(Duration::from_millis(50)).await;
    }
    (calls, longest)
}

#[tokio::test(start_paused = true)]
async fn every_client_of_a_service_of_which_half_is_dead_finds_the_other_half() {
    let hostilities = Hostility::all()
        .into_iter()
        .filter(|hostility| hostility.reads_no_request());
    for death in [None].into_iter().chain(hostilities.map(Some)) {
        let world = World::new();
        let hosts = world.hosts(12).await;
        for host in hosts.iter().step_by(2) {
            if death.is_some() {
                host.turn(death);
            } else {
                host.kill();
            }
        }
        for client in (0..10).map(|_| world.another_client()) {
            let sender = sender_of(&client, at_most(3));
            let start = Instant::now();
            call(&sender, "/act", "hi").await.unwrap();
            assert!(start.elapsed() <= LONG, "{death:?}: {:?}", start.elapsed());
            sleep(Duration::from_secs(20)).await;
            let alive = hosts
                .iter()
                .skip(1)
                .step_by(2)
                .filter(|host| host.open.load(Relaxed) > 0);
            assert_eq!(
                alive.count(),
                3,
                "{death:?}: the share is as large as it may be"
            );
            client.close().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_share_that_dies_is_replaced_by_nodes_beyond_it_and_given_back_later() {
    let world = World::new();
    let hosts = world.hosts(60).await;
    let sender = world.sender_with(at_most(20));
    calls_for(&sender, Duration::from_secs(1)).await;
    let (share, beyond) = by_connection(&hosts);
    assert_eq!(share.len(), 20);
    share.iter().for_each(Host::kill);
    let (calls, longest) = calls_for(&sender, Duration::from_secs(60)).await;
    assert!(
        calls > 500 && longest < Duration::from_secs(6),
        "{calls} calls, one took {longest:?}"
    );
    assert_eq!((open(&beyond), picked(&sender)), (20, 20));
    share.iter().for_each(Host::revive);
    calls_for(&sender, Duration::from_secs(60)).await;
    assert_eq!(
        (open(&share), open(&beyond), picked(&sender)),
        (20, 0, 20),
        "the nodes of this client are its own again"
    );
}

/// Returns configurations with equal balancing, and ones with other strategies or with filters that
/// exclude no node.
fn configurations() -> Vec<ChannelConfig> {
    let strategies: [Arc<dyn Strategy>; 4] = [
        Arc::new(Random),
        Arc::new(RoundRobin::default()),
        Arc::new(RoundRobin::default()),
        Arc::new(LeastRequest),
    ];
    let mut all: Vec<_> = (0..5).map(|_| at_most(20)).collect();
    all[1].wait_for_ready = Some(LONG);
    all[2].replay_limit = 1;
    all.extend(strategies.map(|strategy| {
        let mut config = at_most(20);
        config.balance.strategy = strategy;
        config
    }));
    all.extend((0..2).map(|_| {
        let mut config = at_most(20);
        config.balance.filters.push(Filter::predicate(|_| true));
        config
    }));
    all
}

#[tokio::test(start_paused = true)]
async fn channels_of_one_client_share_its_connections_whatever_they_differ_in() {
    let world = World::new();
    let hosts = world.hosts(60).await;
    let senders: Vec<_> = configurations()
        .into_iter()
        .map(|config| world.sender_with(config))
        .collect();
    for sender in &senders {
        call(sender, "/act", "hi").await.unwrap();
        sleep(Duration::from_secs(1)).await;
        assert_eq!(picked(sender), 20);
    }
    assert_eq!((open(&hosts), dialled(&hosts)), (20, 20));
}

#[tokio::test(start_paused = true)]
async fn a_channel_made_for_each_call_costs_no_connection() {
    let world = World::new();
    let hosts = world.hosts(60).await;
    let mut kinds = 0;
    for config in configurations().into_iter().cycle().take(200) {
        // Each call is the only user of the service while it lasts.
        call(&world.sender_with(config), "/act", "hi")
            .await
            .unwrap();
        sleep(Duration::from_secs(1)).await;
        kinds += 1;
    }
    assert_eq!((kinds, open(&hosts), dialled(&hosts)), (200, 20, 20));
}

#[tokio::test(start_paused = true)]
async fn a_channel_made_for_each_call_dials_dead_nodes_no_more_often() {
    let mut counts = Vec::new();
    for each in [false, true] {
        let world = World::new();
        let hosts = world.hosts(40).await;
        hosts.iter().take(30).for_each(Host::kill);
        let kept = world.sender_with(at_most(20));
        call(&kept, "/act", "hi").await.unwrap();
        for config in configurations().into_iter().cycle().take(200) {
            let sender = if each {
                world.sender_with(config)
            } else {
                kept.clone()
            };
            call(&sender, "/act", "hi").await.unwrap();
            sleep(Duration::from_millis(300)).await;
        }
        counts.push(dialled(&hosts));
    }
    assert!(
        counts[1] <= counts[0] * 3 / 2,
        "one channel dials {} times, one for each call {}",
        counts[0],
        counts[1]
    );
}

#[tokio::test(start_paused = true)]
async fn five_good_nodes_among_hundreds_of_dead_ones_are_found_by_every_new_client() {
    let world = World::new();
    let good = world.hosts(5).await;
    for i in 0..400 {
        world.register(&format!("dead{i}")).await;
    }
    for client in (0..6).map(|_| world.another_client()) {
        let sender = sender_of(&client, at_most(20));
        let start = Instant::now();
        call(&sender, "/act", "hi").await.unwrap();
        assert!(start.elapsed() <= LONG, "{:?}", start.elapsed());
        sleep(LONG).await;
        assert_eq!(picked(&sender), 5);
        client.close().await;
        assert_eq!(open(&good), 0);
    }
    // Dead nodes are still dialled, but not in a storm.
    let sender = world.sender_with(at_most(20));
    call(&sender, "/act", "hi").await.unwrap();
    sleep(Duration::from_secs(40)).await;
    let before = world.net.dials();
    sleep(Duration::from_secs(20)).await;
    let dials = world.net.dials() - before;
    assert!(
        (50..=1_000).contains(&dials),
        "{dials} dials of four hundred dead nodes in 20 s"
    );
}

#[tokio::test(start_paused = true)]
async fn dead_records_never_push_out_a_node_that_answers() {
    let world = World::new();
    let good = world.hosts(5).await;
    let sender = world.sender_with(at_most(10));
    calls_for(&sender, Duration::from_secs(1)).await;
    // Twenty processes a second register and die at once; their records expire later, as losses.
    for second in 0..45 {
        for i in 0..20 {
            world
                .register_for(&format!("crashed{second}x{i}"), Duration::from_secs(15))
                .await;
        }
        let (_, longest) = calls_for(&sender, Duration::from_secs(1)).await;
        assert!(
            longest < Duration::from_millis(100),
            "after {second} s a call took {longest:?}"
        );
    }
    assert!(
        good.iter()
            .all(|host| (host.open.load(Relaxed), host.dialled.load(Relaxed)) == (1, 1)),
        "one was given up"
    );
    // A process that starts among the dead is found, too.
    let late = world.host("late").await;
    calls_for(&sender, LONG).await;
    assert!(late.requests.load(Relaxed) > 0);
}

#[tokio::test(start_paused = true)]
async fn a_lost_node_without_a_connection_holds_no_place() {
    let world = World::new();
    let hosts = world.hosts(8).await;
    let sender = world.sender_with(at_most(2));
    let mut lost = BTreeSet::new();
    for round in 1..=3 {
        let (calls, longest) = calls_for(&sender, Duration::from_secs(10)).await;
        assert!(
            calls > 100 && longest < Duration::from_millis(500),
            "round {round}: {calls} calls, one took {longest:?}"
        );
        assert_eq!(picked(&sender), 2, "round {round}");
        for node in sender
            .snapshot()
            .nodes
            .into_iter()
            .filter(|node| node.decision == Decision::Picked)
        {
            let name = node.id.trim_start_matches("echo-n").to_owned();
            hosts[name.parse::<usize>().unwrap()].kill();
            world.memory.faults().remove_raw("echo", &node.id);
            assert!(lost.insert(name));
        }
    }
    assert_eq!(lost.len(), 6);
    calls_for(&sender, Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn nodes_that_greet_and_close_again_and_again_fill_no_place() {
    for life in [1, 30, 300, 900].map(Duration::from_millis) {
        for death in [
            Hostility::Closes(life),
            Hostility::SaysGoAway(life, h2::Reason::NO_ERROR),
        ] {
            let world = World::new();
            let hosts = world.hosts(12).await;
            hosts.iter().step_by(2).for_each(|host| host.turn(death));
            for client in (0..10).map(|_| world.another_client()) {
                let sender = sender_of(&client, at_most(3));
                sender.ready(LONG).await.unwrap();
                sleep(Duration::from_secs(20)).await;
                let mut short = 0;
                for _ in 0..20 {
                    sleep(Duration::from_millis(73)).await;
                    short += usize::from(picked(&sender) < 3);
                }
                // A node that was ready for a moment has just ended, and the next is being
                // connected.
                assert!(
                    short <= 4,
                    "{death:?}: fewer than three nodes are ready {short} times of 20"
                );
                client.close().await;
            }
        }
    }
}
