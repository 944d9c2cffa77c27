//! Tests of bodies over a real h2 connection, in memory.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{RecvStream, client, server};
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use tokio::runtime::{Builder, Handle};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::*;

const LONG: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
#[error("of the body's own")]
struct Own;

/// Instructions to a body.
enum Give {
    Data(Bytes),
    Trailers(HeaderMap),
    Error,
    Panic,
}

/// Body that yields the items that its test sends.
struct Given(mpsc::UnboundedReceiver<Give>);

impl Body for Given {
    type Data = Bytes;
    type Error = Own;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Own>>> {
        self.0.poll_recv(cx).map(|give| match give? {
            Give::Data(data) => Some(Ok(Frame::data(data))),
            Give::Trailers(trailers) => Some(Ok(Frame::trailers(trailers))),
            Give::Error => Some(Err(Own)),
            Give::Panic => panic!("the user's stream"),
        })
    }
}

fn body(limit: usize) -> (mpsc::UnboundedSender<Give>, ReplayBody<Given>) {
    let (give, given) = mpsc::unbounded_channel();
    (give, ReplayBody::new(Given(given), limit))
}

fn data(text: &'static str) -> Give {
    Give::Data(Bytes::from_static(text.as_bytes()))
}

/// Client and server, in one task each.
struct Pair {
    client: SendRequest<Bytes>,
    requests: mpsc::UnboundedReceiver<(Request<RecvStream>, SendResponse<Bytes>)>,
    _tasks: JoinSet<()>,
}

impl Pair {
    async fn new() -> Self {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let mut tasks = JoinSet::new();
        let (sender, requests) = mpsc::unbounded_channel();
        tasks.spawn(async move {
            let mut server = server::handshake(theirs).await.unwrap();
            while let Some(Ok(request)) = server.accept().await {
                let _ = sender.send(request);
            }
        });
        let (client, connection) = client::handshake(ours).await.unwrap();
        tasks.spawn(async move {
            let _ = connection.await;
        });
        Self {
            client,
            requests,
            _tasks: tasks,
        }
    }

    fn open(&mut self) -> (ResponseFuture, SendStream<Bytes>) {
        self.client
            .send_request(Request::post("http://h/a").body(()).unwrap(), false)
            .unwrap()
    }

    async fn accept(&mut self) -> (RecvStream, SendResponse<Bytes>) {
        let (request, respond) = timeout(LONG, self.requests.recv()).await.unwrap().unwrap();
        (request.into_body(), respond)
    }
}

/// Reads a body to its end: data and trailers.
async fn read(body: &mut RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut all = Vec::new();
    while let Some(data) = timeout(LONG, body.data()).await.unwrap() {
        let data = data?;
        let _ = body.flow_control().release_capacity(data.len());
        all.extend_from_slice(&data);
    }
    Ok((all, body.trailers().await?))
}

async fn piece(body: &mut RecvStream) -> Bytes {
    timeout(LONG, body.data()).await.unwrap().unwrap().unwrap()
}

#[tokio::test]
async fn a_body_that_fails_or_panics_while_it_is_sent_ends_the_call_with_its_own_error() {
    let (failed, panicked) = (
        "request body failed",
        "request body panicked: the user's stream",
    );
    let cases = [
        (Give::Error, failed, true),
        (Give::Panic, panicked, true),
        (Give::Error, failed, false),
    ];
    for (bad, text, taken) in cases {
        let mut pair = Pair::new().await;
        let (give, replay) = body(1 << 16);
        let (response, stream) = pair.open();
        let task = BodyTask::spawn(replay, stream);
        give.send(data("one")).unwrap();
        let (mut received, _respond) = pair.accept().await;
        assert_eq!(piece(&mut received).await, "one");
        assert!(task.take_error().is_none());
        give.send(bad).unwrap();
        let error = timeout(LONG, response)
            .await
            .expect("the call hangs")
            .unwrap_err();
        assert!(error.is_reset() && !error.is_remote(), "{error}");
        assert_eq!(
            read(&mut received).await.unwrap_err().reason(),
            Some(Reason::CANCEL)
        );
        let error = if taken {
            let error = task.take_error().unwrap();
            assert!(!task.take_back().await.unwrap().unwrap().can_replay());
            error
        } else {
            task.take_back().await.err().unwrap()
        };
        assert_eq!(error.to_string(), text);
        if let RequestError::Body(source) = error {
            assert!(source.downcast_ref::<Own>().is_some());
        }
    }
}

#[tokio::test]
async fn a_body_that_fails_after_the_response_began_ends_the_response_with_its_own_error() {
    let mut pair = Pair::new().await;
    let (give, replay) = body(1 << 16);
    let (response, stream) = pair.open();
    let task = BodyTask::spawn(replay, stream);
    let (_received, mut respond) = pair.accept().await;
    let _stream = respond.send_response(Response::new(()), false).unwrap();
    let mut response = timeout(LONG, response).await.unwrap().unwrap();
    let guard = task.into_guard();
    give.send(Give::Panic).unwrap();
    assert!(
        timeout(LONG, response.body_mut().data())
            .await
            .expect("the response hangs")
            .unwrap()
            .is_err()
    );
    assert!(matches!(
        guard.take_error(),
        Some(RequestError::BodyPanicked(_))
    ));
}

