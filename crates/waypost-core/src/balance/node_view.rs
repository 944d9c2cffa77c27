//! One node as a channel sees it, as plain data.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};
use tokio::time::Instant;

use crate::peer::{ConnectivityState, Exclusion, Membership, Peer};
use crate::record::Entry;

/// Returns whether a node is picked, and if not, why: decided, never observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The node is among the ready.
    Picked,
    /// The node is not picked, for this reason.
    Excluded(Exclusion),
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Picked => f.write_str("picked"),
            Self::Excluded(exclusion) => exclusion.fmt(f),
        }
    }
}

impl Serialize for Decision {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One node as a channel sees it: plain data for views.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct NodeView {
    /// The node's id.
    pub id: String,
    /// The node's address.
    pub address: String,
    /// The service's version.
    pub version: String,
    /// The registry's word.
    pub membership: Membership,
    /// The best of its connections.
    pub connection: ConnectivityState,
    /// Picked, or the reason why not.
    pub decision: Decision,
    /// For how long membership and connection are as they are, in milliseconds; 0 for a node that is not used.
    pub since_ms: u64,
    /// Attempts in flight.
    pub in_flight: u32,
    /// Attempts made.
    pub calls: u64,
    /// Attempts that the node failed.
    pub failed: u64,
    /// The median wait for response headers, in microseconds; none below 20 answers.
    pub p50_us: Option<u64>,
    /// The last failure of a connection.
    pub last_failure: Option<Arc<str>>,
}

impl NodeView {
    /// A node that no channel uses: it has no peer.
    pub fn unused(entry: &Entry, membership: Membership, exclusion: Exclusion) -> Self {
        Self {
            id: entry.node.id.clone(),
            address: entry.node.address.clone(),
            version: entry.head.version.clone(),
            membership,
            connection: ConnectivityState::Idle,
            decision: Decision::Excluded(exclusion),
            since_ms: 0,
            in_flight: 0,
            calls: 0,
            failed: 0,
            p50_us: None,
            last_failure: None,
        }
    }

    /// A node that has a peer.
    pub fn used(peer: &Peer, decision: Decision, now: Instant) -> Self {
        let status = peer.status();
        let stats = peer.stats();
        Self {
            connection: status.connectivity,
            decision,
            since_ms: u64::try_from(now.saturating_duration_since(status.since).as_millis()).unwrap_or(u64::MAX),
            in_flight: stats.in_flight(),
            calls: stats.attempts(),
            failed: stats.failed(),
            p50_us: stats.p50().and_then(|p50| u64::try_from(p50.as_micros()).ok()),
            last_failure: status.last_failure,
            ..Self::unused(&peer.entry(), status.membership, Exclusion::NotConnected)
        }
    }
}
