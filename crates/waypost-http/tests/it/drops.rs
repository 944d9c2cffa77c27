//! A call dropped at any moment leaves nothing behind, and neither does a client that is closed.

use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::runtime::Handle;
use waypost_http::ServiceChannel;

use crate::net::{World, begin, call};

const LONG: Duration = Duration::from_secs(5);

/// Lets every runnable task run.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

fn in_flight(sender: &ServiceChannel) -> u32 {
    sender
        .snapshot()
        .nodes
        .iter()
        .map(|node| node.in_flight)
        .sum()
}

/// Returns a body of three chunks, each of which yields to other tasks first.
fn slow_body()
-> impl http_body::Body<Data = Bytes, Error = std::convert::Infallible> + Unpin + Send + 'static {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, _>>(1);
    tokio::spawn(async move {
        for _ in 0..3 {
            tokio::task::yield_now().await;
            let _ = sender
                .send(Ok(Frame::data(Bytes::from_static(b"piece"))))
                .await;
        }
    });
    StreamBody::new(Pieces(receiver))
}

struct Pieces<T>(tokio::sync::mpsc::Receiver<T>);

impl<T> futures_core::Stream for Pieces<T> {
    type Item = T;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<Option<T>> {
        self.0.poll_recv(cx)
    }
}

/// Call to be dropped at successive moments: its path, its instruction, and the time between two
/// moments.
struct Dropped {
    path: &'static str,
    order: &'static str,
    step: Duration,
    at_least: usize,
}

impl Dropped {
    async fn make(&self, sender: ServiceChannel) {
        let response = match self.path {
            "/flow" => {
                sender
                    .call(Request::post("/flow").body(slow_body()).unwrap())
                    .await
            }
            path => begin(&sender, path, self.order, Some(Duration::from_secs(20))).await,
        };
        let _ = response.unwrap().into_body().collect().await;
    }

