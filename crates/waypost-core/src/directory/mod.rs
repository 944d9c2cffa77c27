//! Client's view of each service in use: the registered nodes, and lost nodes that are kept for a
//! while.
//!
//! [`ServiceCache`] is the pure state machine of one service. [`Directory`] keeps one cache
//! current, by one watch, for each service with a [`Subscription`]. This module does not depend on
//! connections or balancing.

mod channel;
mod handle;
mod machine;
mod outage_log;
mod snapshot;
mod source;
mod task;

use std::time::Duration;

use crate::backoff::BackoffConfig;
pub use channel::Subscription;
pub use handle::Directory;
pub use machine::ServiceCache;
pub use snapshot::{Member, MemberChange, Outage, Snapshot, Suspect};

/// Settings of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Time for which a lost node is kept as a suspect. Default 15 s, the default TTL: a record
    /// that the registry lost is registered again by then. A node whose record contains a longer
    /// interval is kept for two of these, at most for 10 min. `Duration::MAX` keeps the suspect until
    /// it is confirmed or leaves.
    pub suspect_grace: Duration,
    /// Time for which a watch continues after the last subscription to its service ended. Default
    /// 10 min. `Duration::MAX` never ends it.
    pub idle_watch: Duration,
    /// Bounds of the backoff between two attempts to watch. Default 50 ms to 2 s, full jitter. A
    /// bound below 1 ms counts as 1 ms.
    pub backoff: BackoffConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            suspect_grace: Duration::from_secs(15),
            idle_watch: Duration::from_secs(600),
            backoff: BackoffConfig {
                initial: Duration::from_millis(50),
                max: Duration::from_secs(2),
            },
        }
    }
}
