//! State of a registration.

use tokio::time::Instant;

/// State of a registration. Times are of tokio's clock.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// The node has not been in the registry yet, and nothing has gone wrong.
    Starting,
    /// The record is in the registry: the last heartbeat was answered.
    Registered {
        /// Beginning of this state, without a break since.
        since: Instant,
    },
    /// The registry does not take the record, or the runtime of the registration has ended. The first is retried for ever, with back-off;
    /// see [`Registration`](super::Registration) for the second. A record that was registered may stay until its ttl is over.
    Failing {
        /// Beginning of this state, without a break since.
        since: Instant,
        /// Error of the last attempt, with its causes.
        why: String,
        /// True if the record ever was registered.
        registered_before: bool,
    },
    /// The check fails: the node stays out of the registry until it passes again.
    Unhealthy {
        /// Beginning of this state.
        since: Instant,
        /// Answer of the last failed check.
        why: String,
    },
    /// The registration was ordered to leave, and is taking its record out.
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

    /// Returns true once the registration has left for good.
    pub fn is_left(&self) -> bool {
        matches!(self, Self::Left)
    }
}
