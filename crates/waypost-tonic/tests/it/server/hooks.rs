//! Hooks that fail, panic, hang or block, and registries that cannot be left. None of them skips or
//! delays the stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use tokio::time::{Instant, timeout};
use waypost_core::memory::MemoryRegistry;
use waypost_core::registrar::Config;
use waypost_core::registry::AnyRegistry;
use waypost_core::static_list::StaticRegistry;
use waypost_tonic::server::Server;

use super::echo::{self, BidiStream, HANG, word};
use super::lifecycle::{SOON, builder, config, left, registered, stopped};

/// Limit that hooks and calls reach in these tests.
const LIMIT: Duration = Duration::from_millis(300);

type Done = std::future::Ready<Result<(), Box<dyn std::error::Error + Send + Sync>>>;

/// Returns a counter, and a hook that counts.
fn counter() -> (Arc<AtomicU32>, impl FnOnce() -> Done) {
    let count = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&count);
    let hook = move || {
        counted.fetch_add(1, SeqCst);
        std::future::ready(Ok(()))
    };
    (count, hook)
}

#[tokio::test]
async fn a_panic_in_before_stop_leaves_and_drains_all_the_same() {
    let registry = MemoryRegistry::new();
    let (builder, _) = builder(&registry);
    let (count, hook) = counter();
    let running = builder
        .before_stop(|| async { panic!("a hook of a user") })
        .before_stop(hook)
        .start()
        .await
        .unwrap();
    running.registered().await.unwrap();
    let mut client = echo::client(running.advertised()).await;
    let mut stream = BidiStream::begin(&mut client).await;
    running.stop();
    left(&running).await;
    assert_eq!(registered(&registry).await, None);
    assert_eq!(count.load(SeqCst), 1, "the next hook runs");
    echo::refuses(running.advertised()).await;
    assert_eq!(stream.exchange("still here").await.unwrap(), "still here");
    stream.close().await.unwrap();
    stopped(running).await;
}

