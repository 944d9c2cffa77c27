//! Watch of a slow call: it makes sure that the socket was read, has the node probed, and moves the
//! call if the node is dead and the call may move.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::attempt_error::AttemptError;
use crate::config::StallConfig;
use crate::conn::Connection;
use crate::pool::PooledPeer;

/// Wait parameters of one attempt.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watch {
    slow_after: Duration,
    deadline: Option<Instant>,
    may_move: bool,
}

impl Watch {
    /// Creates the watch of an attempt on `peer`. An attempt on a connection that is being verified
    /// watches it from the start, if it may move.
    pub(super) fn new(
        peer: &PooledPeer,
        stall: StallConfig,
        deadline: Option<Instant>,
        may_move: bool,
        unproven: bool,
    ) -> Self {
        let usual = peer
            .peer
            .stats()
            .p50()
            .map_or(Duration::ZERO, |p50| p50.saturating_mul(stall.p50s));
        let slow_after = if unproven && may_move {
            Duration::ZERO
        } else {
            usual.max(stall.after.saturating_mul(peer.stall_factor()))
        };
        Self {
            slow_after,
            deadline,
            may_move,
        }
    }

    /// Returns the time at which an attempt that starts to wait at `now` is slow.
    pub(super) fn slow_at(&self, now: Instant) -> Option<Instant> {
        now.checked_add(self.slow_after)
    }

    /// Continues to wait after a wait that was too long. The socket is read first; if the response
    /// has not arrived, the peer is probed.
    ///
    /// # Errors
    /// The connection is unresponsive and the call may move, or the deadline has passed.
    pub(super) async fn watch<T>(
        &self,
        connection: &Connection,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Result<T, AttemptError> {
        let mut deadline = std::pin::pin!(until(self.deadline));
        if !self.slow_after.is_zero() {
            tokio::select! {
                biased;
                answer = poll_fn(&mut poll) => return Ok(answer),
                () = connection.read_until_pending() => {}
                () = &mut deadline => return Err(AttemptError::Deadline),
            }
            if let Poll::Ready(answer) = poll_fn(|cx| Poll::Ready(poll(cx))).await {
                return Ok(answer);
            }
            connection.report_slow();
        }
        tokio::select! {
            biased;
            answer = poll_fn(&mut poll) => Ok(answer),
            () = connection.unresponsive(), if self.may_move => Err(AttemptError::unresponsive()),
            () = &mut deadline => Err(AttemptError::Deadline),
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
