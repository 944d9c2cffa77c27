//! Body of a response, in flight until it ends or is dropped.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;
use waypost_core::peer::AttemptEnd;
use waypost_core::record::Node;

use super::attempt::InFlight;
use super::timer::Timer;
use crate::conn::{CancelledStream, Connection};
use crate::error::{BodyError, StreamError};
use crate::protocol::{BoxError, ResponseClass};

/// Node that served a call, as an extension of every response.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServedBy {
    /// The node, as the registry described it.
    pub node: Arc<Node>,
    /// Number of attempts that the call took. More than one means that it was moved or retried.
    pub attempts: u32,
}

/// Body of a response. Dropped early, it ends the call; read to its end, it reports the outcome to
/// the balancer. It keeps the client's connections open, even if all handles of the client are
/// dropped.
///
/// Every layer of a call passes it on, so it is kept small.
pub struct ResponseBody {
    recv: Option<RecvStream>,
    peeked: Option<Peeked>,
    done: bool,
    in_flight: Option<InFlight>,
    deadline: Option<Deadline>,
}

/// First frame, peeked at and not yet yielded.
enum Peeked {
    Data(Bytes),
    Trailers(Box<HeaderMap>),
}

impl From<Peeked> for Frame<Bytes> {
    fn from(peeked: Peeked) -> Self {
        match peeked {
            Peeked::Data(data) => Self::data(data),
            Peeked::Trailers(trailers) => Self::trailers(*trailers),
        }
    }
}

/// Deadline of the caller. The timer comes from the wait for the headers, and is reset to the
/// deadline only when it is polled.
struct Deadline {
    at: Instant,
    timer: Timer,
}

impl Deadline {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.timer.reset(self.at);
        self.timer.poll(cx)
    }
}

impl fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody")
            .field("done", &self.done)
            .finish_non_exhaustive()
    }
}

impl ResponseBody {
    pub(super) fn new(recv: RecvStream, in_flight: InFlight) -> Self {
        Self {
            recv: Some(recv),
            peeked: None,
            done: false,
            in_flight: Some(in_flight),
            deadline: None,
        }
    }

    /// Sets the deadline to `at`. It is measured by `timer`, whose current setting does not matter.
    pub(super) fn set_deadline(&mut self, at: Instant, timer: Timer) {
        self.deadline = Some(Deadline { at, timer });
    }

    /// Takes the timer back, for another attempt.
    pub(super) fn take_timer(&mut self) -> Option<Timer> {
        self.deadline.take().map(|deadline| deadline.timer)
    }

    /// Returns the attempt of this response, until it ends.
    pub(super) fn in_flight(&self) -> Option<&InFlight> {
        self.in_flight.as_ref()
    }

    /// Returns the connection of the attempt, until it ends.
    pub(super) fn connection(&self) -> Option<&Arc<Connection>> {
        self.in_flight.as_ref().map(InFlight::connection)
    }

