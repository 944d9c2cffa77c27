//! Calls abandoned together do not affect other calls of the connection. The h2 server has its
//! default limits: it closes a connection on which more than 20 streams are reset that it has not
//! accepted yet.

use std::future::poll_fn;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::sleep;
use waypost_http::{CallError, ServiceChannel};

use crate::net::{Host, World, call};

type Answer = Result<(String, u32, String), CallError>;

/// Starts `count` calls that are never answered, and abandons them all at the same time.
async fn give_up(sender: &ServiceChannel, count: usize) {
    let mut calls: Vec<_> = (0..count)
        .map(|_| Box::pin(call(sender, "/act", "wait")))
        .collect();
    for call in &mut calls {
        let begun = poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx).is_pending())).await;
        assert!(begun, "answered at once");
    }
}

/// Starts an unrelated call, which the host answers on request.
async fn innocent(sender: &ServiceChannel, host: &Host) -> JoinHandle<Answer> {
    let before = host.requests.load(Relaxed);
    let sender = sender.clone();
    let call = tokio::spawn(async move { call(&sender, "/act", "wait").await });
    while host.requests.load(Relaxed) == before {
        sleep(Duration::from_millis(1)).await;
    }
    call
}

async fn assert_answered(call: JoinHandle<Answer>, host: &Host, what: &str) {
    while !call.is_finished() {
        host.answers.notify_waiters();
        sleep(Duration::from_millis(1)).await;
    }
    let (_, attempts, _) = call
        .await
        .unwrap()
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(attempts, 1, "{what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_given_up_at_once_lose_no_call_beside_them() {
    for (count, rounds) in [(1, 20), (21, 20), (100, 20), (500, 5)] {
        for round in 0..rounds {
            let world = World::new();
            let host = world.host("a").await;
            let sender = world.sender();
            let innocent = innocent(&sender, &host).await;
            give_up(&sender, count).await;
            call(&sender, "/act", "hi").await.unwrap();
            assert_answered(innocent, &host, &format!("{count} given up, round {round}")).await;
            assert_eq!(
                host.broken.load(Relaxed),
                0,
                "{count} given up, round {round}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_given_up_again_and_again_lose_no_call_beside_them() {
    let world = World::new();
    let host = world.host("a").await;
    host.limit_streams(30);
    let sender = world.sender();
    let innocent = innocent(&sender, &host).await;
    for round in 0..50 {
        give_up(&sender, 30).await;
        let (_, attempts, _) = call(&sender, "/act", "hi")
            .await
            .unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert_eq!(attempts, 1, "round {round}");
    }
    assert_answered(innocent, &host, "after all rounds").await;
    assert_eq!(host.broken.load(Relaxed), 0);
}

/// The server reads nothing for a while, too short to raise a doubt, and then everything at once.
#[tokio::test(start_paused = true)]
async fn calls_given_up_while_the_server_is_short_of_cpu_lose_no_call_beside_them() {
    for (frozen, count) in [(15, 30), (50, 60), (300, 100), (900, 500)] {
        let world = World::new();
        let host = world.host("a").await;
        let sender = world.sender();
        let innocent = innocent(&sender, &host).await;
        for round in 0..5 {
            host.freeze(true);
            give_up(&sender, count).await;
            sleep(Duration::from_millis(frozen)).await;
            host.freeze(false);
            let what = format!("{count} given up within {frozen} ms, round {round}");
            call(&sender, "/act", "hi")
                .await
                .unwrap_or_else(|error| panic!("{what}: {error}"));
        }
        assert_answered(
            innocent,
            &host,
            &format!("{count} given up within {frozen} ms"),
        )
        .await;
        assert_eq!(host.broken.load(Relaxed), 0);
    }
}
