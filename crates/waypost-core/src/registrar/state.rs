//! What a registration says of itself.

use tokio::time::Instant;

/// Where a registration stands. Times are of tokio's clock.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// It has not been in the registry yet, and nothing has gone wrong.
    Starting,
    /// The record stands: the last beat was answered.
    Registered {
        /// Since when, without a break.
        since: Instant,
    },
    /// The registry does not take it; retried for ever, with back-off. A record that stood may still stand until its ttl is over.
    Failing {
        /// Since when, without a break.
        since: Instant,
        /// Why the last attempt failed, with its causes.
        why: String,
        /// Whether it ever was registered.
        registered_before: bool,
    },
    /// The check says no: the node stays out of the registry until it says yes again.
    Unhealthy {
        /// Since when.
        since: Instant,
        /// What the check said last.
        why: String,
    },
    /// It was told to leave, and is taking its record out.
    Leaving,
    /// It has left; this is its last state.
    Left,
}

impl State {
    /// The state as one word, for logs and tables.
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

    /// Whether the record stands.
    pub fn is_registered(&self) -> bool {
        matches!(self, Self::Registered { .. })
    }

    /// Whether it has left for good.
    pub fn is_left(&self) -> bool {
        matches!(self, Self::Left)
    }
}