#[test]
fn a_task_that_is_aborted_with_its_runtime_ends_the_call() {
    let other = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut pair = Pair::new().await;
        let (give, replay) = body(1 << 16);
        let (response, stream) = pair.open();
        let task = {
            let _entered = other.enter();
            BodyTask::spawn(replay, stream)
        };
        give.send(data("one")).unwrap();
        let (mut received, _respond) = pair.accept().await;
        assert_eq!(piece(&mut received).await, "one");
        other.shutdown_background();
        assert!(
            timeout(LONG, response)
                .await
                .expect("the call hangs")
                .is_err()
        );
        assert!(matches!(task.take_error(), Some(RequestError::BodyAborted)));
        assert!(task.take_back().await.unwrap().is_none());
    });
}

#[tokio::test]
async fn a_body_taken_back_while_it_is_sent_is_replayed_whole_on_another_stream() {
    let mut pair = Pair::new().await;
    let (give, replay) = body(1 << 16);
    let (response, stream) = pair.open();
    let task = BodyTask::spawn(replay, stream);
    give.send(data("one")).unwrap();
    give.send(data("two")).unwrap();
    let (mut received, mut respond) = pair.accept().await;
    assert_eq!(piece(&mut received).await, "one");
    // The node responds that it is unavailable while the body is still being sent.
    respond
        .send_response(Response::builder().status(503).body(()).unwrap(), true)
        .unwrap();
    assert_eq!(
        timeout(LONG, response).await.unwrap().unwrap().status(),
        503
    );
    let replay = timeout(LONG, task.take_back())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(replay.can_replay() && !replay.is_complete());
    let (response, stream) = pair.open();
    let task = BodyTask::spawn(replay, stream);
    give.send(data("three")).unwrap();
    give.send(Give::Trailers(HeaderMap::from_iter([(
        "t".parse().unwrap(),
        "1".parse().unwrap(),
    )])))
    .unwrap();
    let (mut received, mut respond) = pair.accept().await;
    let (all, trailers) = read(&mut received).await.unwrap();
    assert_eq!(
        (all.as_slice(), trailers.unwrap().len()),
        (b"onetwothree".as_ref(), 1)
    );
    respond.send_response(Response::new(()), true).unwrap();
    assert_eq!(
        timeout(LONG, response).await.unwrap().unwrap().status(),
        200
    );
    assert!(task.is_finished() && task.take_error().is_none());
    // Complete by now, so it needs no task.
    let replay = task.take_back().await.unwrap().unwrap();
    assert!(replay.is_complete());
    let (_response, mut stream) = pair.open();
    replay.send_whole(&mut stream).unwrap();
    let (mut received, _respond) = pair.accept().await;
    assert_eq!(read(&mut received).await.unwrap().0, b"onetwothree");
}

#[tokio::test]
async fn a_body_above_its_limit_is_sent_whole_and_never_again() {
    let mut pair = Pair::new().await;
    let (give, replay) = body(1_000);
    let (_response, stream) = pair.open();
    let task = BodyTask::spawn(replay, stream);
    let piece = Bytes::from(vec![7; 100_000]);
    (0..20).for_each(|_| give.send(Give::Data(piece.clone())).unwrap());
    drop(give);
    let (mut received, _respond) = pair.accept().await;
    assert_eq!(
        read(&mut received).await.unwrap().0.len(),
        2_000_000,
        "larger than the window of a stream and of a connection"
    );
    let replay = task.take_back().await.unwrap().unwrap();
    assert!(!replay.can_replay() && replay.kept_bytes() == 0);
}

#[tokio::test]
async fn a_task_ends_with_its_call_and_a_task_handed_on_does_not() {
    let mut pair = Pair::new().await;
    let tasks = Handle::current().metrics().num_alive_tasks();
    let (give, replay) = body(1 << 16);
    let (response, stream) = pair.open();
    let guard = BodyTask::spawn(replay, stream).into_guard();
    let (mut received, _respond) = pair.accept().await;
    give.send(data("still here")).unwrap();
    assert_eq!(piece(&mut received).await, "still here");
    drop((guard, response));
    assert_eq!(
        read(&mut received).await.unwrap_err().reason(),
        Some(Reason::CANCEL)
    );
    give.closed().await;
    assert_eq!(Handle::current().metrics().num_alive_tasks(), tasks);
}

#[tokio::test]
async fn a_body_that_always_has_more_starves_no_other_task() {
    let mut pair = Pair::new().await;
    let (_response, stream) = pair.open();
    let endless = http_body_util::StreamBody::new(Endless);
    let task = BodyTask::spawn(ReplayBody::new(endless, 1 << 16), stream);
    let (mut received, _respond) = pair.accept().await;
    let _ = timeout(Duration::from_millis(20), received.data()).await;
    assert!(!task.is_finished());
}

/// Body of endless empty frames.
struct Endless;

impl futures_core::Stream for Endless {
    type Item = Result<Frame<Bytes>, Own>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(Some(Ok(Frame::data(Bytes::new()))))
    }
}
