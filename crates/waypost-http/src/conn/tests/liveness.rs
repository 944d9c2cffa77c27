//! Frozen servers, and connections that a firewall dropped silently.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::net::{Dialled, call, dial, memory_server, open};
use crate::conn::{Connection, ConnectionEvent, Liveness};

async fn next_liveness(dialled: &mut Dialled) -> Liveness {
    match dialled.next().await {
        ConnectionEvent::Liveness(change) => change.take(),
        other => panic!("no change of liveness: {other:?}"),
    }
}

async fn idle(connection: &Arc<Connection>, seconds: u64) {
    call(connection).await.unwrap();
    sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn every_call_on_a_frozen_server_ends_within_ten_seconds() {
    let (connect, frozen) = memory_server();
    let mut dialled = dial(connect);
    let connection = dialled.ready().await;
    call(&connection).await.unwrap();
    frozen.send_replace(true);
    let start = Instant::now();
    let waiting = open(&connection, "/ok");
    sleep(Duration::from_secs(1)).await;
    connection.read_until_pending().await;
    connection.report_slow();
    assert_eq!(next_liveness(&mut dialled).await, Liveness::Probing);
    assert!(!connection.has_capacity());
    connection.unresponsive().await;
    assert_eq!(
        (next_liveness(&mut dialled).await, start.elapsed().as_secs()),
        (Liveness::Unresponsive, 3)
    );
    assert!(waiting.response.await.is_err());
    assert_eq!(start.elapsed().as_secs(), 9);
    let end = dialled.ended().await.unwrap_err();
    assert_eq!(
        &*end,
        "connection to 127.0.0.1:1: no answer to a PING within 8s"
    );
    assert_eq!(
        &**connection.end_reason().unwrap(),
        "no answer to a PING within 8s"
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_without_a_deadline_ends_by_silence() {
    let (connect, frozen) = memory_server();
    let mut dialled = dial(connect);
    let connection = dialled.ready().await;
    frozen.send_replace(true);
    let start = Instant::now();
    assert!(open(&connection, "/ok").response.await.is_err());
    assert_eq!(
        start.elapsed().as_secs(),
        13,
        "5 s of silence, 8 s for the PING"
    );
    assert!(dialled.ended().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_wakes_within_eight_seconds_loses_nothing() {
    let (connect, frozen) = memory_server();
    let mut dialled = dial(connect);
    let connection = dialled.ready().await;
    frozen.send_replace(true);
    let waiting = open(&connection, "/ok");
    connection.report_slow();
    connection.unresponsive().await;
    sleep(Duration::from_secs(5)).await;
    frozen.send_replace(false);
    waiting.response.await.unwrap();
    while connection.liveness() != Liveness::Alive {
        sleep(Duration::from_millis(1)).await;
    }
    // At most one change was queued meanwhile, and it reports the latest state.
    assert_eq!(next_liveness(&mut dialled).await, Liveness::Alive);
    assert!(dialled.events.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_that_is_dead_is_known_within_half_a_second_of_its_first_call() {
    let (connect, forgotten) = memory_server();
    let mut dialled = dial(connect);
    let connection = dialled.ready().await;
    idle(&connection, 60).await;
    assert!(connection.needs_proof(Instant::now()) && connection.has_capacity());
    forgotten.send_replace(true);
    let start = Instant::now();
    let _lost = open(&connection, "/ok");
    connection.unresponsive().await;
    assert_eq!(start.elapsed().as_millis(), 500);
    assert_eq!(next_liveness(&mut dialled).await, Liveness::Unresponsive);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_that_lives_is_never_in_doubt() {
    let (connect, _frozen) = memory_server();
    let mut dialled = dial(connect);
    let connection = dialled.ready().await;
    for _ in 0..10 {
        idle(&connection, 30).await;
        assert!(connection.needs_proof(Instant::now()));
        assert!(connection.proven().await);
        assert!(!connection.needs_proof(Instant::now()));
    }
    assert!(dialled.events.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn siblings_of_a_dead_idle_connection_are_proven_when_asked() {
    let (connect, forgotten) = memory_server();
    let mut dialled = dial(connect);
    let connection = dialled.ready().await;
    idle(&connection, 60).await;
    forgotten.send_replace(true);
    connection.prove();
    assert_eq!(next_liveness(&mut dialled).await, Liveness::Unresponsive);
    assert!(!connection.proven().await);
    assert!(
        dialled.ended().await.is_err(),
        "and it is closed in the end"
    );
    assert!(!connection.proven().await);
}

#[tokio::test(start_paused = true)]
async fn calls_given_up_are_not_reset_while_the_server_is_frozen() {
    let (connect, frozen) = memory_server();
    let mut dialled = dial(connect);
    let connection = dialled.ready().await;
    frozen.send_replace(true);
    let mut innocent = open(&connection, "/hang");
    let given_up: Vec<_> = (0..100).map(|_| open(&connection, "/hang")).collect();
    connection.report_slow();
    connection.unresponsive().await;
    given_up.into_iter().for_each(super::net::Opened::cancel);
    sleep(Duration::from_secs(3)).await;
    assert_eq!(connection.streams(), 101);
    frozen.send_replace(false);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(connection.streams(), 1);
    call(&connection).await.unwrap();
    let ended = tokio::time::timeout(Duration::ZERO, &mut innocent.response).await;
    assert!(ended.is_err(), "{ended:?}");
}
