//! Waits of a call: their conditions and their limits.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::Instant;
use waypost_http::{ClientConfig, FailureKind};

use crate::net::{World, begin, call, calls_at_once};

const LONG: Duration = Duration::from_secs(5);

#[tokio::test(start_paused = true)]
async fn an_empty_set_fails_at_its_deadline_and_without_one_after_three_seconds() {
    let world = World::new();
    let sender = world.sender();
    let start = Instant::now();
    let error = begin(&sender, "/look", "", Some(Duration::from_millis(200)))
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind, start.elapsed().as_millis()),
        (FailureKind::Deadline, 200)
    );
    let start = Instant::now();
    let error = begin(&sender, "/look", "", None).await.unwrap_err();
    assert_eq!(
        (error.kind, start.elapsed().as_millis()),
        (FailureKind::NoReadyNode, 3_000)
    );
    assert!(
        error
            .to_string()
            .contains("the registry knows no node of it"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_waiting_call_is_answered_as_soon_as_a_node_registers() {
    let world = World::new();
    let sender = world.sender();
    let waiting = {
        let sender = sender.clone();
        tokio::spawn(async move { call(&sender, "/look", "hi").await })
    };
    tokio::time::sleep(Duration::from_secs(2)).await;
    let start = Instant::now();
    let _a = world.host("a").await;
    waiting.await.unwrap().unwrap();
    assert!(
        start.elapsed() <= Duration::from_millis(50),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn the_deadline_covers_an_answer_that_never_comes_and_a_body_that_never_ends() {
    let world = World::new();
    let _a = world.host("a").await;
    let sender = world.sender();
    sender.ready(LONG).await.unwrap();
    let start = Instant::now();
    let error = begin(&sender, "/act", "wait", Some(Duration::from_millis(700)))
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind, start.elapsed().as_millis()),
        (FailureKind::Deadline, 700)
    );
    let start = Instant::now();
    let response = begin(&sender, "/act", "half", Some(Duration::from_millis(700)))
        .await
        .unwrap();
    let error = http_body_util::BodyExt::collect(response.into_body())
        .await
        .unwrap_err();
    assert_eq!(
        (error.to_string().as_str(), start.elapsed().as_millis()),
        ("deadline exceeded while the response arrived", 700)
    );
    let start = Instant::now();
    let error = begin(&sender, "/act", "wait", None).await.unwrap_err();
    assert_eq!(
        (error.kind, start.elapsed().as_secs()),
        (FailureKind::Deadline, 30),
        "known to be unary: 30 s"
    );
    assert_eq!(sender.snapshot().nodes[0].in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn only_so_many_calls_wait() {
    let mut config = ClientConfig::default();
    config.waiting_calls = 3;
    let world = World::with(config);
    let sender = world.sender();
    let calls: Vec<_> = (0..5)
        .map(|_| {
            let sender = sender.clone();
            tokio::spawn(async move { call(&sender, "/look", "hi").await.unwrap_err().kind })
        })
        .collect();
    let mut kinds = Vec::new();
    for call in calls {
        kinds.push(call.await.unwrap());
    }
    assert_eq!(
        kinds
            .iter()
            .filter(|kind| **kind == FailureKind::QueueFull)
            .count(),
        2,
        "{kinds:?}"
    );
    assert_eq!(
        kinds
            .iter()
            .filter(|kind| **kind == FailureKind::NoReadyNode)
            .count(),
        3,
        "{kinds:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn calls_past_the_stream_limit_open_connections_and_wait_rather_than_queue_in_h2() {
    let world = World::new();
    let a = world.host("a").await;
    a.limit_streams(2);
    let sender = world.sender();
    sender.ready(LONG).await.unwrap();
    let calls = calls_at_once(&sender, 100, "/act", "sleep 100");
    for call in calls {
        call.await.unwrap().unwrap();
    }
    let open = a.open.load(Relaxed);
    assert!((2..=8).contains(&open), "{open} connections");
    assert_eq!(sender.snapshot().nodes[0].in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_never_speaks_is_never_ready() {
    let world = World::new();
    world.host("a").await.mute();
    let sender = world.sender();
    let error = sender.ready(Duration::from_secs(10)).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("1 known, 0 ready, 1 not_connected"),
        "{error}"
    );
    assert!(
        error.to_string().contains("no SETTINGS within 2s"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_leaving_node_gets_no_more_calls_and_a_lost_one_keeps_its_connections() {
    let world = World::new();
    let (a, b) = (world.host("a").await, world.host("b").await);
    let sender = world.sender();
    sender.ready(LONG).await.unwrap();
    while sender
        .snapshot()
        .nodes
        .iter()
        .any(|node| node.connection != waypost_core::peer::ConnectivityState::Ready)
    {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    world.leave("a").await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    for _ in 0..20 {
        assert_eq!(call(&sender, "/act", "hi").await.unwrap().0, "b");
    }
    assert_eq!(a.open.load(Relaxed), 0);
    world.memory.faults().remove_raw("echo", "echo-b");
    tokio::time::sleep(Duration::from_millis(10)).await;
    let view = sender.snapshot();
    assert_eq!(
        view.nodes[0].membership,
        waypost_core::peer::Membership::Suspect
    );
    assert_eq!(
        call(&sender, "/act", "hi").await.unwrap().0,
        "b",
        "a suspect is offered on the connection it has"
    );
    b.drain();
    tokio::time::sleep(LONG).await;
    assert_eq!(b.dialled.load(Relaxed), 1, "and is not connected again");
    assert_eq!(
        call(&sender, "/act", "hi").await.unwrap_err().kind,
        FailureKind::NoReadyNode
    );
}

/// In real time and on two threads: under a paused clock, the request is dropped before the
/// connection's task can send it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_without_time_left_is_not_sent() {
    let world = World::new();
    let a = world.host("a").await;
    let sender = world.sender();
    sender.ready(LONG).await.unwrap();
    for path in ["/look", "/act", "/unknown"].repeat(200) {
        let error = begin(&sender, path, "hi", Some(Duration::ZERO))
            .await
            .unwrap_err();
        assert_eq!(error.kind, FailureKind::Deadline, "{path}");
    }
    call(&sender, "/act", "the last one, behind all others")
        .await
        .unwrap();
    assert_eq!(a.requests.load(Relaxed), 1);
    assert_eq!(
        (
            sender.snapshot().nodes[0].failed,
            sender.snapshot().nodes[0].in_flight
        ),
        (0, 0)
    );
}
