//! Table of the ends of an attempt and the decisions that follow.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::uri::Scheme;
use http_body_util::Full;
use waypost_core::record::Address;
use waypost_core::registry::AnyRegistry;
use waypost_http::{
    AddressPolicy, ChannelConfig, ClientConfig, Connect, Connecting, FailureKind, Policy,
};

use crate::net::{World, call, calls_at_once};

const LONG: Duration = Duration::from_secs(5);

#[tokio::test(start_paused = true)]
async fn a_call_is_answered_and_names_its_node() {
    let world = World::new();
    let host = world.host("a").await;
    let sender = world.sender();
    assert_eq!(
        call(&sender, "/act", "hi").await.unwrap(),
        ("a".into(), 1, "hi".into())
    );
    assert_eq!(
        (host.dialled.load(Relaxed), host.requests.load(Relaxed)),
        (1, 1)
    );
    let peer = &sender.snapshot().nodes[0];
    assert_eq!((peer.in_flight, peer.calls, peer.failed), (0, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_refused_stream_goes_elsewhere_whatever_the_method_and_is_not_counted() {
    let world = World::new();
    let (a, b) = (world.host("a").await, world.host("b").await);
    let sender = world.sender();
    sender.ready(LONG).await.unwrap();
    a.refuse(usize::MAX);
    b.refuse(0);
    for _ in 0..20 {
        let (node, attempts, _) = call(&sender, "/act", "hi").await.unwrap();
        assert!(node == "b" && attempts <= 2, "{node} {attempts}");
    }
    assert!(
        a.requests.load(Relaxed) > 0,
        "a was never tried, so nothing was shown"
    );
}

#[tokio::test(start_paused = true)]
async fn refused_by_the_only_node_a_call_waits_and_returns() {
    let world = World::new();
    let a = world.host("a").await;
    let sender = world.sender();
    sender.ready(LONG).await.unwrap();
    a.refuse(1);
    assert_eq!(
        call(&sender, "/act", "hi").await.unwrap(),
        ("a".into(), 2, "hi".into())
    );
    a.refuse(usize::MAX);
    let error = call(&sender, "/act", "hi").await.unwrap_err();
    assert_eq!(error.kind, FailureKind::NoAnswer);
    assert_eq!(error.history.len(), 3, "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_moves_what_may_be_sent_twice_and_nothing_else() {
    for (path, moved) in [("/look", true), ("/act", false)] {
        let world = World::new();
        let (a, b) = (world.host("a").await, world.host("b").await);
        let sender = world.sender();
        sender.ready(LONG).await.unwrap();
        let calls: Vec<_> = (0..20)
            .map(|_| {
                let sender = sender.clone();
                tokio::spawn(async move { call(&sender, path, "sleep 500").await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let on_a = a.requests.load(Relaxed);
        assert!(on_a > 0 && b.requests.load(Relaxed) > 0);
        a.kill();
        let mut failed = 0;
        for call in calls {
            match call.await.unwrap() {
                Ok((node, ..)) => assert_eq!(node, "b"),
                Err(error) => {
                    failed += 1;
                    assert!(error.to_string().contains("connection lost"), "{error}");
                }
            }
        }
        assert_eq!(failed, if moved { 0 } else { on_a });
    }
}

#[tokio::test(start_paused = true)]
async fn unavailable_is_tried_again_only_where_that_is_allowed() {
    let world = World::new();
    let (a, b) = (world.host("a").await, world.host("b").await);
    let sender = world.sender();
    sender.ready(LONG).await.unwrap();
    let total = || a.requests.load(Relaxed) + b.requests.load(Relaxed);
    for order in ["unavailable", "late unavailable"] {
        let before = total();
        let (_, attempts, _) = call(&sender, "/act", order).await.unwrap();
        assert_eq!((attempts, total() - before), (1, 1), "{order}");
        let before = total();
        let (_, attempts, _) = call(&sender, "/look", order).await.unwrap();
        assert_eq!(
            (attempts, total() - before),
            (3, 3),
            "{order}: the last answer goes to the caller"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn total_failure_is_retried_within_the_budget() {
    let world = World::new();
    let _a = world.host("a").await;
    let b = world.host("b").await;
    let sender = world.sender();
    sender.ready(LONG).await.unwrap();
    let start = tokio::time::Instant::now();
    let calls = 2_000;
    for _ in 0..calls {
        call(&sender, "/look", "unavailable").await.unwrap();
    }
    let attempts: u64 = sender.snapshot().nodes.iter().map(|node| node.calls).sum();
    let bound = calls * 6 / 5 + 10 * (start.elapsed().as_secs() + 1) + 10;
    assert!(
        attempts > calls && attempts <= bound,
        "{attempts} of {bound}"
    );
    drop(b);
}

#[tokio::test(start_paused = true)]
async fn other_answers_and_resets_go_to_the_caller_at_once() {
    let world = World::new();
    let a = world.host("a").await;
    let sender = world.sender();
    let error = call(&sender, "/look", "reset").await.unwrap_err();
    assert_eq!(
        (error.kind, a.requests.load(Relaxed)),
        (FailureKind::Reset(2), 1)
    );
}

#[tokio::test(start_paused = true)]
async fn a_goaway_loses_no_call_and_the_connection_is_replaced() {
    let world = World::new();
    let a = world.host("a").await;
    let sender = world.sender();
    sender.ready(LONG).await.unwrap();
    tokio::time::sleep(LONG).await;
    for round in 1..=20 {
        let slow = {
            let sender = sender.clone();
            tokio::spawn(async move { call(&sender, "/act", "sleep 50").await })
        };
        tokio::time::sleep(Duration::from_millis(10)).await;
        a.drain();
        for _ in 0..20 {
            call(&sender, "/act", "hi").await.unwrap();
        }
        slow.await.unwrap().unwrap();
        tokio::time::sleep(LONG).await;
        assert_eq!(
            (a.dialled.load(Relaxed), a.open.load(Relaxed)),
            (1 + round, 1)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn data_that_was_delivered_is_never_replayed() {
    let world = World::new();
    let (a, b) = (world.host("a").await, world.host("b").await);
    let sender = world.sender();
    sender.ready(LONG).await.unwrap();
    let pending = {
        let sender = sender.clone();
        tokio::spawn(async move { call(&sender, "/look", "half").await })
    };
    tokio::time::sleep(Duration::from_millis(100)).await;
    a.kill();
    b.kill();
    let (_, attempts, text) = pending.await.unwrap().unwrap();
    assert_eq!((attempts, text.as_str()), (1, "the response broke off"));
    assert_eq!(a.requests.load(Relaxed) + b.requests.load(Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_large_body_goes_through_the_windows() {
    let world = World::new();
    let _a = world.host("a").await;
    let sender = world.sender();
    let body = "x".repeat(3 << 20);
    let (_, _, text) = call(&sender, "/act", &body).await.unwrap();
    assert_eq!(text.len(), body.len());
}

#[tokio::test(start_paused = true)]
async fn headers_that_http2_forbids_are_stripped_and_blame_no_node() {
    let world = World::new();
    let a = world.host("a").await;
    let sender = world.sender();
    for (name, value) in [
        ("connection", "close"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("te", "gzip"),
    ] {
        let request = Request::post("/act")
            .header(name, value)
            .body(Full::new(Bytes::from_static(b"hi")))
            .unwrap();
        assert_eq!(
            sender.call(request).await.expect(name).status(),
            200,
            "{name}"
        );
    }
    assert_eq!(a.requests.load(Relaxed), 6);
    assert_eq!(sender.snapshot().nodes[0].failed, 0);
}

/// Connector whose connections count as encrypted.
#[derive(Debug)]
struct Encrypted(crate::net::Net);

impl Connect for Encrypted {
    fn connect<'a>(&'a self, address: &'a Address, policy: &'a AddressPolicy) -> Connecting<'a> {
        self.0.connect(address, policy)
    }

    fn scheme(&self) -> Scheme {
        Scheme::HTTPS
    }
}

#[tokio::test(start_paused = true)]
async fn requests_carry_the_scheme_of_the_connector() {
    let world = World::through(ClientConfig::default(), AnyRegistry::new, Encrypted);
    let a = world.host("a").await;
    call(&world.sender(), "/act", "hi").await.unwrap();
    assert_eq!(
        (a.requests.load(Relaxed), a.encrypted.load(Relaxed)),
        (1, 1)
    );
    let world = World::new();
    let a = world.host("a").await;
    call(&world.sender(), "/act", "hi").await.unwrap();
    assert_eq!(
        (a.requests.load(Relaxed), a.encrypted.load(Relaxed)),
        (1, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn one_attempt_allows_the_moves_that_are_free() {
    let mut policy = Policy::default();
    policy.max_attempts = 1;
    let mut config = ChannelConfig::default();
    config.policy = Arc::new(policy);
    let world = World::new();
    let (a, b) = (world.host("a").await, world.host("b").await);
    let sender = world.sender_with(config);
    sender.ready(LONG).await.unwrap();
    tokio::time::sleep(LONG).await;
    a.refuse(usize::MAX);
    for path in ["/act", "/look"].repeat(20) {
        assert_eq!(call(&sender, path, "hi").await.unwrap().0, "b", "{path}");
    }
    assert!(
        a.requests.load(Relaxed) > 0,
        "a was never tried, so nothing was shown"
    );
    a.refuse(0);
    let before = a.requests.load(Relaxed) + b.requests.load(Relaxed);
    assert_eq!(
        call(&sender, "/look", "unavailable").await.unwrap().1,
        1,
        "a retry is not free"
    );
    assert_eq!(
        a.requests.load(Relaxed) + b.requests.load(Relaxed) - before,
        1
    );
    let under_way = calls_at_once(&sender, 20, "/look", "sleep 100");
    tokio::time::sleep(Duration::from_millis(50)).await;
    a.kill();
    for call in under_way {
        assert_eq!(
            call.await.unwrap().unwrap().0,
            "b",
            "the first lost connection is left for nothing"
        );
    }
}
