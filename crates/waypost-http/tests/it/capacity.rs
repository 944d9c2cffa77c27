//! A node limits the streams of each connection: calls beyond the limit open connections, wait in
//! order, and are served when capacity is added.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use waypost_core::record::Address;
use waypost_core::registry::AnyRegistry;
use waypost_http::{
    AddressPolicy, BoxIo, CallError, ClientConfig, Connect, Connecting, ResponseBody,
    ServiceChannel,
};

use crate::net::{World, begin, call};

const LONG: Duration = Duration::from_secs(5);

/// Request body of a stream that sends nothing and does not end.
struct Open;

impl Body for Open {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}

/// Starts a bidirectional stream, which lasts as long as its response is held.
async fn converse(sender: &ServiceChannel) -> Result<Response<ResponseBody>, CallError> {
    sender
        .call(Request::post("/flow").body(Open).unwrap())
        .await
}

/// Starts `number` streams together; none waits for a deadline.
async fn converse_at_once(sender: &ServiceChannel, number: usize) -> Vec<Response<ResponseBody>> {
    let start = Instant::now();
    let mut begun = JoinSet::new();
    for _ in 0..number {
        let sender = sender.clone();
        begun.spawn(async move { converse(&sender).await });
    }
    let begun = begun.join_all().await;
    let failed = begun.iter().filter(|begun| begun.is_err()).count();
    assert_eq!(
        failed,
        0,
        "of {number}: {}",
        begun.iter().find_map(|begun| begun.as_ref().err()).unwrap()
    );
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{number} after {:?}",
        start.elapsed()
    );
    begun.into_iter().map(Result::unwrap).collect()
}

async fn conversations_at_a_hundred_streams() {
    for at_once in [true, false] {
        let world = World::new();
        let host = world.host("a").await;
        host.limit_streams(100);
        let sender = world.sender();
        let mut held = Vec::new();
        if at_once {
            held = converse_at_once(&sender, 300).await;
        } else {
            for number in 0..300 {
                held.push(
                    converse(&sender)
                        .await
                        .unwrap_or_else(|error| panic!("number {number}: {error}")),
                );
            }
        }
        assert_eq!(host.requests.load(Relaxed), 300);
        let open = host.open.load(Relaxed);
        // Another connection is opened once all are three quarters full.
        assert!(
            (3..=5).contains(&open),
            "{open} connections, at once: {at_once}"
        );
        drop(held);
    }
}

#[tokio::test(start_paused = true)]
async fn conversations_beyond_the_limit_of_a_connection_all_begin() {
    conversations_at_a_hundred_streams().await;
}

/// Two threads in real time: capacity may be added between the pick and the wait of a call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conversations_beyond_the_limit_of_a_connection_all_begin_in_real_time() {
    conversations_at_a_hundred_streams().await;
}

/// Streams are added one by one, so that each connection is nearly full when the next is needed.
#[tokio::test(start_paused = true)]
async fn connections_are_added_up_to_eight_as_conversations_come() {
    for (limit, connections) in [(100, 8..=8), (200, 4..=6)] {
        let world = World::new();
        let host = world.host("a").await;
        host.limit_streams(limit);
        let sender = world.sender();
        let mut held = Vec::new();
        for _ in 0..40 {
            held.extend(converse_at_once(&sender, 20).await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let open = host.open.load(Relaxed);
        assert!(
            held.len() == 800 && connections.contains(&open),
            "limit {limit}: {} on {open} connections",
            held.len()
        );
        if limit == 100 {
            // The capacity is exhausted: one more stream waits, and starts when another ends.
            let one_more = tokio::spawn({
                let sender = sender.clone();
                async move { converse(&sender).await }
            });
            tokio::time::sleep(LONG).await;
            assert!(!one_more.is_finished());
            held.pop();
            one_more.await.unwrap().unwrap();
        }
    }
}

/// Subset of HTTP/2 frames that this server uses.
mod frame {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PING: u8 = 6;
    /// `END_STREAM` of DATA and HEADERS, `ACK` of SETTINGS and PING.
    pub(super) const END: u8 = 1;
    pub(super) const END_HEADERS: u8 = 4;

    pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    /// Returns a SETTINGS frame with `MAX_CONCURRENT_STREAMS` alone.
    pub(super) fn limit(streams: u32) -> Vec<u8> {
        frame(
            SETTINGS,
            0,
            0,
            &[&[0, 3], &streams.to_be_bytes()[..]].concat(),
        )
    }

    /// Returns a HEADERS frame with status 200 and the end of the stream.
    pub(super) fn answer(stream: u32) -> Vec<u8> {
        frame(HEADERS, END | END_HEADERS, stream, &[0x88])
    }
}

/// Server that changes its limit of streams, on all its connections, and answers after `work`.
#[derive(Clone, Debug)]
struct Limited {
    limit: watch::Sender<u32>,
    work: Duration,
    answered: Arc<AtomicUsize>,
}

impl Limited {
    fn new(limit: u32, work: Duration) -> Self {
        Self {
            limit: watch::Sender::new(limit),
            work,
            answered: Arc::default(),
        }
    }

    async fn serve(self, io: DuplexStream) {
        let (mut read, mut write) = tokio::io::split(io);
        let (send, mut frames) = mpsc::unbounded_channel::<Vec<u8>>();
        let mut limit = self.limit.subscribe();
        let first = frame::limit(*limit.borrow_and_update());
        let writing = async move {
            write.write_all(&first).await?;
            loop {
                let bytes = tokio::select! {
                    changed = limit.changed() => match changed {
                        Ok(()) => frame::limit(*limit.borrow_and_update()),
                        Err(_) => return Ok(()),
                    },
                    Some(bytes) = frames.recv() => bytes,
                };
                write.write_all(&bytes).await?;
            }
        };
        let mut answers = JoinSet::new();
        let reading = async {
            read.read_exact(&mut [0; 24]).await?;
            loop {
                let mut head = [0; 9];
                read.read_exact(&mut head).await?;
                let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
                read.read_exact(&mut payload).await?;
                let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                let (send, this) = (send.clone(), self.clone());
                match (head[3], head[4] & frame::END != 0) {
                    (frame::SETTINGS, false) => {
                        _ = send.send(frame::frame(frame::SETTINGS, frame::END, 0, &[]));
                    }
                    (frame::PING, false) => {
                        _ = send.send(frame::frame(frame::PING, frame::END, 0, &payload));
                    }
                    (frame::HEADERS | frame::DATA, true) => {
                        _ = answers.spawn(async move {
                            tokio::time::sleep(this.work).await;
                            this.answered.fetch_add(1, Relaxed);
                            let _ = send.send(frame::answer(stream));
                        });
                    }
                    _ => {}
                }
            }
        };
        let _: (std::io::Result<()>, std::io::Result<()>) = tokio::join!(writing, reading);
    }
}

impl Connect for Limited {
    fn connect<'a>(&'a self, _: &'a Address, _: &'a AddressPolicy) -> Connecting<'a> {
        Box::pin(async move {
            let (ours, theirs) = tokio::io::duplex(1 << 20);
            tokio::spawn(self.clone().serve(theirs));
            Ok(Box::new(ours) as BoxIo)
        })
    }
}

