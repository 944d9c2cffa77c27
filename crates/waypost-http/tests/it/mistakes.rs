//! Requests that fail by themselves: the caller receives the reason, they are not retried, and
//! neither a node nor another call is affected.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::Request;
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use tokio::sync::oneshot;
use waypost_http::{FailureKind, ServiceChannel};

use crate::net::{Host, World, begin, call, calls_at_once};
use crate::raw::Step::{Close, GoAway};
use crate::support::{all_ready, all_used};

/// Body that yields a chunk, waits for the signal, and fails.
struct Failing {
    piece: Option<Bytes>,
    ended: oneshot::Receiver<Infallible>,
}

impl Body for Failing {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        if let Some(piece) = self.piece.take() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        // The signal is the drop of the sender.
        Pin::new(&mut self.ended)
            .poll(cx)
            .map(|_| Some(Err(std::io::Error::other("the disk is gone"))))
    }
}

fn failing(
    path: &str,
    piece: Option<&'static str>,
) -> (oneshot::Sender<Infallible>, Request<Failing>) {
    let (end, ended) = oneshot::channel();
    (
        end,
        Request::post(path)
            .body(Failing {
                piece: piece.map(|text| Bytes::from_static(text.as_bytes())),
                ended,
            })
            .unwrap(),
    )
}

fn blamed(sender: &ServiceChannel) -> u64 {
    sender.snapshot().nodes.iter().map(|node| node.failed).sum()
}

#[tokio::test(start_paused = true)]
async fn a_body_that_fails_ends_its_call_alone() {
    for path in ["/look", "/act", "/flow"] {
        let world = World::new();
        let (a, b) = (world.host("a").await, world.host("b").await);
        let sender = world.sender();
        all_used(&sender).await;
        let received = || a.requests.load(Relaxed) + b.requests.load(Relaxed);
        let before = received();
        let (end, request) = failing(path, None);
        drop(end);
        let error = sender.call(request).await.unwrap_err();
        assert!(
            error.kind == FailureKind::Request && format!("{error:?}").contains("the disk is gone"),
            "{path}: {error:?}"
        );
        assert_eq!(received(), before, "{path}: sent to no node");
        let (end, request) = failing(path, Some("piece"));
        let call = tokio::spawn({
            let sender = sender.clone();
            async move {
                // If the response has begun, its body ends with the error.
                match sender.call(request).await {
                    Ok(response) => {
                        format!("{:?}", response.into_body().collect().await.unwrap_err())
                    }
                    Err(error) => {
                        assert_eq!(error.kind, FailureKind::Request);
                        format!("{error:?}")
                    }
                }
            }
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(end);
        let error = call.await.unwrap();
        assert!(error.contains("the disk is gone"), "{path}: {error}");
        assert_eq!((received() - before, blamed(&sender)), (1, 0), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn headers_above_the_limit_of_the_server_are_not_sent() {
    for path in ["/look", "/act"] {
        let world = World::new();
        let mut hosts = Vec::new();
        for name in ["a", "b", "c"] {
            let host = world.net.host_of(name);
            host.limit_headers(16_384);
            world.register(name).await;
            hosts.push(host);
        }
        let sender = world.sender();
        all_used(&sender).await;
        let innocents = calls_at_once(&sender, 12, "/act", "sleep 500");
        tokio::time::sleep(Duration::from_millis(100)).await;
        let count = |get: fn(&Host) -> usize| hosts.iter().map(get).sum::<usize>();
        let received = count(|host| host.requests.load(Relaxed));
        let request = Request::post(path)
            .header("large", "x".repeat(70_000))
            .body(Full::new(Bytes::from_static(b"hi")))
            .unwrap();
        let error = sender.call(request).await.map(drop).unwrap_err();
        assert_eq!(error.kind, FailureKind::Request, "{error}");
        assert!(
            format!("{error:?}").contains("HeadersTooLarge"),
            "{error:?}"
        );
        for innocent in innocents {
            assert_eq!(innocent.await.unwrap().unwrap().1, 1);
        }
        let after = count(|host| host.requests.load(Relaxed));
        assert_eq!(
            (
                after - received,
                count(|host| host.dialled.load(Relaxed)),
                blamed(&sender)
            ),
            (0, 3, 0),
            "{path}"
        );
    }
}

/// Each server announces no limit, and ends the connection with an error when it receives the
/// request.
#[tokio::test(start_paused = true)]
async fn a_request_that_ends_connections_ends_no_more_than_two() {
    for path in ["/look", "/act", "/flow"] {
        for nodes in [2, 3, 5, 20] {
            let world = World::new();
            let mut hosts = Vec::new();
            for i in 0..nodes {
                let host = world.net.host_of(&format!("n{i}"));
                host.obey(&[GoAway(Reason::ENHANCE_YOUR_CALM, u32::MAX), Close]);
                world.register(&format!("n{i}")).await;
                hosts.push(host);
            }
            let sender = world.sender();
            all_ready(&sender).await;
            let error = begin(&sender, path, "hi", None)
                .await
                .map(drop)
                .unwrap_err();
            let ended: usize = hosts.iter().map(|host| host.requests.load(Relaxed)).sum();
            assert_eq!(ended, 2, "{path}, {nodes} nodes: {error}");
            assert!(
                error
                    .to_string()
                    .contains("2 connections ended under this request"),
                "{error}"
            );
        }
    }
}

/// The server reads nothing for a moment, and then finds the starts and the resets of all of them.
#[tokio::test(start_paused = true)]
async fn bodies_that_fail_together_lose_no_call_beside_them() {
    let world = World::new();
    let host = world.host("a").await;
    let sender = world.sender();
    all_used(&sender).await;
    let innocent = tokio::spawn({
        let sender = sender.clone();
        async move { call(&sender, "/act", "sleep 500").await }
    });
    tokio::time::sleep(Duration::from_millis(10)).await;
    host.freeze(true);
    let mut calls = tokio::task::JoinSet::new();
    let ends: Vec<_> = (0..60)
        .map(|_| {
            let (end, request) = failing("/act", Some("piece"));
            let sender = sender.clone();
            calls.spawn(async move { sender.call(request).await.map(drop).unwrap_err().kind });
            end
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(10)).await;
    drop(ends);
    assert_eq!(calls.join_all().await, [FailureKind::Request; 60]);
    tokio::time::sleep(Duration::from_millis(100)).await;
    host.freeze(false);
    innocent.await.unwrap().unwrap();
    assert_eq!((host.broken.load(Relaxed), blamed(&sender)), (0, 0));
}
