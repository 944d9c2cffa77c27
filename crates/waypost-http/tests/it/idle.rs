//! Connections that were idle for long: a firewall, a NAT or a suspended laptop may have dropped
//! them silently.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use waypost_http::ServiceChannel;

use crate::net::{Host, World, call};
use crate::support::all_used;

const REST: Duration = Duration::from_secs(600);
/// Maximum time of the first call after an idle period.
const FIRST: Duration = Duration::from_millis(1_500);

/// Returns a client of `nodes` nodes that has called all of them and then been idle.
async fn rested(nodes: usize) -> (World, Vec<Host>, ServiceChannel) {
    let world = World::new();
    let mut hosts = Vec::new();
    for i in 0..nodes {
        hosts.push(world.host(&format!("n{i}")).await);
    }
    let sender = world.sender();
    all_used(&sender).await;
    sleep(REST).await;
    (world, hosts, sender)
}

/// Makes a call; returns the time it took.
async fn timed(sender: &ServiceChannel, path: &str) -> Duration {
    let start = Instant::now();
    call(sender, path, "hi")
        .await
        .unwrap_or_else(|error| panic!("{path}: {error}"));
    start.elapsed()
}

#[tokio::test(start_paused = true)]
async fn the_first_call_after_a_rest_is_answered_though_all_connections_are_forgotten() {
    for path in ["/look", "/act"] {
        for nodes in [1, 3, 20] {
            let (_world, hosts, sender) = rested(nodes).await;
            hosts.iter().for_each(Host::forget_connections);
            let took = timed(&sender, path).await;
            assert!(took <= FIRST, "{path}, {nodes} nodes: {took:?}");
            // The failure of one connection causes all others to be verified: no later call is
            // delayed again.
            for _ in 0..nodes * 2 {
                let took = timed(&sender, path).await;
                assert!(
                    took <= Duration::from_millis(50),
                    "{path}, {nodes} nodes, later: {took:?}"
                );
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn all_calls_of_the_first_moment_after_a_rest_are_answered() {
    for path in ["/look", "/act"] {
        let (_world, hosts, sender) = rested(3).await;
        hosts.iter().for_each(Host::forget_connections);
        let mut calls = JoinSet::new();
        for _ in 0..100 {
            let sender = sender.clone();
            calls.spawn(async move { timed(&sender, path).await });
        }
        for took in calls.join_all().await {
            assert!(took <= FIRST, "{path}: {took:?}");
        }
        let received: usize = hosts.iter().map(|host| host.requests.load(Relaxed)).sum();
        let before = 3 + 100;
        assert!(received >= before, "{received}");
    }
}

#[tokio::test(start_paused = true)]
async fn connections_that_are_not_forgotten_are_kept() {
    for path in ["/look", "/act"] {
        let (_world, hosts, sender) = rested(3).await;
        hosts[0].forget_connections();
        for _ in 0..20 {
            let took = timed(&sender, path).await;
            assert!(took <= FIRST, "{path}: {took:?}");
        }
        sleep(Duration::from_secs(20)).await;
        let dialled: Vec<usize> = hosts
            .iter()
            .map(|host| host.dialled.load(Relaxed))
            .collect();
        assert!(
            dialled[0] > 1 && dialled[1..] == [1, 1],
            "{path}: {dialled:?}"
        );
    }
}