/// Makes three hundred calls to a server whose limit changes, the last time to a hundred; returns
/// the number answered before that.
async fn calls_at_limits(limits: &[u32]) -> usize {
    let server = Limited::new(limits[0], Duration::from_millis(20));
    let connect = server.clone();
    let world = World::through(ClientConfig::default(), AnyRegistry::new, move |_| connect);
    world.register("a").await;
    let sender = world.sender();
    sender.ready(LONG).await.unwrap();
    let mut calls = JoinSet::new();
    for _ in 0..300 {
        let sender = sender.clone();
        calls.spawn(async move { begin(&sender, "/act", "hi", None).await.map(drop) });
    }
    for limit in &limits[1..] {
        tokio::time::sleep(Duration::from_millis(100)).await;
        server.limit.send_replace(*limit);
    }
    let before = server.answered.load(Relaxed);
    server.limit.send_replace(100);
    let all = async {
        while let Some(answered) = calls.join_next().await {
            answered
                .unwrap()
                .unwrap_or_else(|error| panic!("{limits:?}: {error}"));
        }
    };
    tokio::time::timeout(Duration::from_secs(2), all)
        .await
        .unwrap_or_else(|_| panic!("{limits:?}: calls are left"));
    assert_eq!(server.answered.load(Relaxed), 300);
    before
}

/// The calls would wait for their deadline of 30 s if the raised limit did not serve them.
#[tokio::test(start_paused = true)]
async fn a_limit_that_rises_serves_the_calls_that_wait() {
    assert_eq!(calls_at_limits(&[0]).await, 0);
    assert_eq!(calls_at_limits(&[0, 0]).await, 0);
    assert!(
        calls_at_limits(&[1]).await <= 8,
        "a stream on each of at most eight connections"
    );
    // The limit is lowered while calls wait, and raised again.
    assert!((1..300).contains(&calls_at_limits(&[2, 1, 0]).await));
    assert!((1..300).contains(&calls_at_limits(&[2, 0, 1, 0]).await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_that_rises_serves_the_calls_that_wait_in_real_time() {
    assert_eq!(calls_at_limits(&[0, 0]).await, 0);
    assert!((1..300).contains(&calls_at_limits(&[2, 0]).await));
}

/// Calls find the lost connections full until the end of these is processed; that must not open
/// more.
#[tokio::test(start_paused = true)]
async fn a_node_that_restarts_keeps_its_number_of_connections() {
    let world = World::new();
    let host = world.host("a").await;
    let sender = world.sender();
    sender.ready(LONG).await.unwrap();
    for _ in 0..10 {
        let mut calls = JoinSet::new();
        for _ in 0..10 {
            let sender = sender.clone();
            calls.spawn(async move { call(&sender, "/look", "sleep 20").await.map(drop) });
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        host.break_off();
        for answered in calls.join_all().await {
            answered.unwrap();
        }
        tokio::time::sleep(LONG).await;
    }
    let open = host.open.load(Relaxed);
    assert!(open <= 2, "{open} connections for ten calls at a time");
}
