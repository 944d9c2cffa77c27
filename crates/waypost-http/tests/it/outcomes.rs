//! Recorded outcome of an attempt, by its end: strategies and ejection use it.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http_body_util::BodyExt;
use tokio::task::JoinSet;
use waypost_http::ServiceChannel;

use crate::net::{Host, World, begin, call};
use crate::support::all_used;

/// Returns the number of attempts on both nodes, and how many of them count as failures of their
/// node.
fn booked(sender: &ServiceChannel) -> (u64, u64) {
    let nodes = sender.snapshot().nodes;
    assert!(nodes.iter().all(|node| node.in_flight == 0), "{nodes:?}");
    (
        nodes.iter().map(|node| node.calls).sum(),
        nodes.iter().map(|node| node.failed).sum(),
    )
}

async fn make(sender: &ServiceChannel, path: &str, order: &str, timeout: Option<Duration>) {
    if let Ok(response) = begin(sender, path, order, timeout).await {
        let _ = response.into_body().collect().await;
    }
}

#[tokio::test(start_paused = true)]
async fn every_end_of_an_attempt_is_booked_as_what_it_is() {
    let world = World::new();
    let (a, b) = (world.host("a").await, world.host("b").await);
    let sender = world.sender();
    all_used(&sender).await;
    let soon = Some(Duration::from_millis(200));
    let table = [
        // path, order, deadline, attempts, failed
        ("/look", "hi", None, 1, 0),
        ("/look", "unavailable", None, 3, 3),
        ("/look", "late unavailable", None, 3, 3),
        ("/act", "unavailable", None, 1, 1),
        ("/act", "late unavailable", None, 1, 1),
        ("/act", "reset", None, 1, 1),
        ("/act", "wait", soon, 1, 1),
        ("/act", "half", soon, 1, 1),
        ("/act", "begin 500", soon, 1, 1),
        ("/unknown", "late unavailable", None, 1, 1),
        ("/unknown", "half", soon, 1, 1),
    ];
    for (path, order, timeout, attempts, failed) in table {
        let before = booked(&sender);
        make(&sender, path, order, timeout).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        let after = booked(&sender);
        assert_eq!(
            (after.0 - before.0, after.1 - before.1),
            (attempts, failed),
            "{path} {order}"
        );
    }
    // Attempts that the caller abandons, or that no node processed, count against no node.
    let before = booked(&sender);
    for order in ["wait", "half", "begin 500"] {
        assert!(
            tokio::time::timeout(
                Duration::from_millis(100),
                make(&sender, "/act", order, None)
            )
            .await
            .is_err()
        );
    }
    for host in [&a, &b] {
        host.refuse(1);
    }
    make(&sender, "/act", "hi", None).await;
    let after = booked(&sender);
    assert_eq!((after.0 - before.0, after.1 - before.1), (3 + 3, 0));
    // The connection breaks, before and after the headers.
    for order in ["wait", "begin 5000", "half"] {
        let before = booked(&sender);
        let lost = tokio::spawn({
            let sender = sender.clone();
            async move { make(&sender, "/act", order, None).await }
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        [&a, &b].into_iter().for_each(Host::break_off);
        lost.await.unwrap();
        let after = booked(&sender);
        assert_eq!((after.0 - before.0, after.1 - before.1), (1, 1), "{order}");
        crate::support::all_ready(&sender).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_is_no_fast_answer() {
    let world = World::new();
    let host = world.host("a").await;
    let sender = world.sender();
    let p50 = || Duration::from_micros(sender.snapshot().nodes[0].p50_us.unwrap());
    for _ in 0..64 {
        call(&sender, "/act", "sleep 50").await.unwrap();
    }
    let usual = p50();
    assert!(
        (Duration::from_millis(50)..Duration::from_millis(60)).contains(&usual),
        "{usual:?}"
    );
    let received = host.requests.load(Relaxed);
    let mut calls = JoinSet::new();
    for _ in 0..64 {
        let sender = sender.clone();
        calls.spawn(async move { make(&sender, "/act", "wait", None).await });
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(host.requests.load(Relaxed) - received, 64);
    host.break_off();
    calls.join_all().await;
    assert_eq!((booked(&sender), p50()), ((128, 64), usual));
}