#[tokio::test]
async fn a_hanging_before_stop_has_the_drain_limit_and_no_more() {
    let registry = MemoryRegistry::new();
    let (builder, _) = builder(&registry);
    let running = builder
        .drain_timeout(LIMIT)
        .before_stop(std::future::pending)
        .start()
        .await
        .unwrap();
    running.registered().await.unwrap();
    let start = Instant::now();
    running.stop();
    left(&running).await;
    assert!(start.elapsed() >= LIMIT);
    assert_eq!(registered(&registry).await, None);
    assert_eq!(
        echo::client(running.advertised())
            .await
            .unary_echo(word("late"))
            .await
            .unwrap()
            .into_inner()
            .text,
        "late"
    );
    stopped(running).await;
    assert!(
        start.elapsed() < LIMIT + Duration::from_millis(200 + 800),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_before_stop_that_blocks_its_thread_does_not_hold_the_stop() {
    let registry = MemoryRegistry::new();
    let (builder, _) = builder(&registry);
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    let block = move || async move {
        let _ = blocked.recv();
        Ok(())
    };
    let running = builder
        .drain_timeout(LIMIT)
        .before_stop(block)
        .start()
        .await
        .unwrap();
    running.registered().await.unwrap();
    running.stop();
    stopped(running).await;
    assert_eq!(registered(&registry).await, None);
    drop(release);
}

#[tokio::test]
async fn a_second_stop_does_not_wait_for_a_hanging_before_stop_and_leaves() {
    let registry = MemoryRegistry::new();
    let (builder, _) = builder(&registry);
    let (count, hook) = counter();
    let running = builder
        .before_stop(std::future::pending)
        .after_stop(hook)
        .start()
        .await
        .unwrap();
    running.registered().await.unwrap();
    running.stop();
    running.stop();
    let start = Instant::now();
    stopped(running).await;
    assert!(
        start.elapsed() < Duration::from_millis(800),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(registered(&registry).await, None, "taken out all the same");
    assert_eq!(count.load(SeqCst), 1);
}

#[tokio::test]
async fn after_stop_runs_when_calls_were_aborted() {
    let registry = MemoryRegistry::new();
    let (builder, hanging) = builder(&registry);
    let (count, hook) = counter();
    let running = builder
        .drain_timeout(LIMIT)
        .after_stop(hook)
        .start()
        .await
        .unwrap();
    let mut client = echo::client(running.advertised()).await;
    let call =
        tokio::task::JoinSet::from_iter([async move { client.unary_echo(word(HANG)).await }]);
    hanging.are(1).await;
    running.stop();
    stopped(running).await;
    assert!(call.join_all().await.remove(0).is_err());
    assert_eq!(count.load(SeqCst), 1);
}

#[tokio::test]
async fn after_stop_that_panics_or_hangs_ends_no_later_than_its_limit() {
    let registry = MemoryRegistry::new();
    let (builder, _) = builder(&registry);
    let builder = builder
        .drain_timeout(LIMIT)
        .after_stop(|| async { panic!("a hook of a user") })
        .after_stop(std::future::pending);
    let running = builder.start().await.unwrap();
    let start = Instant::now();
    running.stop();
    stopped(running).await;
    assert!(
        start.elapsed() < LIMIT + Duration::from_millis(200 + 800),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn a_hook_of_the_start_that_panics_is_an_error_and_leaves_nothing() {
    let registry = MemoryRegistry::new();
    let text = |error: waypost_tonic::server::Error| {
        format!("{error}: {}", std::error::Error::source(&error).unwrap())
    };
    let (before, _) = builder(&registry);
    let before = before
        .before_start(|| async { panic!("no database") })
        .start()
        .await
        .unwrap_err();
    insta::assert_snapshot!(text(before), @"the before_start hook failed: panicked: no database");
    let (after, _) = builder(&registry);
    let (count, hook) = counter();
    let after = after
        .after_start(|| async { panic!("no cache") })
        .after_stop(hook)
        .start()
        .await
        .unwrap_err();
    insta::assert_snapshot!(text(after), @"the after_start hook failed: panicked: no cache");
    assert_eq!((registered(&registry).await, count.load(SeqCst)), (None, 1));
}

#[tokio::test]
async fn a_registry_that_cannot_be_left_does_not_delay_the_stop() {
    let closed = MemoryRegistry::new();
    let fixed = AnyRegistry::new(StaticRegistry::new([], "grpc"));
    for (registry, close) in [(AnyRegistry::new(closed.open()), true), (fixed, false)] {
        let (service, _) = echo::service();
        let server = Server::builder("echo", registry.clone()).allow_loopback(true);
        let running = server
            .register(config(Duration::from_millis(200)))
            .add_service(service)
            .start()
            .await
            .unwrap();
        if close {
            running.registered().await.unwrap();
            registry.close().await.unwrap();
        }
        let start = Instant::now();
        running.stop();
        timeout(SOON, stopped(running)).await.unwrap();
        let took = start.elapsed();
        assert!(
            took >= Duration::from_millis(200),
            "the drain delay: {took:?}"
        );
        assert!(
            took < Duration::from_millis(700),
            "and nothing else: {took:?}"
        );
    }
}

#[tokio::test]
async fn an_unreachable_registry_delays_the_stop_by_its_timeout_once() {
    let registry = MemoryRegistry::new();
    let (builder, _) = builder(&registry);
    // The memory registry uses the default timeout.
    let (delay, limit) = (Duration::from_millis(200), Config::default().timeout);
    let running = builder.register(config(delay)).start().await.unwrap();
    running.registered().await.unwrap();
    registry.faults().set_delay(SOON);
    let start = Instant::now();
    running.stop();
    stopped(running).await;
    let took = start.elapsed();
    // The drain delay runs meanwhile.
    assert!(took >= limit.max(delay), "{took:?}");
    assert!(took < limit + Duration::from_millis(400), "{took:?}");
}

#[tokio::test]
async fn the_drain_limit_may_be_without_end() {
    let registry = MemoryRegistry::new();
    let (builder, _) = builder(&registry);
    let (count, hook) = counter();
    let running = builder
        .drain_timeout(Duration::MAX)
        .before_stop(|| async { Ok(()) })
        .after_stop(hook)
        .start()
        .await
        .unwrap();
    running.registered().await.unwrap();
    running.stop();
    stopped(running).await;
    assert_eq!((registered(&registry).await, count.load(SeqCst)), (None, 1));
}
