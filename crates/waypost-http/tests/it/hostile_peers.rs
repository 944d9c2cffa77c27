//! Peers that end each connection: the number of their dials, and the cost to calls of other peers.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use waypost_http::ServiceChannel;

use crate::hostility::Hostility;
use crate::net::{World, begin, call};

/// Maximum number of dials of one peer in a minute: a backoff of up to five seconds with full
/// jitter makes 32 of them, and connections that live for a second 60.
const DIALS_A_MINUTE: usize = 64;

/// Makes calls one after another for more than a minute; returns the errors of those that failed.
async fn call_for_a_minute(sender: &ServiceChannel, path: &str) -> Vec<String> {
    let until = Instant::now() + Duration::from_secs(60);
    let mut failures = Vec::new();
    while Instant::now() < until {
        if let Err(error) = begin(sender, path, "hi", Some(Duration::from_secs(5))).await {
            failures.push(error.to_string());
        }
        sleep(Duration::from_millis(370)).await;
    }
    failures
}

/// Makes calls concurrently, and returns the time of the slowest.
async fn together(sender: &ServiceChannel, calls: usize) -> Duration {
    let start = Instant::now();
    let mut under_way = JoinSet::new();
    for _ in 0..calls {
        let sender = sender.clone();
        under_way.spawn(async move { call(&sender, "/look", "hi").await.unwrap() });
    }
    under_way.join_all().await;
    start.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_hostile_peer_is_never_dialled_in_a_loop_whatever_it_does() {
    for hostility in Hostility::all() {
        let world = World::new();
        let host = world.host("a").await;
        host.turn(hostility);
        let failures = call_for_a_minute(&world.sender(), "/look").await;
        let dialled = host.dialled.load(Relaxed);
        assert!(
            (8..=DIALS_A_MINUTE).contains(&dialled),
            "{hostility:?}: {dialled} dials in a minute"
        );
        assert!(!failures.is_empty(), "{hostility:?}: served");
        host.turn(None);
        call(&world.sender(), "/look", "hi").await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn beside_a_good_node_a_hostile_peer_fails_no_call() {
    for hostility in Hostility::all() {
        let world = World::new();
        let (good, hostile) = (world.host("good").await, world.host("hostile").await);
        hostile.turn(hostility);
        let sender = world.sender();
        let path = if hostility.reads_no_request() {
            "/act"
        } else {
            "/look"
        };
        let failures = call_for_a_minute(&sender, path).await;
        assert!(
            failures.is_empty(),
            "{hostility:?}: {} failed, the first: {}",
            failures.len(),
            failures[0]
        );
        let dialled = hostile.dialled.load(Relaxed);
        assert!(
            (8..=DIALS_A_MINUTE).contains(&dialled),
            "{hostility:?}: {dialled} dials in a minute"
        );
        assert_eq!(good.dialled.load(Relaxed), 1, "{hostility:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_asked_for_calm_long_ago_is_found_out_as_soon_as_any_other() {
    for (pause, longest) in [
        (Duration::from_secs(9 * 60), 4),
        (Duration::from_secs(2), 7),
    ] {
        let world = World::new();
        let (a, b) = (world.host("a").await, world.host("b").await);
        let sender = world.sender();
        for _ in 0..6 {
            call(&sender, "/look", "hi").await.unwrap();
            a.ask_for_calm();
            sleep(pause).await;
        }
        assert!(
            a.dialled.load(Relaxed) > 6,
            "each connection got ENHANCE_YOUR_CALM"
        );
        together(&sender, 20).await;
        a.freeze(true);
        let before = b.requests.load(Relaxed);
        let slowest = together(&sender, 20).await;
        assert_eq!(b.requests.load(Relaxed) - before, 20);
        assert!(
            slowest > Duration::from_secs(1),
            "none was on the frozen node: {slowest:?}"
        );
        assert!(
            slowest <= Duration::from_secs(longest),
            "calm each {pause:?}: {slowest:?}"
        );
    }
}
