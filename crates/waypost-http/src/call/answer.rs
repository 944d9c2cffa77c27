//! Response of a node: waits for the response's headers and its first frame, and decides if the
//! node served the call.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Buf;
use h2::RecvStream;
use http::Response;
use http_body::Body;
use tokio::time::{Instant, sleep_until};
use waypost_core::peer::AttemptEnd;

use super::attempt::{InFlight, Sent, classify_error};
use super::response::{ResponseBody, ServedBy};
use super::watch::{WaitError, Watch};
use super::{AttemptError, Call, cold};
use crate::conn::Connection;
use crate::error::{BodyError, FailureKind};
use crate::pool::PooledPeer;
use crate::protocol::{BoxError, ResponseClass};
use crate::retry::{AttemptFailure, FailureCause};
use crate::service::now;

impl<B> Call<B>
where
    B: Body + Unpin + Send + 'static,
    B::Data: Buf + Send,
    B::Error: Into<BoxError>,
{
    /// Waits for the response's headers. The request was sent at `sent_at`.
    pub(super) async fn wait_for_head(
        &mut self,
        sent: &mut Sent<B>,
        peer: &PooledPeer,
        sent_at: Instant,
    ) -> Result<Response<RecvStream>, WaitError> {
        let watch = Watch::new(peer, self.deadline, self.idempotent, sent.unproven);
        let mut slow_at = watch.slow_at(sent_at);
        loop {
            let until = [slow_at, self.deadline].into_iter().flatten().min();
            let mut timer = self.timer_at(until);
            // Stored outside of the future, since each layer of futures copies its result.
            let mut head = None;
            poll_fn(|cx| match sent.poll_head(cx) {
                Poll::Ready(result) => {
                    head = Some(result);
                    Poll::Ready(())
                }
                Poll::Pending => timer.as_mut().map_or(Poll::Pending, |timer| timer.poll(cx)),
            })
            .await;
            if let Some(head) = head {
                return head.map_err(WaitError::Broken);
            }
            if self.deadline.is_some_and(|deadline| deadline <= now()) {
                return Err(WaitError::Deadline);
            }
            if sent.is_sent_in_full() {
                return cold(watch_for_head(sent, watch)).await;
            }
            // The request is not sent in full, so no response is due yet.
            slow_at = watch.slow_at(now());
        }
    }

    /// Ends an attempt that has no response, records the reason, and takes its body back for
    /// another attempt.
    pub(super) async fn unanswered(
        &mut self,
        sent: Sent<B>,
        peer: &Arc<PooledPeer>,
        why: WaitError,
    ) -> AttemptError {
        let stale = sent.unproven
            && sent
                .connection()
                .is_some_and(|connection| connection.needs_proof(now()));
        // A failed body resets its stream as soon as the server can take that: the node is not to
        // blame.
        if let Some(error) = sent.take_request_error() {
            drop(sent.abandon(AttemptEnd::LocalMistake));
            return self.local_mistake(error);
        }
        let (end, cause, text) = match &why {
            WaitError::Deadline => {
                drop(sent.abandon(AttemptEnd::Deadline));
                return AttemptError::Terminal(FailureKind::Deadline);
            }
            WaitError::Unresponsive => (
                AttemptEnd::Lost,
                FailureCause::Lost { stale },
                "the node answers no PING".to_owned(),
            ),
            WaitError::Broken(error) => describe(error, sent.connection(), stale),
        };
        if let Some(task) = sent.abandon(end) {
            match task.take_back().await {
                Ok(body) => self.body = body,
                Err(error) => return self.local_mistake(error),
            }
        }
        self.record_failure(peer, text);
        match (&why, cause) {
            (WaitError::Broken(error), FailureCause::Reset) => reset(error),
            _ => AttemptError::Retryable(AttemptFailure::uncommitted(cause), None),
        }
    }

    /// Creates the response for the caller.
    pub(super) fn response(
        &mut self,
        head: Response<RecvStream>,
        sent: Sent<B>,
        peer: &PooledPeer,
    ) -> Option<Response<ResponseBody>> {
        let in_flight = sent.into_answered(now())?;
        let (mut parts, recv) = head.into_parts();
        parts.extensions = self.head.take_extensions();
        parts.extensions.insert(ServedBy {
            node: peer.peer.node(),
            attempts: self.sent,
        });
        let mut body = ResponseBody::new(recv, in_flight);
        if let (Some(deadline), Some(timer)) = (self.deadline, self.timer.take()) {
            body.set_deadline(deadline, timer);
        }
        Some(Response::from_parts(parts, body))
    }

    /// Peeks at the first frame of the response. For a unary call, waits for it; for any other,
    /// reads it only if it has already arrived, since the caller may want the headers first.
    pub(super) async fn peek(
        &mut self,
        body: &mut ResponseBody,
        peer: &PooledPeer,
    ) -> Result<ResponseClass, PeekError> {
        if let Poll::Ready(peeked) = poll_fn(|cx| Poll::Ready(body.poll_peek(cx))).await {
            return peeked.map_err(PeekError::Body);
        }
        if !self.unary {
            return Ok(ResponseClass::Success);
        }
        let watch = Watch::new(peer, self.deadline, self.idempotent, false);
        cold(peek_watchfully(body, watch)).await
    }

    /// Records the class of the response. Returns the failure if another attempt may succeed.
    pub(super) fn classify(
        &mut self,
        class: ResponseClass,
        body: &mut ResponseBody,
        peer: &PooledPeer,
    ) -> Option<AttemptFailure> {
        body.classified(class);
        let ResponseClass::Unavailable(pushback) = class else {
            return None;
        };
        self.record_failure(peer, "the node says that it is unavailable".to_owned());
        Some(AttemptFailure::uncommitted(FailureCause::Unavailable(
            pushback,
        )))
    }

    /// Handles a response that ended early, before the caller has read any of it. Its headers prove
    /// that the node has processed the request.
    #[cold]
    pub(super) fn broken(
        &mut self,
        body: &mut ResponseBody,
        why: PeekError,
        peer: &Arc<PooledPeer>,
    ) -> AttemptError {
        self.timer = body.take_timer();
        // A request body that failed resets the stream itself.
        let of_request = match &why {
            PeekError::Body(BodyError::Broken(_)) => {
                body.in_flight().and_then(InFlight::take_request_error)
            }
            _ => None,
        };
        let why = of_request.map_or(why, |error| PeekError::Body(BodyError::Request(error)));
        let (end, cause, text) = match why {
            PeekError::Body(BodyError::Request(error)) => {
                body.abandon(AttemptEnd::LocalMistake);
                return self.local_mistake(error);
            }
            PeekError::Body(BodyError::Deadline) => {
                body.abandon(AttemptEnd::Deadline);
                return AttemptError::Terminal(FailureKind::Deadline);
            }
            PeekError::Unresponsive => {
                body.abandon(AttemptEnd::Lost);
                (
                    AttemptEnd::Lost,
                    FailureCause::Lost { stale: false },
                    "the node answers no PING".to_owned(),
                )
            }
            PeekError::Body(BodyError::Broken(error)) => {
                let connection = body
                    .in_flight()
                    .map(|in_flight| Arc::clone(in_flight.connection()));
                let (_, cause, text) = describe(error.h2(), connection.as_ref(), false);
                if cause == FailureCause::Reset {
                    body.abandon(AttemptEnd::NodeFailed);
                    self.record_failure(peer, text);
                    return reset(error.h2());
                }
                (AttemptEnd::Lost, FailureCause::Lost { stale: false }, text)
            }
        };
        if let Some(in_flight) = body.take_in_flight() {
            in_flight.finish(end);
        }
        self.record_failure(peer, text);
        AttemptError::Retryable(AttemptFailure::committed(cause), None)
    }
}

