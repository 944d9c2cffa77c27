//! Response of a node: waits for the response's headers and its first frame, and decides if the
//! node served the call.

use std::future::poll_fn;
use std::task::{Context, Poll};

use bytes::Buf;
use h2::RecvStream;
use http::Response;
use http_body::Body;
use tokio::time::{Instant, sleep_until};

use super::attempt::{InFlight, Sent};
use super::attempt_error::AttemptError;
use super::response::{ResponseBody, ServedBy};
use super::watch::Watch;
use super::{Call, cold};
use crate::error::StreamError;
use crate::pool::PooledPeer;
use crate::protocol::{BoxError, ResponseClass};
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
    ) -> Result<Response<RecvStream>, AttemptError> {
        let watch = self.watch(peer, sent.unproven);
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
                return head.map_err(|error| {
                    AttemptError::of_stream(StreamError::new(error), sent.connection())
                });
            }
            if self.deadline.is_some_and(|deadline| deadline <= now()) {
                return Err(AttemptError::Deadline);
            }
            if sent.is_sent_in_full() {
                return cold(watch_for_head(sent, watch)).await;
            }
            // The request is not sent in full, so no response is due yet.
            slow_at = watch.slow_at(now());
        }
    }

    fn watch(&self, peer: &PooledPeer, unproven: bool) -> Watch {
        let stall = self.service.shared().config.stall;
        Watch::new(peer, stall, self.deadline, self.idempotent, unproven)
    }

    /// Ends an attempt that has no response, and takes its body back for another attempt.
    pub(super) async fn unanswered(
        &mut self,
        sent: Sent<B>,
        mut why: AttemptError,
    ) -> AttemptError {
        if sent.is_stale(now()) {
            why.mark_stale();
        }
        // A failed body resets its stream as soon as the server can take that: the node is not to
        // blame.
        if let Some(error) = sent.take_request_error() {
            why = AttemptError::Request(error);
        }
        match sent.abandon(why.end()) {
            Some(task) if why.is_of_node() => match task.take_back().await {
                Ok(body) => self.body = body,
                Err(error) => return AttemptError::Request(error),
            },
            _ => {}
        }
        why
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
    ) -> Result<ResponseClass, AttemptError> {
        if let Poll::Ready(peeked) = poll_fn(|cx| Poll::Ready(body.poll_peek(cx))).await {
            return peeked.map_err(|error| AttemptError::of_body(error, body.connection()));
        }
        if !self.unary {
            return Ok(ResponseClass::Success);
        }
        let watch = self.watch(peer, false);
        cold(peek_watchfully(body, watch)).await
    }

    /// Handles a response that ended early, before the caller has read any of it. Its headers prove
    /// that the node has processed the request.
    #[cold]
    pub(super) fn broken(
        &mut self,
        body: &mut ResponseBody,
        mut why: AttemptError,
    ) -> AttemptError {
        self.timer = body.take_timer();
        // A request body that failed resets the stream itself.
        if let Some(error) = body.in_flight().and_then(InFlight::take_request_error) {
            why = AttemptError::Request(error);
        }
        why.mark_committed();
        if why.is_stream_ended() {
            body.finish(why.end());
        } else {
            body.abandon(why.end());
        }
        why
    }
}

/// Waits for the headers of a slow response, and watches its connection.
async fn watch_for_head<B>(
    sent: &mut Sent<B>,
    watch: Watch,
) -> Result<Response<RecvStream>, AttemptError> {
    let connection = sent.connection().cloned();
    let poll = |cx: &mut Context<'_>| sent.poll_head(cx);
    let head = match &connection {
        Some(connection) => watch.watch(connection, poll).await?,
        None => poll_fn(poll).await,
    };
    head.map_err(|error| AttemptError::of_stream(StreamError::new(error), connection.as_ref()))
}

/// Waits for the first frame, and watches the connection: a node may freeze after its headers, too.
async fn peek_watchfully(
    body: &mut ResponseBody,
    watch: Watch,
) -> Result<ResponseClass, AttemptError> {
    let connection = body.connection().cloned();
    let slow = async {
        match watch.slow_at(now()) {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        }
    };
    let peeked = tokio::select! {
        biased;
        peeked = poll_fn(|cx| body.poll_peek(cx)) => peeked,
        () = slow => match &connection {
            Some(connection) => watch.watch(connection, |cx| body.poll_peek(cx)).await?,
            None => return Ok(ResponseClass::Success),
        },
    };
    peeked.map_err(|error| AttemptError::of_body(error, connection.as_ref()))
}
