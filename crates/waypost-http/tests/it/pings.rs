//! PINGs on silent connections, and their consequences.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::Instant;
use waypost_core::balance::Decision;
use waypost_core::peer::Exclusion;
use waypost_http::{FailureKind, ServiceChannel};

use crate::net::{World, begin, call, calls_at_once};
use crate::support::{all_ready, all_used};

const LONG: Duration = Duration::from_secs(5);

fn decision(sender: &ServiceChannel, node: usize) -> Decision {
    sender.snapshot().nodes[node].decision
}

#[tokio::test(start_paused = true)]
async fn one_quiet_stream_of_60_s_gets_at_most_three_pings() {
    let world = World::new();
    let a = world.host("a").await;
    let sender = world.sender();
    // The response has begun, so no call waits for headers; after that the stream is quiet.
    let response = begin(&sender, "/look", "half", None).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(a.pings.load(Relaxed), 3);
    assert_eq!(decision(&sender, 0), Decision::Picked);
    drop(response);
}

#[tokio::test(start_paused = true)]
async fn a_slow_handler_is_asked_once_for_stalling_and_stays_picked() {
    let world = World::new();
    let a = world.host("a").await;
    let sender = world.sender();
    sender.ready(LONG).await.unwrap();
    let start = Instant::now();
    let slow = {
        let sender = sender.clone();
        tokio::spawn(async move { call(&sender, "/look", "sleep 4900").await })
    };
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(
        (a.pings.load(Relaxed), decision(&sender, 0)),
        (1, Decision::Picked)
    );
    assert_eq!(slow.await.unwrap().unwrap().1, 1);
    assert_eq!(
        (a.pings.load(Relaxed), start.elapsed().as_millis()),
        (1, 4_900)
    );
    // Ten seconds of silence cause two PINGs: for the slow call, and for the quiet stream.
    let (_, attempts, _) = call(&sender, "/look", "sleep 10000").await.unwrap();
    assert_eq!((attempts, a.pings.load(Relaxed)), (1, 3));
    assert_eq!(decision(&sender, 0), Decision::Picked);
}

#[tokio::test(start_paused = true)]
async fn a_frozen_node_is_out_after_a_second_and_its_idempotent_calls_move_after_three() {
    let world = World::new();
    let (a, b) = (world.host("a").await, world.host("b").await);
    let sender = world.sender();
    all_ready(&sender).await;
    a.freeze(true);
    let start = Instant::now();
    let calls: Vec<_> = (0..10)
        .map(|_| {
            let sender = sender.clone();
            tokio::spawn(
                async move { (call(&sender, "/look", "hi").await.unwrap(), start.elapsed()) },
            )
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(decision(&sender, 0), Decision::Excluded(Exclusion::Stalled));
    let mut moved = 0;
    for call in calls {
        let ((node, attempts, _), took) = call.await.unwrap();
        assert_eq!(node, "b");
        moved += usize::from(attempts == 2);
        assert!(
            took <= Duration::from_millis(if attempts == 1 { 100 } else { 3_100 }),
            "{attempts} {took:?}"
        );
    }
    assert!(moved > 0);
    // Excluded until it resumes, and picked again soon after.
    tokio::time::sleep(Duration::from_secs(15)).await;
    let on_b = b.requests.load(Relaxed);
    for _ in 0..50 {
        call(&sender, "/act", "hi").await.unwrap();
    }
    assert_eq!(b.requests.load(Relaxed) - on_b, 50);
    a.freeze(false);
    let start = Instant::now();
    while decision(&sender, 0) != Decision::Picked {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(
        start.elapsed() <= Duration::from_secs(8),
        "{:?}",
        start.elapsed()
    );
}

/// The same for a node that froze after the headers of its responses. `begin` sends them at once,
/// and the rest after a while.
#[tokio::test(start_paused = true)]
async fn idempotent_calls_move_off_a_node_that_froze_after_their_headers() {
    let world = World::new();
    let (a, b) = (world.host("a").await, world.host("b").await);
    let sender = world.sender();
    all_used(&sender).await;
    let calls = calls_at_once(&sender, 20, "/look", "begin 200");
    let stays = tokio::spawn({
        let sender = sender.clone();
        async move { call(&sender, "/act", "begin 200").await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(a.requests.load(Relaxed) > 3 && b.requests.load(Relaxed) > 3);
    a.freeze(true);
    let start = Instant::now();
    let mut moved = 0;
    for call in calls {
        let (node, attempts, _) = call.await.unwrap().unwrap();
        assert_eq!(node, "b");
        moved += usize::from(attempts == 2);
    }
    assert!((4..=16).contains(&moved), "{moved} of 20");
    assert!(
        start.elapsed() <= Duration::from_millis(3_200),
        "{:?}",
        start.elapsed()
    );
    // A call that may not be sent twice is answered by its node as soon as that resumes.
    a.freeze(false);
    assert_eq!(stays.await.unwrap().unwrap().1, 1);
}

#[tokio::test(start_paused = true)]
async fn calls_that_may_not_move_stay_on_a_frozen_node_until_it_wakes_or_its_connection_is_given_up()
 {
    for (frozen, answered) in [(8, true), (60, false)] {
        let world = World::new();
        let a = world.host("a").await;
        let sender = world.sender();
        all_ready(&sender).await;
        a.freeze(true);
        let start = Instant::now();
        let waiting = {
            let sender = sender.clone();
            tokio::spawn(async move { (call(&sender, "/act", "hi").await, start.elapsed()) })
        };
        tokio::time::sleep(Duration::from_secs(frozen)).await;
        assert_eq!(waiting.is_finished(), !answered);
        a.freeze(false);
        let (result, took) = waiting.await.unwrap();
        match result {
            Ok((_, attempts, _)) => assert!(answered && attempts == 1, "{frozen}"),
            Err(error) => {
                assert!(
                    !answered && took <= Duration::from_secs(10),
                    "{frozen}: {error} after {took:?}"
                );
                assert!(error.to_string().contains("no answer to a PING"), "{error}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_connection_is_tried_beside_a_silent_one() {
    let world = World::new();
    let a = world.host("a").await;
    let sender = world.sender();
    all_ready(&sender).await;
    a.freeze(true);
    let error = begin(&sender, "/look", "hi", Some(Duration::from_secs(6)))
        .await
        .unwrap_err();
    assert_eq!(error.kind, FailureKind::Deadline);
    assert!(a.dialled.load(Relaxed) > 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_asks_for_calm_is_no_failure_and_its_times_are_doubled() {
    let world = World::new();
    let a = world.host("a").await;
    let sender = world.sender();
    all_ready(&sender).await;
    let moved = {
        let sender = sender.clone();
        tokio::spawn(async move { call(&sender, "/look", "sleep 300").await })
    };
    tokio::time::sleep(Duration::from_millis(100)).await;
    let start = Instant::now();
    a.ask_for_calm();
    sender.ready(LONG).await.unwrap();
    assert_eq!(moved.await.unwrap().unwrap().1, 2);
    assert!(
        start.elapsed() < Duration::from_millis(700),
        "no back-off: {:?}",
        start.elapsed()
    );
    let before = a.pings.load(Relaxed);
    let slow = {
        let sender = sender.clone();
        tokio::spawn(async move { call(&sender, "/look", "sleep 4000").await })
    };
    tokio::time::sleep(Duration::from_millis(1_900)).await;
    assert_eq!(
        a.pings.load(Relaxed),
        before,
        "a wait is too long after two seconds now"
    );
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(a.pings.load(Relaxed), before + 1);
    slow.await.unwrap().unwrap();
}
