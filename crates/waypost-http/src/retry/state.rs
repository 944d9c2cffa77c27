//! Retry state of one call: its counted attempts and moves.

use std::time::Duration;

use super::policy::Policy;

/// Retry state of one call.
#[derive(Clone, Debug)]
pub(crate) struct RetryState {
    max_attempts: u32,
    idempotent: bool,
    pub(super) goaway_error: bool,
    pub(super) attempts: u32,
    pub(super) moves: u32,
    pub(super) connections_ended: u32,
}

/// Circumstances of a failed attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RetryContext {
    /// True if the request can be sent again from its start.
    pub(crate) replayable: bool,
    /// Time until the deadline; none without a deadline.
    pub(crate) remaining: Option<Duration>,
    /// Number of known peers that may be picked, connected or not.
    pub(crate) peers: u32,
    /// False once no untried peer is known to be ready.
    pub(crate) untried: bool,
}

impl RetryState {
    /// Creates the state of a call in its first attempt.
    pub(crate) fn new(policy: &Policy) -> Self {
        Self {
            max_attempts: policy.max_attempts,
            idempotent: false,
            goaway_error: false,
            attempts: 1,
            moves: 0,
            connections_ended: 0,
        }
    }

    /// Sets the idempotency of the method, from the picked node's record and the policy.
    pub(crate) fn set_idempotent(&mut self, idempotent: bool) {
        self.idempotent = idempotent;
    }

    pub(super) fn is_idempotent(&self) -> bool {
        self.idempotent
    }

    /// Returns the number of counted attempts, the first included.
    pub(super) fn attempts(&self) -> u32 {
        self.attempts
    }

    pub(super) fn max_attempts(&self) -> u32 {
        self.max_attempts
    }

    pub(super) fn moves(&self) -> u32 {
        self.moves
    }

    /// Returns the number of connections that ended under the request.
    pub(super) fn connections_ended(&self) -> u32 {
        self.connections_ended
    }

    /// Returns true if a GOAWAY with an error code ended one of them.
    pub(super) fn goaway_error(&self) -> bool {
        self.goaway_error
    }
}
