//! The client's view of each service in use: the nodes in the registry, and the nodes that were lost but are kept.
//!
//! [`ServiceCache`] is the state of one service as a pure state machine; [`Directory`] keeps one cache current by one watch for each
//! service with a [`Subscription`]. This room never knows connections, and never who is picked.

mod handle;
mod machine;
mod outage_log;
mod snapshot;
mod source;
mod task;

use std::time::Duration;

pub use handle::{Directory, Subscription};
pub use machine::ServiceCache;
pub use snapshot::{Member, MemberChange, Outage, Snapshot, Suspect};

/// How a directory keeps its snapshots.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Time for which a lost node is kept as a suspect. Default 15 s, the default TTL: what was lost by the registry's fault is back by
    /// then. `Duration::MAX` keeps it until it is confirmed or leaves.
    pub suspect_grace: Duration,
    /// Time for which a watch goes on after the last subscription to its service ended. Default 10 min. `Duration::MAX` never ends it.
    pub idle_watch: Duration,
    /// Bounds of the back-off between two attempts to watch. Default 50 ms to 2 s, full jitter. Below 1 ms counts as 1 ms.
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
