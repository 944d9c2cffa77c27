//! One attempt: the resources it holds, and its single [`Finished`] record.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use h2::client::ResponseFuture;
use h2::{Reason, RecvStream};
use http::Response;
use tokio::time::Instant;
use waypost_core::balance::Pick;
use waypost_core::peer::{AttemptEnd, Finished};

use super::body_task::{BodyGuard, BodyTask};
use crate::conn::{CancelledStream, Connection};
use crate::pool::{Permit, Picking, PooledPeer};
use crate::protocol::Protocol;
use crate::request_error::RequestError;
use crate::service::{ServiceHandle, SharedService};

/// Attempt from its pick to its end.
pub(super) struct InFlight {
    /// Record of the attempt. First field, so that the attempt has finished before its permit is
    /// handed to a waiting call.
    record: Record,
    held: Held,
}

/// Record of an attempt. When dropped, however the attempt ends, it reports the single
/// [`Finished`].
struct Record {
    pick: Pick<PooledPeer>,
    sent: Instant,
    head_at: Option<Instant>,
    end: Option<AttemptEnd>,
}

/// Resources of the stream, released with it in this order: the task that sends the body, the
/// permit, the reference that keeps the client's connections open.
pub(super) struct Held {
    body: Option<Box<BodyGuard>>,
    permit: Permit,
    channel: Arc<SharedService>,
}

impl InFlight {
    /// Creates an attempt of a call on `channel` that is sent at `sent`.
    pub(super) fn new(
        Picking { pick, permit }: Picking,
        channel: &ServiceHandle,
        sent: Instant,
    ) -> Self {
        let held = Held {
            body: None,
            permit,
            channel: Arc::clone(channel.shared()),
        };
        Self {
            record: Record {
                pick,
                sent,
                head_at: None,
                end: None,
            },
            held,
        }
    }

    /// Returns the connection of the attempt.
    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.held.permit.connection
    }

    /// Returns the protocol, which classifies headers and trailers.
    pub(super) fn protocol(&self) -> &dyn Protocol {
        &*self.held.channel.protocol
    }

    /// Takes the error of the request's body, if it ended with one.
    pub(super) fn take_request_error(&self) -> Option<RequestError> {
        self.held.body.as_ref()?.take_error()
    }

    /// Sets the attempt's end, unless it is already set.
    pub(super) fn set_end(&mut self, end: AttemptEnd) {
        self.record.end.get_or_insert(end);
    }

    /// Ends the attempt.
    pub(super) fn finish(mut self, end: AttemptEnd) {
        self.set_end(end);
    }

    /// Ends the attempt, except for the resources that are released with its stream.
    pub(super) fn into_held(self) -> Held {
        self.held
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let now = crate::service::now();
        let end = self.end.unwrap_or(AttemptEnd::Cancelled);
        let mut finished = Finished::new(self.sent, now, end);
        finished.head_at = self.head_at;
        if end.is_failure() {
            self.pick.item().mark_dirty();
        }
        self.pick.finish(&finished);
    }
}

/// Attempt that was sent and has no response yet. When dropped, its stream is reset as soon as the
/// server can take that.
pub(super) struct Sent<B> {
    response: Option<ResponseFuture>,
    body: Option<BodyTask<B>>,
    in_flight: Option<InFlight>,
    /// True if the connection had been idle for so long when the request was sent that it may have
    /// been dead.
    pub(super) unproven: bool,
}

impl<B> Sent<B> {
    pub(super) fn new(
        response: ResponseFuture,
        body: Option<BodyTask<B>>,
        in_flight: InFlight,
        unproven: bool,
    ) -> Self {
        Self {
            response: Some(response),
            body,
            in_flight: Some(in_flight),
            unproven,
        }
    }

    pub(super) fn connection(&self) -> Option<&Arc<Connection>> {
        self.in_flight.as_ref().map(InFlight::connection)
    }

    /// Returns true if the connection was dead before the request was sent: it had been idle, and
    /// nothing was read from it since.
    pub(super) fn is_stale(&self, now: Instant) -> bool {
        self.unproven
            && self
                .connection()
                .is_some_and(|connection| connection.needs_proof(now))
    }

    /// Returns true once the request was sent in full, so that a response is due.
    pub(super) fn is_sent_in_full(&self) -> bool {
        self.body.as_ref().is_none_or(BodyTask::is_finished)
    }

    /// Takes the error of the request's body, if it ended with one.
    pub(super) fn take_request_error(&self) -> Option<RequestError> {
        self.body.as_ref()?.take_error()
    }

    /// Polls for the response's headers.
    pub(super) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<RecvStream>, h2::Error>> {
        let Some(response) = &mut self.response else {
            return Poll::Pending;
        };
        if let Poll::Ready(head) = Pin::new(response).poll(cx) {
            return Poll::Ready(head);
        }
        // A failed body ends the attempt now. Its stream may be reset later, paced with others.
        let failed = self
            .body
            .as_mut()
            .map_or(Poll::Pending, |body| body.poll_failed(cx));
        failed.map(|()| Err(Reason::CANCEL.into()))
    }

    /// Converts the attempt into one whose response headers were received at `now`.
    pub(super) fn into_answered(mut self, now: Instant) -> Option<InFlight> {
        let mut in_flight = self.in_flight.take()?;
        in_flight.record.head_at = Some(now);
        in_flight.held.body = self.body.take().map(BodyTask::into_guard);
        Some(in_flight)
    }

    /// Ends the attempt without a response; its stream is reset at a pace that the server accepts.
    /// Returns the task that sends its body.
    pub(super) fn abandon(mut self, end: AttemptEnd) -> Option<BodyTask<B>> {
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.set_end(end);
        }
        self.body.take()
    }

    #[cold]
    fn cancel(&mut self, mut in_flight: InFlight) {
        in_flight.held.body = self.body.take().map(BodyTask::into_guard);
        if let Some(response) = self.response.take() {
            let connection = Arc::clone(in_flight.connection());
            connection.cancel(CancelledStream::new(
                response.stream_id(),
                (response, in_flight.into_held()),
            ));
        }
    }
}

impl<B> Drop for Sent<B> {
    fn drop(&mut self) {
        if let Some(in_flight) = self.in_flight.take() {
            self.cancel(in_flight);
        }
    }
}