    /// Peeks at the first frame without consuming it. Returns the class once the frame has arrived,
    /// or the stream has ended.
    pub(super) fn poll_peek(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<ResponseClass, BodyError>> {
        let frame = match self.poll_recv(cx) {
            Poll::Ready(None) => return Poll::Ready(Ok(ResponseClass::Success)),
            Poll::Ready(Some(Err(error))) => {
                return Poll::Ready(Err(BodyError::Broken(StreamError::new(error))));
            }
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Pending => return self.poll_deadline(cx).map(|()| Err(BodyError::Deadline)),
        };
        let (peeked, class) = match frame.into_data() {
            Ok(data) => (Some(Peeked::Data(data)), ResponseClass::Success),
            Err(frame) => {
                let trailers = frame.into_trailers().ok().map(Box::new);
                let class = trailers
                    .as_ref()
                    .map_or(ResponseClass::Success, |trailers| self.classify(trailers));
                (trailers.map(Peeked::Trailers), class)
            }
        };
        self.peeked = peeked;
        Poll::Ready(Ok(class))
    }

    /// Records the class of the response, and ends the attempt if the response is complete: it
    /// ended with its headers, or with trailers that were peeked at.
    pub(super) fn classified(&mut self, class: ResponseClass) {
        let complete = match &self.peeked {
            Some(peeked) => matches!(peeked, Peeked::Trailers(_)),
            None => self.recv.as_ref().is_none_or(RecvStream::is_end_stream),
        };
        if complete {
            self.finish(end_of(class));
        } else if class != ResponseClass::Success
            && let Some(in_flight) = &mut self.in_flight
        {
            in_flight.set_end(end_of(class));
        }
    }

    /// Returns the class of the trailers, while the attempt has not ended.
    fn classify(&self, trailers: &HeaderMap) -> ResponseClass {
        self.in_flight
            .as_ref()
            .map_or(ResponseClass::Success, |in_flight| {
                in_flight.protocol().classify_trailers(trailers)
            })
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        match &mut self.recv {
            Some(recv) => poll_received(recv, cx),
            None => Poll::Ready(None),
        }
    }

    fn poll_next_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.done {
            // A frame that was peeked at before the end is still to be yielded.
            return Poll::Ready(self.peeked.take().map(|peeked| Ok(peeked.into())));
        }
        let next = match self.peeked.take() {
            Some(peeked) => Poll::Ready(Some(Ok(peeked.into()))),
            None => self.poll_recv(cx),
        };
        match next {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_ref() {
                    let class = self.classify(trailers);
                    self.finish(end_of(class));
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => self.fail(BodyError::Broken(StreamError::new(error))),
            Poll::Ready(None) => {
                self.finish(AttemptEnd::Answered);
                Poll::Ready(None)
            }
            Poll::Pending => match self.poll_deadline(cx) {
                Poll::Ready(()) => self.fail(BodyError::Deadline),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.deadline
            .as_mut()
            .map_or(Poll::Pending, |deadline| deadline.poll(cx))
    }

    /// Ends the attempt: its stream has ended.
    pub(super) fn finish(&mut self, end: AttemptEnd) {
        self.done = true;
        self.deadline = None;
        if let Some(in_flight) = self.in_flight.take() {
            in_flight.finish(end);
        }
    }

    #[cold]
    fn fail(&mut self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let of_request = match error {
            BodyError::Broken(_) => self
                .in_flight
                .as_ref()
                .and_then(InFlight::take_request_error),
            _ => None,
        };
        let error = of_request.map_or(error, BodyError::Request);
        let (end, abandons) = match error {
            BodyError::Request(_) => (AttemptEnd::LocalMistake, false),
            BodyError::Deadline => (AttemptEnd::Deadline, true),
            BodyError::Broken(_) => (AttemptEnd::Lost, false),
        };
        let error = match &self.in_flight {
            Some(in_flight) => in_flight.protocol().body_error(error),
            None => Box::new(error),
        };
        if abandons {
            self.abandon(end);
        } else {
            self.finish(end);
        }
        Poll::Ready(Some(Err(error)))
    }

    /// Ends an incomplete response: its stream is reset as soon as the server can take that.
    pub(super) fn abandon(&mut self, end: AttemptEnd) {
        self.done = true;
        self.deadline = None;
        if let Some(in_flight) = self.in_flight.take() {
            self.cancel(in_flight, end);
        }
    }

    #[cold]
    fn cancel(&mut self, mut in_flight: InFlight, end: AttemptEnd) {
        in_flight.set_end(end);
        if let Some(recv) = self.recv.take() {
            let connection = Arc::clone(in_flight.connection());
            connection.cancel(CancelledStream::new(
                recv.stream_id(),
                (recv, in_flight.into_held()),
            ));
        }
    }
}

/// Polls for the next frame of a stream, and releases its capacity to the server.
#[inline]
pub(crate) fn poll_received(
    recv: &mut RecvStream,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
    if let Some(data) = ready!(recv.poll_data(cx)) {
        return Poll::Ready(Some(data.map(|data| {
            // Refused only if more is released than was received.
            let _ = recv.flow_control().release_capacity(data.len());
            Frame::data(data)
        })));
    }
    Poll::Ready(
        ready!(recv.poll_trailers(cx))
            .transpose()
            .map(|trailers| trailers.map(Frame::trailers)),
    )
}

fn end_of(class: ResponseClass) -> AttemptEnd {
    if class == ResponseClass::Success {
        AttemptEnd::Answered
    } else {
        AttemptEnd::NodeFailed
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        self.abandon(AttemptEnd::Cancelled);
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.poll_next_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.peeked.is_none()
            && (self.done || self.recv.as_ref().is_none_or(RecvStream::is_end_stream))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