/// Waits for the headers of a slow response, and watches its connection.
async fn watch_for_head<B>(
    sent: &mut Sent<B>,
    watch: Watch,
) -> Result<Response<RecvStream>, WaitError> {
    let connection = sent.connection().cloned();
    let poll = |cx: &mut Context<'_>| sent.poll_head(cx);
    let head = match &connection {
        Some(connection) => watch.watch(connection, poll).await?,
        None => poll_fn(poll).await,
    };
    head.map_err(WaitError::Broken)
}

/// Waits for the first frame, and watches the connection: a node may freeze after its headers, too.
async fn peek_watchfully(
    body: &mut ResponseBody,
    watch: Watch,
) -> Result<ResponseClass, PeekError> {
    let connection = body
        .in_flight()
        .map(|in_flight| Arc::clone(in_flight.connection()));
    let slow = async {
        match watch.slow_at(now()) {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        peeked = poll_fn(|cx| body.poll_peek(cx)) => return peeked.map_err(PeekError::Body),
        () = slow => {}
    }
    let Some(connection) = connection else {
        return Ok(ResponseClass::Success);
    };
    match watch.watch(&connection, |cx| body.poll_peek(cx)).await {
        Ok(peeked) => peeked.map_err(PeekError::Body),
        Err(WaitError::Unresponsive) => Err(PeekError::Unresponsive),
        Err(_) => Err(PeekError::Body(BodyError::Deadline)),
    }
}

/// Describes the end of a stream. The end reason of the connection, if there is one, is more
/// precise than the stream's error.
fn describe(
    error: &h2::Error,
    connection: Option<&Arc<Connection>>,
    stale: bool,
) -> (AttemptEnd, FailureCause, String) {
    let cause = classify_error(error, stale);
    let (end, text) = match cause {
        FailureCause::Unprocessed => (AttemptEnd::Refused, format!("not processed: {error}")),
        FailureCause::Reset => (
            AttemptEnd::NodeFailed,
            format!("the node reset the call: {error}"),
        ),
        FailureCause::GoAwayError => (
            AttemptEnd::Lost,
            format!("the node closed the connection: {error}"),
        ),
        _ => match connection.and_then(|connection| connection.end_reason()) {
            Some(reason) => (AttemptEnd::Lost, format!("connection lost: {reason}")),
            None => (AttemptEnd::Lost, format!("connection lost: {error}")),
        },
    };
    (end, cause, text)
}

/// Ends a call that the node reset, with the node's error code.
fn reset(error: &h2::Error) -> AttemptError {
    AttemptError::Terminal(FailureKind::Reset(error.reason().map_or(0, Into::into)))
}

/// Failure to peek at the first frame of a response.
pub(super) enum PeekError {
    Body(BodyError),
    Unresponsive,
}
