//! A response's body, in flight until it ends or is dropped.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use waypost_core::balance::Pick;
use waypost_core::peer::Outcome;
use waypost_core::record::Node;

use crate::error::BodyError;
use crate::link::{Link, Permit};
use crate::protocol::{BoxError, Protocol, Verdict};

/// Who answered: an extension of every response.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Picked {
    /// The node, as the registry described it.
    pub node: Arc<Node>,
    /// How many attempts the call took; more than one: it was moved.
    pub attempts: u32,
}

/// What a call holds until its end: the pick, the permit, and the task that feeds its request. Fields drop in this order.
pub(crate) struct InFlight {
    pub(crate) _pump: Option<Box<dyn Any + Send>>,
    pub(crate) _permit: Permit,
    pub(crate) pick: Pick<Link>,
}

/// The body of a response. Dropped early, it ends the call; read to its end, it tells the balancer how the call ended.
pub struct ResponseBody {
    recv: RecvStream,
    peeked: Option<Frame<Bytes>>,
    done: bool,
    in_flight: Option<InFlight>,
    deadline: Option<Deadline>,
    protocol: Arc<dyn Protocol>,
}

/// The end of the caller's time. The timer comes from the wait for the headers, and is set right only when it is needed.
struct Deadline {
    at: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Deadline {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.timer.deadline() != self.at {
            self.timer.as_mut().reset(self.at);
        }
        self.timer.as_mut().poll(cx)
    }
}

impl fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").field("done", &self.done).finish_non_exhaustive()
    }
}

impl ResponseBody {
    pub(crate) fn new(recv: RecvStream, in_flight: InFlight, protocol: Arc<dyn Protocol>) -> Self {
        Self { recv, peeked: None, done: false, in_flight: Some(in_flight), deadline: None, protocol }
    }

    /// Ends it at `at`, told by `timer`, whatever that is set to now.
    pub(crate) fn set_deadline(&mut self, at: Instant, timer: Pin<Box<Sleep>>) {
        self.deadline = Some(Deadline { at, timer });
    }

    /// Looks at the first frame without taking it. Some verdict once it is there, or the stream's end.
    pub(crate) fn poll_peek(&mut self, cx: &mut Context<'_>) -> Poll<Result<Verdict, BodyError>> {
        let frame = match self.poll_recv(cx) {
            Poll::Ready(None) => return Poll::Ready(Ok(Verdict::Fine)),
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(BodyError::Broken(error))),
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Pending => return self.poll_deadline(cx).map(|()| Err(BodyError::Deadline)),
        };
        let verdict = frame.trailers_ref().map_or(Verdict::Fine, |trailers| self.protocol.classify_trailers(trailers));
        self.peeked = Some(frame);
        Poll::Ready(Ok(verdict))
    }

    /// What it is an answer of, until it ends.
    pub(crate) fn pick(&self) -> Option<&Pick<Link>> {
        self.in_flight.as_ref().map(|in_flight| &in_flight.pick)
    }

    /// Gives up the rest: it broke off before the caller saw any of it.
    pub(crate) fn into_pick(mut self) -> Option<Pick<Link>> {
        self.in_flight.take().map(|in_flight| in_flight.pick)
    }

    /// The answer ended with its headers.
    pub(crate) fn end_with(&mut self, verdict: Verdict) {
        self.finish(outcome_of(verdict));
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if let Some(data) = ready!(self.recv.poll_data(cx)) {
            return Poll::Ready(Some(data.map(|data| {
                // Refused only if more is given back than was taken.
                let _ = self.recv.flow_control().release_capacity(data.len());
                Frame::data(data)
            })));
        }
        Poll::Ready(ready!(self.recv.poll_trailers(cx)).transpose().map(|trailers| trailers.map(Frame::trailers)))
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.deadline.as_mut().map_or(Poll::Pending, |deadline| deadline.poll(cx))
    }

    fn finish(&mut self, outcome: Outcome) {
        self.done = true;
        self.deadline = None;
        if let Some(mut in_flight) = self.in_flight.take() {
            in_flight.pick.ended(outcome);
        }
    }

    fn fail(&mut self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let outcome = if matches!(error, BodyError::Deadline) { Outcome::Cancelled } else { Outcome::Failed };
        self.finish(outcome);
        Poll::Ready(Some(Err(self.protocol.body_error(error))))
    }
}

fn outcome_of(verdict: Verdict) -> Outcome {
    if verdict == Verdict::Fine { Outcome::Answered } else { Outcome::Failed }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if this.done {
            return Poll::Ready(None);
        }
        let next = match this.peeked.take() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => this.poll_recv(cx),
        };
        match next {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_ref() {
                    let verdict = this.protocol.classify_trailers(trailers);
                    this.finish(outcome_of(verdict));
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => this.fail(BodyError::Broken(error)),
            Poll::Ready(None) => {
                this.finish(Outcome::Answered);
                Poll::Ready(None)
            }
            Poll::Pending => match this.poll_deadline(cx) {
                Poll::Ready(()) => this.fail(BodyError::Deadline),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.done || (self.peeked.is_none() && self.recv.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
