//! Request body that can be sent again.
//!
//! A unary body is complete at once and is passed to h2 whole. Of any other body, the sent part is
//! buffered up to a limit; beyond it the body cannot be replayed. The body is user code: it may
//! fail or panic, and both are errors of the request.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::SendStream;
use http::HeaderMap;
use http_body::{Body, Frame};

use crate::protocol::BoxError;
use crate::request_error::RequestError;

/// Maximum size of a chunk that is copied instead of being kept with the buffer around it.
const SMALL: usize = 1024;
/// Minimum cost of a chunk, so that a body of very many small chunks is bounded too.
const LEAST_COST: usize = size_of::<Bytes>();

/// Request body that buffers the chunks that it has yielded.
pub(crate) struct ReplayBody<B> {
    body: Option<B>,
    kept: Pieces,
    trailers: Option<Box<HeaderMap>>,
    size: usize,
    limit: usize,
    forgotten: bool,
    failed: bool,
    error: Option<Box<RequestError>>,
}

/// Chunks of a body, in order: nearly always one, which needs no list.
#[derive(Default)]
struct Pieces {
    first: Option<Bytes>,
    others: Vec<Bytes>,
}

impl Pieces {
    fn push(&mut self, data: Bytes) {
        if self.first.is_none() {
            self.first = Some(data);
        } else {
            self.others.push(data);
        }
    }

    fn get(&self, index: usize) -> Option<&Bytes> {
        if index == 0 {
            self.first.as_ref()
        } else {
            self.others.get(index - 1)
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Bytes> {
        self.first.iter().chain(&self.others)
    }
}

/// Frame of a body, in memory of our own.
enum Piece {
    Data(Bytes),
    Trailers(Option<Box<HeaderMap>>),
}

impl<B> ReplayBody<B> {
    /// Creates a body of which `limit` bytes are buffered; a body of a single chunk is buffered
    /// whole. A chunk counts as at least the size of a [`Bytes`] handle, 32 bytes.
    pub(crate) fn new(body: B, limit: usize) -> Self {
        Self {
            body: Some(body),
            kept: Pieces::default(),
            trailers: None,
            size: 0,
            limit,
            forgotten: false,
            failed: false,
            error: None,
        }
    }

    /// Returns true if the whole body is buffered.
    pub(crate) fn is_complete(&self) -> bool {
        self.body.is_none() && !self.forgotten && !self.failed
    }

    /// Returns true if the body can be sent from its start.
    pub(crate) fn can_replay(&self) -> bool {
        !self.forgotten && !self.failed
    }

    /// Returns true if the body ended with an error.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed
    }

    /// Returns the number of buffered bytes.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.kept.iter().map(Bytes::len).sum()
    }

    /// Takes the error that ended the body, once.
    pub(crate) fn take_error(&mut self) -> Option<RequestError> {
        self.error.take().map(|error| *error)
    }

    /// Returns a buffered chunk.
    pub(super) fn piece(&self, index: usize) -> Option<Bytes> {
        self.kept.get(index).cloned()
    }

    /// Returns the trailers, once the body has ended with some.
    pub(super) fn trailers(&self) -> Option<&HeaderMap> {
        self.trailers.as_deref()
    }

    /// Drops the buffered part of a body above its limit: the body is then sent only once.
    pub(super) fn forget_above_limit(&mut self) {
        if self.size > self.limit {
            self.forgotten = true;
            self.kept = Pieces::default();
        }
    }

    /// Passes a complete body to h2 at once. The last DATA frame carries END_STREAM: some servers
    /// never respond to a request that ends with HEADERS.
    pub(crate) fn send_whole(&self, stream: &mut SendStream<Bytes>) -> Result<(), h2::Error> {
        let mut pieces = self.kept.iter().cloned().peekable();
        if let Some(trailers) = self.trailers() {
            pieces.try_for_each(|data| stream.send_data(data, false))?;
            return stream.send_trailers(trailers.clone());
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

    fn keep(&mut self, data: &Bytes) {
        self.size = self.size.saturating_add(data.len().max(LEAST_COST));
        if !self.forgotten && !data.is_empty() {
            self.kept.push(data.clone());
        }
    }

    fn fail(&mut self, error: RequestError) {
        self.failed = true;
        self.error = Some(Box::new(error));
    }
}

impl<B> ReplayBody<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    /// Buffers the part of the body that is available at once, up to the limit.
    pub(crate) fn fill(&mut self, cx: &mut Context<'_>) {
        while self.size <= self.limit && self.body.is_some() {
            if self.poll_next(cx).is_pending() {
                return;
            }
        }
    }

    /// Polls for the next chunk, which is buffered too. Returns none at the end of the body, or at
    /// its error.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let piece = ready!(poll_piece(body, cx));
        if let Some(Ok(Piece::Data(data))) = piece {
            self.keep(&data);
            return Poll::Ready(Some(data));
        }
        match piece {
            Some(Ok(Piece::Trailers(trailers))) => self.trailers = trailers,
            Some(Err(error)) => self.fail(error),
            _ => {}
        }
        self.end();
        Poll::Ready(None)
    }

    /// Drops the body. The drop may panic too.
    fn end(&mut self) {
        let body = self.body.take();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(body))) {
            self.fail(RequestError::from_panic(&*panic));
        }
    }
}

/// Polls the user's body; a panic becomes an error of the body.
fn poll_piece<B>(body: &mut B, cx: &mut Context<'_>) -> Poll<Option<Result<Piece, RequestError>>>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    let poll = AssertUnwindSafe(|| {
        let frame = ready!(Pin::new(body).poll_frame(cx));
        Poll::Ready(frame.map(|frame| {
            frame
                .map(into_piece)
                .map_err(|error| RequestError::Body(error.into()))
        }))
    });
    catch_unwind(poll)
        .unwrap_or_else(|panic| Poll::Ready(Some(Err(RequestError::from_panic(&*panic)))))
}

fn into_piece(frame: Frame<impl Buf>) -> Piece {
    match frame.into_data() {
        Ok(data) => Piece::Data(into_bytes(data)),
        Err(frame) => Piece::Trailers(frame.into_trailers().ok().map(Box::new)),
    }
}

/// Converts a chunk into bytes. A small chunk is mostly a slice of a large buffer (tonic allocates
/// 8 KiB for each call), which would live as long as the call and displace other data from the
/// processor's cache. It is therefore copied.
fn into_bytes(mut data: impl Buf) -> Bytes {
    if data.remaining() > SMALL {
        return data.copy_to_bytes(data.remaining());
    }
    let mut copy = BytesMut::with_capacity(data.remaining());
    copy.put(data);
    copy.freeze()
}

#[cfg(test)]
mod tests;
