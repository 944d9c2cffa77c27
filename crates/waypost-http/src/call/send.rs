//! Sending of an attempt: applies the method's properties, verifies an idle connection first, and
//! adapts the request to the node.

use std::sync::Arc;

use bytes::Buf;
use http::Request;
use http_body::Body;
use tokio::time::Instant;
use waypost_core::peer::AttemptEnd;

use super::attempt::{InFlight, Sent};
use super::attempt_error::AttemptError;
use super::{BodyTask, Call, DEFAULT_TIMEOUT, headers};
use crate::pool::PooledPeer;
use crate::protocol::BoxError;

impl<B> Call<B>
where
    B: Body + Unpin + Send + 'static,
    B::Data: Buf + Send,
    B::Error: Into<BoxError>,
{
    /// Sets the method's properties, from the channel's methods or else the picked node's record,
    /// and from the policy.
    pub(super) fn apply_policy(&mut self, peer: &PooledPeer) {
        let config = &self.service.shared().config;
        let path = self.head.path();
        let known = config
            .methods
            .get(path)
            .copied()
            .or_else(|| peer.peer.method(path));
        self.idempotent = config
            .policy
            .is_idempotent(path, known.is_some_and(|method| method.idempotent));
        self.retry.set_idempotent(self.idempotent);
        self.unary = known.is_some_and(|method| !method.streaming);
        if self.deadline.is_none() {
            let timeout = match known {
                Some(method) if method.streaming => None,
                Some(_) => Some(config.default_timeout.unwrap_or(DEFAULT_TIMEOUT)),
                None => config.default_timeout,
            };
            self.deadline = timeout.and_then(|timeout| self.start.checked_add(timeout));
        }
    }

    /// Verifies that the picked connection is alive, before a call that may not be sent twice is
    /// sent on it.
    pub(super) async fn prove(&mut self) -> Result<(), AttemptError> {
        let Some(picked) = self.picked.take() else {
            return Ok(());
        };
        let connection = &picked.permit.connection;
        let proven = match self.deadline {
            Some(deadline) => tokio::time::timeout_at(deadline, connection.proven())
                .await
                .ok(),
            None => Some(connection.proven().await),
        };
        match proven {
            Some(true) => {
                self.picked = Some(picked);
                Ok(())
            }
            Some(false) => Err(AttemptError::not_sent(
                "not sent: the connection was idle, and answers no PING".to_owned(),
            )),
            None => Err(AttemptError::Deadline),
        }
    }

    /// Sends the request and the available part of its body; a task sends the rest.
    pub(super) fn send(
        &mut self,
        peer: &Arc<PooledPeer>,
        unproven: bool,
        now: Instant,
    ) -> Result<Sent<B>, AttemptError> {
        let Some(picked) = self.picked.take() else {
            return Err(AttemptError::not_sent("not sent".to_owned()));
        };
        let request = self.request_for(peer, now);
        let limit = picked.permit.connection.max_header_list_size();
        let (authority, kept) = (peer.authority.as_str(), self.head.header_list_size());
        let size = headers::check_size(
            request.method(),
            authority,
            self.head.path(),
            kept,
            request.headers(),
            limit,
        );
        size.map_err(AttemptError::Request)?;
        let in_flight = InFlight::new(picked, &self.service, now);
        let opened = match in_flight.connection().open(request) {
            Err(_) if self.head.strip() => in_flight.connection().open(self.request_for(peer, now)),
            opened => opened,
        };
        self.sent += 1;
        match opened {
            Ok((response, mut stream)) => {
                let body = self.body.take().and_then(|body| {
                    if !body.is_complete() {
                        return Some(BodyTask::spawn_paced(
                            body,
                            stream,
                            Arc::clone(in_flight.connection()),
                        ));
                    }
                    // An error of the stream is reported by its response.
                    let _ = body.send_whole(&mut stream);
                    self.body = Some(body);
                    None
                });
                Ok(Sent::new(response, body, in_flight, unproven))
            }
            Err(error) => {
                in_flight.finish(AttemptEnd::Refused);
                Err(AttemptError::not_sent(format!("not sent: {error}")))
            }
        }
    }

    fn request_for(&mut self, peer: &PooledPeer, now: Instant) -> Request<()> {
        let remaining = self
            .deadline
            .map(|deadline| deadline.saturating_duration_since(now));
        let protocol = &self.service.shared().protocol;
        self.head.request(&peer.scheme, &peer.authority, |headers| {
            protocol.prepare(headers, self.sent, remaining);
        })
    }
}
