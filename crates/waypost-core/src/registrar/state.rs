//! State of a registration.

use tokio::time::Instant;

/// State of a registration. Times are instants of tokio's clock.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// The node has not been registered yet, and no error has occurred.
    Starting,
    /// The node is registered: the registry confirmed the last heartbeat.
    Registered {
        /// Start of the state, without an interruption since.
        since: Instant,
    },
    /// The registry does not accept the record, or the runtime of the registration has ended. The
    /// first is retried forever, with backoff; see [`Registration`](super::Registration) for the
    /// second. A record that was registered may stay until its TTL expires.
    Failing {
        /// Start of the state, without an interruption since.
        since: Instant,
        /// Error of the last attempt, with its causes.
        why: String,
        /// True if the record was ever registered.
        registered_before: bool,
    },
    /// The health check fails. The node stays deregistered until the check passes again.
    Unhealthy {
        /// Start of the state.
        since: Instant,
        /// Error of the last failed check.
        why: String,
    },
    /// The registration was ordered to leave, and deregisters the node.
    Leaving,
    /// The registration has left; this is its last state.
    Left,
}

impl State {
    /// Returns the state as one word, for logs and tables.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Registered { .. } => "registered",
            Self::Failing { .. } => "failing",
            Self::Unhealthy { .. } => "unhealthy",
            Self::Leaving => "leaving",
            Self::Left => "left",
        }
    }

    /// Returns true while the record is in the registry.
    pub fn is_registered(&self) -> bool {
        matches!(self, Self::Registered { .. })
    }

    /// Returns true after the registration has left permanently.
    pub fn is_left(&self) -> bool {
        matches!(self, Self::Left)
    }
}
