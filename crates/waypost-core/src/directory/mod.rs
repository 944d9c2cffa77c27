//! The client's picture of each service in use: who is in the registry, and who was lost but is kept.
//!
//! [`View`] is the picture of one service as a pure state machine; [`Directory`] keeps one view true by one watch for each service that
//! somebody follows. This room never knows connections, and never who is picked.

mod driver;
mod view;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

pub use driver::{Directory, Following};
pub use view::View;

use crate::record::Entry;

/// How a directory keeps its picture.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// How long a lost node is kept as a suspect. Default 15 s, the default TTL: what was lost by the registry's fault is back by then.
    pub suspect_grace: Duration,
    /// How long a watch goes on when nobody follows its service. Default 10 min.
    pub idle_watch: Duration,
    /// The bounds of the back-off between two attempts to watch. Default 50 ms to 2 s, full jitter.
    pub backoff: (Duration, Duration),
}

impl Default for Config {
    fn default() -> Self {
        Self {
            suspect_grace: Duration::from_secs(15),
            idle_watch: Duration::from_secs(600),
            backoff: (Duration::from_millis(50), Duration::from_secs(2)),
        }
    }
}

/// A node that was lost without having left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspect {
    /// The node as it was last seen.
    pub entry: Entry,
    /// Since when it is missing.
    pub since: Instant,
}

/// Trouble with the registry. It changes nothing in the picture; the picture only grows old.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Since when.
    pub since: Instant,
    /// The last error, with its causes.
    pub why: Arc<str>,
}

/// One service's nodes at one moment, immutable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Whether the registry has answered at all; before that, empty says nothing.
    pub loaded: bool,
    /// The nodes in the registry that are not leaving, by id.
    pub confirmed: Arc<[Entry]>,
    /// The nodes that were lost and are kept for a while, by id.
    pub suspects: Arc<[Suspect]>,
    /// Moves whenever the nodes change, and never otherwise.
    pub generation: u64,
    /// Trouble with the registry, while it lasts.
    pub trouble: Option<Trouble>,
}

impl Snapshot {
    /// How old the picture is: zero while the registry is watched, growing while it cannot be.
    pub fn age(&self, now: Instant) -> Duration {
        self.trouble.as_ref().map_or(Duration::ZERO, |trouble| now.saturating_duration_since(trouble.since))
    }
}
