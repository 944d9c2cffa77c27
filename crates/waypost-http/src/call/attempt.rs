//! One attempt: what it holds, and the one record that it leaves.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use h2::client::ResponseFuture;
use h2::{Reason, RecvStream};
use http::Response;
use tokio::time::Instant;
use waypost_core::balance::Pick;
use waypost_core::peer::{AttemptEnd, Finished};

use super::RequestError;
use super::body_task::{BodyGuard, BodyTask};
use crate::channel::ServiceChannel;
use crate::conn::{CancelledStream, Connection};
use crate::pool::{Permit, Picking, PooledPeer};
use crate::retry::FailureCause;

/// An attempt from its pick to its end. However it ends, one [`Finished`] is made of it, here.
pub(super) struct InFlight {
    pick: Option<Pick<PooledPeer>>,
    held: Option<Held>,
    sent: Instant,
    first_byte: Option<Instant>,
    end: Option<AttemptEnd>,
}

/// What is let go with the stream, in this order: the task that sends the body, the permit, the client's hold on its connections.
pub(super) struct Held {
    body: Option<BodyGuard>,
    permit: Permit,
    _channel: ServiceChannel,
}

impl InFlight {
    pub(super) fn new(Picking { pick, permit }: Picking, channel: ServiceChannel, sent: Instant) -> Self {
        let held = Held { body: None, permit, _channel: channel };
        Self { pick: Some(pick), held: Some(held), sent, first_byte: None, end: None }
    }

    /// The peer.
    pub(super) fn peer(&self) -> Option<&Arc<PooledPeer>> {
        self.pick.as_ref().map(Pick::item)
    }

    /// The connection, until the attempt ends.
    pub(super) fn connection(&self) -> Option<&Arc<Connection>> {
        self.held.as_ref().map(|held| &held.permit.connection)
    }

    pub(super) fn note_first_byte(&mut self, at: Instant) {
        self.first_byte = Some(at);
    }

    pub(super) fn set_body(&mut self, body: BodyGuard) {
        if let Some(held) = &mut self.held {
            held.body = Some(body);
        }
    }

    /// Takes the error of the request's body, if it ended with one.
    pub(super) fn take_request_error(&self) -> Option<RequestError> {
        self.held.as_ref()?.body.as_ref()?.take_error()
    }

    /// Notes how the attempt ends, unless that is known already.
    pub(super) fn set_end(&mut self, end: AttemptEnd) {
        self.end.get_or_insert(end);
    }

    /// Ends the attempt.
    pub(super) fn finish(mut self, end: AttemptEnd) {
        self.set_end(end);
    }

    /// Ends the attempt, but for what is let go with its stream.
    pub(super) fn into_held(mut self) -> Option<Held> {
        self.held.take()
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let Some(pick) = self.pick.take() else { return };
        let now = crate::channel::now();
        let end = self.end.unwrap_or(AttemptEnd::Cancelled);
        let mut finished = Finished::new(self.sent, now, end);
        finished.first_byte = self.first_byte.map(|at| at.saturating_duration_since(self.sent));
        if end.is_failure() {
            pick.item().ask_for_a_look();
        }
        pick.finish(&finished);
    }
}

/// An attempt that was sent and has no response yet. Dropped, its stream is reset when the server can take that.
pub(super) struct Sent<B> {
    response: Option<ResponseFuture>,
    pub(super) body: Option<BodyTask<B>>,
    in_flight: Option<InFlight>,
    /// The connection had been idle for so long when the request was sent that it may have been dead.
    pub(super) unproven: bool,
}

impl<B> Sent<B> {
    pub(super) fn new(response: ResponseFuture, body: Option<BodyTask<B>>, in_flight: InFlight, unproven: bool) -> Self {
        Self { response: Some(response), body, in_flight: Some(in_flight), unproven }
    }

    pub(super) fn connection(&self) -> Option<&Arc<Connection>> {
        self.in_flight.as_ref().and_then(InFlight::connection)
    }

    /// Returns true once the request was sent in full, so that the peer owes a response.
    pub(super) fn is_sent_in_full(&self) -> bool {
        self.body.as_ref().is_none_or(BodyTask::is_finished)
    }

    /// Takes the error of the request's body, if it ended with one.
    pub(super) fn take_request_error(&self) -> Option<RequestError> {
        self.body.as_ref()?.take_error()
    }

    /// Polls for the response's headers.
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<RecvStream>, h2::Error>> {
        match &mut self.response {
            Some(response) => Pin::new(response).poll(cx),
            None => Poll::Pending,
        }
    }

    /// Takes what goes on after the response's headers.
    pub(super) fn take_parts(&mut self) -> (Option<InFlight>, Option<BodyTask<B>>) {
        self.response = None;
        (self.in_flight.take(), self.body.take())
    }

    /// Ends the attempt without a response, its stream reset at a pace that the server accepts; returns the task that sends its body.
    pub(super) fn abandon(mut self, end: AttemptEnd) -> Option<BodyTask<B>> {
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.set_end(end);
        }
        self.body.take()
    }
}

impl<B> Drop for Sent<B> {
    fn drop(&mut self) {
        let Some(mut in_flight) = self.in_flight.take() else { return };
        if let Some(body) = self.body.take() {
            in_flight.set_body(body.into_guard());
        }
        if let Some(response) = self.response.take()
            && let Some(connection) = in_flight.connection().cloned()
        {
            connection.cancel(CancelledStream::new(response.stream_id(), (response, in_flight.into_held())));
        }
    }
}

/// Classifies the end of a stream (RFC 9113, 6.8 and 8.7); `stale`: the connection may have been dead before the request was sent.
pub(super) fn classify_error(error: &h2::Error, stale: bool) -> FailureCause {
    if !error.is_remote() {
        return FailureCause::Lost { stale };
    }
    match (error.is_go_away(), error.reason()) {
        (true, Some(Reason::NO_ERROR)) => FailureCause::Unprocessed,
        (true, _) => FailureCause::GoAwayError,
        (false, Some(Reason::REFUSED_STREAM)) if error.is_reset() => FailureCause::Unprocessed,
        (false, Some(_)) if error.is_reset() => FailureCause::Reset,
        _ => FailureCause::Lost { stale },
    }
}
