//! A request's body, kept so that it can be sent again.
//!
//! A unary body is there at once and is handed to h2 whole. One that is not gets a task that feeds it to h2 as room allows and ends with
//! the call. What was fed is kept up to a limit; beyond it the call cannot be sent again.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::{Reason, SendStream};
use http::HeaderMap;
use http_body::Body;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A piece of a body that is copied rather than kept with the buffer around it.
const SMALL: usize = 1024;

/// A body that remembers what it has given.
pub(crate) struct Replay<B> {
    body: Option<B>,
    kept: Pieces,
    trailers: Option<Box<HeaderMap>>,
    size: usize,
    limit: usize,
    forgotten: bool,
    failed: bool,
}

/// What a body gave so far, in order: of nearly every call one piece, which then costs no list.
#[derive(Clone, Default)]
struct Pieces {
    first: Option<Bytes>,
    rest: Vec<Bytes>,
}

impl Pieces {
    fn push(&mut self, data: Bytes) {
        if self.first.is_none() {
            self.first = Some(data);
        } else {
            self.rest.push(data);
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Bytes> {
        self.first.iter().chain(&self.rest)
    }
}

impl<B> Replay<B>
where
    B: Body + Unpin + Send + 'static,
    B::Data: Buf,
{
    pub(crate) fn new(body: B, limit: usize) -> Self {
        Self { body: Some(body), kept: Pieces::default(), trailers: None, size: 0, limit, forgotten: false, failed: false }
    }

    /// Keeps nothing of what is still to come: it is sent once.
    pub(crate) fn send_once(&mut self) {
        self.limit = 0;
    }

    /// Whether the whole body is here.
    pub(crate) fn is_complete(&self) -> bool {
        self.body.is_none() && !self.forgotten
    }

    /// Whether it can be sent from the start once more.
    pub(crate) fn can_replay(&self) -> bool {
        !self.forgotten && !self.failed
    }

    /// Takes what the body gives without waiting, up to the limit.
    pub(crate) fn fill(&mut self, cx: &mut Context<'_>) {
        while self.size <= self.limit && self.body.is_some() {
            if self.poll_next(cx).is_pending() {
                return;
            }
        }
    }

    /// The next piece of the body, which is kept too.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let Some(frame) = ready!(Pin::new(body).poll_frame(cx)) else {
            self.body = None;
            return Poll::Ready(None);
        };
        let Ok(frame) = frame else {
            self.body = None;
            self.failed = true;
            return Poll::Ready(None);
        };
        match frame.into_data() {
            Ok(data) => {
                let data = own(data);
                self.keep(data.clone());
                Poll::Ready(Some(data))
            }
            Err(frame) => {
                self.trailers = frame.into_trailers().ok().map(Box::new);
                self.body = None;
                Poll::Ready(None)
            }
        }
    }

    fn keep(&mut self, data: Bytes) {
        self.size += data.len();
        // The first filling may pass the limit by one piece; only what the task feeds later is forgotten.
        if !self.forgotten {
            self.kept.push(data);
        }
    }

    /// Hands a complete body to h2 at once. DATA always carries END_STREAM: some servers never answer a request that ends on HEADERS.
    pub(crate) fn send_whole(&self, stream: &mut SendStream<Bytes>) -> Result<(), h2::Error> {
        if self.failed {
            stream.send_reset(Reason::CANCEL);
            return Ok(());
        }
        let mut pieces = self.kept.iter().cloned().peekable();
        if let Some(trailers) = &self.trailers {
            pieces.try_for_each(|data| stream.send_data(data, false))?;
            return stream.send_trailers(HeaderMap::clone(trailers));
        }
        loop {
            let data = pieces.next().unwrap_or_default();
            let last = pieces.peek().is_none();
            stream.send_data(data, last)?;
            if last {
                return Ok(());
            }
        }
    }

    async fn feed(&mut self, stream: &mut SendStream<Bytes>) -> Result<(), h2::Error> {
        let Pieces { first, rest } = self.kept.clone();
        for data in first.into_iter().chain(rest) {
            send_piece(stream, data).await?;
        }
        while let Some(data) = poll_fn(|cx| self.poll_next(cx)).await {
            if self.size > self.limit {
                self.forgotten = true;
                self.kept = Pieces::default();
            }
            send_piece(stream, data).await?;
        }
        if self.failed {
            stream.send_reset(Reason::CANCEL);
            return Ok(());
        }
        match &self.trailers {
            Some(trailers) => stream.send_trailers(HeaderMap::clone(trailers)),
            None => stream.send_data(Bytes::new(), true),
        }
    }
}

/// A small piece is mostly a slice of a large buffer (tonic makes one of 8 KiB for each call), which would live as long as the call and
/// push everything else out of the processor's cache. So it is copied.
fn own(mut data: impl Buf) -> Bytes {
    if data.remaining() > SMALL {
        return data.copy_to_bytes(data.remaining());
    }
    let mut copy = BytesMut::with_capacity(data.remaining());
    copy.put(data);
    copy.freeze()
}

/// Sends one piece as the peer's windows allow; what is left when the stream was closed early is the response's to explain.
async fn send_piece(stream: &mut SendStream<Bytes>, mut data: Bytes) -> Result<(), h2::Error> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        while stream.capacity() == 0 {
            match poll_fn(|cx| stream.poll_capacity(cx)).await {
                Some(room) => room?,
                None => return Ok(()),
            };
        }
        let room = stream.capacity().min(data.len());
        stream.send_data(data.split_to(room), false)?;
    }
    Ok(())
}

/// The task that feeds an unfinished body; it ends when this is dropped.
pub(crate) struct Pump<B> {
    task: Option<JoinHandle<Replay<B>>>,
    stop: Option<oneshot::Sender<()>>,
    done: Arc<AtomicBool>,
}

impl<B> Pump<B>
where
    B: Body + Unpin + Send + 'static,
    B::Data: Buf + Send,
{
    pub(crate) fn start(mut replay: Replay<B>, mut stream: SendStream<Bytes>) -> Self {
        let (stop, stopped) = oneshot::channel();
        let done = Arc::new(AtomicBool::new(false));
        let finished = Arc::clone(&done);
        #[expect(clippy::disallowed_methods, reason = "the call owns it: dropped with the call, it is aborted")]
        let task = tokio::spawn(async move {
            tokio::select! {
                // What cannot be sent is told to the call by its response.
                _ = replay.feed(&mut stream) => finished.store(true, Relaxed),
                _ = stopped => {}
            }
            replay
        });
        Self { task: Some(task), stop: Some(stop), done }
    }

    /// Whether the whole body was handed over.
    pub(crate) fn is_done(&self) -> bool {
        self.done.load(Relaxed)
    }

    /// Stops it and takes the body back.
    pub(crate) async fn take_back(mut self) -> Option<Replay<B>> {
        drop(self.stop.take());
        let task = self.task.as_mut()?;
        task.await.ok()
    }
}

impl<B> Drop for Pump<B> {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}
