//! Services of many nodes: the number of connected nodes, and the time until they are.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::task::JoinHandle;
use waypost_core::balance::Decision;
use waypost_core::peer::Exclusion;
use waypost_http::{ChannelConfig, ServiceChannel};

use crate::net::{Host, World, call, calls_at_once};

fn count(sender: &ServiceChannel, decision: Decision) -> usize {
    sender
        .snapshot()
        .nodes
        .iter()
        .filter(|node| node.decision == decision)
        .count()
}

#[tokio::test(start_paused = true)]
async fn at_most_max_peers_are_connected_sixteen_at_a_time() {
    let world = World::new();
    let mut hosts = Vec::new();
    for i in 0..130 {
        hosts.push(world.host(&format!("n{i}")).await);
    }
    let sender = world.sender();
    sender.ready(Duration::from_secs(1)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(count(&sender, Decision::Picked), 100);
    assert_eq!(
        count(&sender, Decision::Excluded(Exclusion::OutsideSubset)),
        30
    );
    let open = || {
        hosts
            .iter()
            .filter(|host| host.open.load(Relaxed) > 0)
            .count()
    };
    assert_eq!((open(), world.net.most_dials_at_once()), (100, 16));
    // One node of the share leaves: another takes its slot, and no other changes.
    let gone = sender
        .snapshot()
        .nodes
        .into_iter()
        .find(|node| node.decision == Decision::Picked)
        .unwrap();
    let dialled =
        |hosts: &[Host]| -> usize { hosts.iter().map(|host| host.dialled.load(Relaxed)).sum() };
    let before = dialled(&hosts);
    world.leave(gone.id.trim_start_matches("echo-")).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(
        (count(&sender, Decision::Picked), dialled(&hosts) - before),
        (100, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn each_prepared_subset_has_a_share_of_its_own() {
    let world = World::new();
    for i in 0..10 {
        world.host(&format!("n{i}")).await;
    }
    let mut config = ChannelConfig::default();
    config.balance.max_peers = 2;
    let odd =
        |entry: &waypost_core::record::Entry| entry.node.id.ends_with(['1', '3', '5', '7', '9']);
    let odd = waypost_core::balance::Filters::default()
        .and(waypost_core::balance::Filter::predicate(odd));
    config.filtered.insert("odd".into(), odd);
    let whole = world.sender_with(config);
    let odd = whole.filtered("odd").unwrap();
    for sender in [&whole, &odd] {
        sender.ready(Duration::from_secs(1)).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(count(sender, Decision::Picked), 2);
    }
    for _ in 0..20 {
        let (node, ..) = call(&odd, "/act", "hi").await.unwrap();
        assert!(node.ends_with(['1', '3', '5', '7', '9']), "{node}");
    }
    assert!(whole.filtered("even").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_service_without_channels_is_let_go_after_ten_minutes_and_found_again() {
    let world = World::new();
    let host = world.host("a").await;
    let open = || host.open.load(Relaxed);
    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let before = tasks();
    let sender = world.sender();
    call(&sender, "/act", "hi").await.unwrap();
    tokio::time::sleep(Duration::from_secs(1800)).await;
    assert_eq!(
        open(),
        1,
        "a channel that reports nothing keeps its connections"
    );
    drop(sender);
    tokio::time::sleep(Duration::from_secs(590)).await;
    assert_eq!(open(), 1);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(open(), 0);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(tasks(), before, "the watch goes ten minutes later");
    call(&world.sender(), "/act", "hi").await.unwrap();
}

/// Answers the calls that wait at the hosts until all calls have ended.
async fn answer_all<T>(hosts: &[Host], calls: &[JoinHandle<T>]) {
    while !calls.iter().all(JoinHandle::is_finished) {
        hosts.iter().for_each(|host| host.answers.notify_waiters());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn connections_that_a_burst_opened_are_closed_when_it_is_over_and_no_call_is_lost() {
    let world = World::new();
    let host = world.host("a").await;
    let sender = world.sender();
    sender.ready(Duration::from_secs(1)).await.unwrap();
    let burst = async |number: usize| {
        let calls = calls_at_once(&sender, number, "/act", "wait");
        tokio::time::sleep(Duration::from_secs(1)).await;
        answer_all(std::slice::from_ref(&host), &calls).await;
        for call in calls {
            assert_eq!(call.await.unwrap().unwrap().1, 1);
        }
    };
    burst(150).await;
    let (open, dialled) = (|| host.open.load(Relaxed), host.dialled.load(Relaxed));
    assert!(open() > 1 && open() == dialled, "{} of {dialled}", open());
    // As many calls as one connection carries easily, for the whole time.
    for _ in 0..250 {
        burst(10).await;
    }
    assert_eq!((open(), host.dialled.load(Relaxed)), (1, dialled));
}

/// Nodes that become ready one after another share the load in the end: the first needs no more
/// connections than the last.
#[tokio::test(start_paused = true)]
async fn a_burst_at_the_start_opens_no_more_connections_than_all_nodes_need() {
    let world = World::new();
    let hosts = world.hosts(4).await;
    for (host, delay) in hosts.iter().zip([0, 20, 40, 60]) {
        host.delay_dials(Duration::from_millis(delay));
    }
    let sender = world.sender();
    let calls = calls_at_once(&sender, 400, "/act", "wait");
    tokio::time::sleep(Duration::from_millis(500)).await;
    answer_all(&hosts, &calls).await;
    for call in calls {
        call.await.unwrap().unwrap();
    }
    let dialled: Vec<_> = hosts
        .iter()
        .map(|host| host.dialled.load(Relaxed))
        .collect();
    assert_eq!(dialled, [1; 4]);
}

/// Connections that a node needed alone are closed when others share the load, although they are
/// well used.
#[tokio::test(start_paused = true)]
async fn connections_that_one_node_needed_alone_are_closed_when_others_have_come() {
    let world = World::new();
    let first = world.host("a").await;
    let sender = world.sender();
    sender.ready(Duration::from_secs(1)).await.unwrap();
    let callers: Vec<_> = (0..160)
        .map(|_| {
            let sender = sender.clone();
            tokio::spawn(async move {
                loop {
                    call(&sender, "/act", "wait").await.unwrap();
                }
            })
        })
        .collect();
    let mut hosts = vec![first.clone()];
    let serve = async |hosts: &[Host], seconds: u64| {
        for _ in 0..seconds {
            tokio::time::sleep(Duration::from_secs(1)).await;
            hosts.iter().for_each(|host| host.answers.notify_waiters());
        }
    };
    serve(&hosts, 5).await;
    assert_eq!(first.open.load(Relaxed), 4);
    for name in ["b", "c", "d"] {
        hosts.push(world.host(name).await);
    }
    serve(&hosts, 240).await;
    let open: Vec<_> = hosts.iter().map(|host| host.open.load(Relaxed)).collect();
    assert_eq!(open, [1; 4]);
    assert!(
        callers.iter().all(|caller| !caller.is_finished()),
        "no call has failed"
    );
    callers.iter().for_each(JoinHandle::abort);
}

/// Frozen nodes accept connections and never send anything. If they held dial slots, the good nodes
/// would wait for their timeouts.
#[tokio::test(start_paused = true)]
async fn a_few_good_nodes_among_many_frozen_ones_are_found_at_once() {
    for (frozen, good) in [(96, 4), (99, 1)] {
        for round in 0..12 {
            let world = World::new();
            for i in 0..frozen + good {
                let host = world.host(&format!("n{i}")).await;
                if (i + 1) % ((frozen + good) / good) != 0 {
                    host.mute();
                }
            }
            let what = format!("{good} good of {}, round {round}", frozen + good);
            let sender = world.sender();
            let start = tokio::time::Instant::now();
            let (_, attempts, _) = call(&sender, "/act", "hi")
                .await
                .unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(attempts, 1, "{what}");
            assert!(
                start.elapsed() <= Duration::from_secs(1),
                "{what}: the first call took {:?}",
                start.elapsed()
            );
            while count(&sender, Decision::Picked) < good {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert!(
                start.elapsed() <= Duration::from_millis(1_500),
                "{what}: all after {:?}",
                start.elapsed()
            );
        }
    }
}