    /// Polls the call `moments` times and drops it; returns true if it had finished before.
    async fn drop_after(&self, sender: ServiceChannel, moments: usize) -> bool {
        let mut call = Box::pin(self.make(sender));
        for _ in 0..moments {
            if std::future::poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx)))
                .await
                .is_ready()
            {
                return true;
            }
            if self.step.is_zero() {
                tokio::task::yield_now().await;
            } else {
                tokio::time::sleep(self.step).await;
            }
        }
        false
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_at_every_await_point_leaves_nothing() {
    let world = World::new();
    let host = world.host("a").await;
    let sender = world.sender();
    sender.ready(LONG).await.unwrap();
    call(&sender, "/act", "hi").await.unwrap();
    settle().await;
    let tasks = Handle::current().metrics().num_alive_tasks();
    let ms = Duration::from_millis;
    let calls = [
        Dropped {
            path: "/look",
            order: "hi",
            step: ms(0),
            at_least: 2,
        },
        Dropped {
            path: "/flow",
            order: "",
            step: ms(0),
            at_least: 3,
        },
        Dropped {
            path: "/look",
            order: "sleep 9",
            step: ms(1),
            at_least: 9,
        },
        // Waits before it returns to the only node, twice.
        Dropped {
            path: "/look",
            order: "unavailable",
            step: ms(1),
            at_least: 20,
        },
        // Exceeds the slow threshold: has the socket read, then waits until the connection is
        // unresponsive.
        Dropped {
            path: "/look",
            order: "sleep 1500",
            step: ms(50),
            at_least: 25,
        },
    ];
    for dropped in calls {
        let mut moments = 1;
        while !dropped.drop_after(sender.clone(), moments).await {
            settle().await;
            assert_eq!(
                in_flight(&sender),
                0,
                "{} {} after {moments}",
                dropped.path,
                dropped.order
            );
            moments += 1;
            assert!(moments < 2_000, "it never finishes");
        }
        assert!(
            moments >= dropped.at_least,
            "{} {}: only {moments} moments",
            dropped.path,
            dropped.order
        );
        settle().await;
        assert_eq!(
            Handle::current().metrics().num_alive_tasks(),
            tasks,
            "{} {}",
            dropped.path,
            dropped.order
        );
    }
    assert_eq!(host.open.load(Relaxed), 1, "the connection survived it all");
    // No permit is leaked either: otherwise the server's limit of streams would be reached.
    host.drain();
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(
        host.open.load(Relaxed),
        1,
        "drained at once, since nothing was in flight, and replaced"
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_while_it_waits_for_a_node_leaves_nothing() {
    let world = World::new();
    let sender = world.sender();
    sender.snapshot();
    settle().await;
    let tasks = Handle::current().metrics().num_alive_tasks();
    let waiting = Dropped {
        path: "/look",
        order: "hi",
        step: Duration::from_millis(10),
        at_least: 1,
    };
    for moments in 1..20 {
        assert!(!waiting.drop_after(sender.clone(), moments).await);
        settle().await;
        assert_eq!(Handle::current().metrics().num_alive_tasks(), tasks);
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_is_reset_on_the_server() {
    let world = World::new();
    let host = world.host("a").await;
    let sender = world.sender();
    sender.ready(LONG).await.unwrap();
    let dropped = tokio::time::timeout(
        Duration::from_millis(100),
        call(&sender, "/act", "sleep 10000"),
    )
    .await;
    assert!(dropped.is_err());
    settle().await;
    assert_eq!((host.resets.load(Relaxed), in_flight(&sender)), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_closed_client_leaves_no_task_and_no_connection() {
    let before = Handle::current().metrics().num_alive_tasks();
    let world = World::new();
    let (a, b) = (world.host("a").await, world.host("b").await);
    let sender = world.sender();
    sender.ready(LONG).await.unwrap();
    let pending = {
        let sender = sender.clone();
        tokio::spawn(async move { call(&sender, "/act", "sleep 100000").await })
    };
    let waiting = {
        let unknown = world.client.channel(
            "unknown".parse().unwrap(),
            Default::default(),
            std::sync::Arc::new(crate::net::Plain),
        );
        tokio::spawn(async move { call(&unknown, "/act", "hi").await })
    };
    settle().await;
    world.client.close().await;
    settle().await;
    assert!(pending.await.unwrap().is_err());
    let error = waiting.await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "unknown: the client is closed");
    assert_eq!((a.open.load(Relaxed), b.open.load(Relaxed)), (0, 0));
    assert!(call(&sender, "/act", "hi").await.is_err());
    a.kill();
    b.kill();
    settle().await;
    assert_eq!(Handle::current().metrics().num_alive_tasks(), before);
}

#[tokio::test(start_paused = true)]
async fn a_bidirectional_stream_flows_while_its_response_is_held() {
    let world = World::new();
    let _a = world.host("a").await;
    let sender = world.sender();
    let response = sender
        .call(Request::post("/flow").body(slow_body()).unwrap())
        .await
        .unwrap();
    settle().await;
    let echoed = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(echoed, "piecepiecepiece");
    settle().await;
    assert_eq!(in_flight(&sender), 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_and_a_stream_outlive_channel_and_client_and_then_leave_nothing() {
    let before = Handle::current().metrics().num_alive_tasks();
    let world = World::new();
    let host = world.host("a").await;
    let sender = world.sender();
    let (pieces, body) =
        tokio::sync::mpsc::channel::<Result<Frame<Bytes>, std::convert::Infallible>>(1);
    let response = sender
        .call(
            Request::post("/flow")
                .body(StreamBody::new(Pieces(body)))
                .unwrap(),
        )
        .await
        .unwrap();
    let mut echoed = response.into_body();
    let request = Request::post("/act")
        .body(http_body_util::Full::new(Bytes::from_static(b"sleep 500")))
        .unwrap();
    let under_way = tokio::spawn(sender.call(request));
    settle().await;
    drop(sender);
    drop(world.client);
    for _ in 0..50 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        pieces
            .send(Ok(Frame::data(Bytes::from_static(b"piece"))))
            .await
            .unwrap();
        assert_eq!(
            echoed.frame().await.unwrap().unwrap().into_data().unwrap(),
            "piece"
        );
    }
    let answer = under_way
        .await
        .unwrap()
        .unwrap()
        .into_body()
        .collect()
        .await
        .unwrap();
    assert_eq!(answer.to_bytes(), "sleep 500");
    drop(pieces);
    assert!(echoed.collect().await.unwrap().to_bytes().is_empty());
    settle().await;
    assert_eq!(
        (host.open.load(Relaxed), host.dialled.load(Relaxed)),
        (0, 1),
        "the connection is closed by now"
    );
    host.kill();
    settle().await;
    assert_eq!(Handle::current().metrics().num_alive_tasks(), before);
}
