//! View of one node as a channel sees it, as plain data.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};
use tokio::time::Instant;

use crate::peer::{ConnectivityState, Exclusion, Membership, Peer};
use crate::record::Entry;

/// Decision on a node: picked, or excluded with a reason. Decided, never observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The node is in the ready set.
    Picked,
    /// The node is excluded for this reason.
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

/// View of one node as a channel sees it, as plain data.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct NodeView {
    /// Id of the node.
    pub id: String,
    /// Address of the node.
    pub address: String,
    /// Version of the service.
    pub version: String,
    /// Membership according to the registry.
    pub membership: Membership,
    /// Best state among the node's connections.
    pub connection: ConnectivityState,
    /// Decision: picked, or the reason of the exclusion.
    pub decision: Decision,
    /// Time since the last change of membership or connection, in milliseconds; 0 for an unused
    /// node.
    pub since_ms: u64,
    /// Number of attempts in flight.
    pub in_flight: u32,
    /// Number of attempts made.
    pub calls: u64,
    /// Number of attempts that failed by the node.
    pub failed: u64,
    /// Median time to response headers, in microseconds; none before the 32nd sample.
    pub p50_us: Option<u64>,
    /// Last failure of a connection.
    pub last_failure: Option<Arc<str>>,
}

impl NodeView {
    /// Creates the view of a node that no channel uses and that has no peer.
    pub fn unused(entry: &Entry, membership: Membership, exclusion: Exclusion) -> Self {
        Self {
            id: entry.node.id.clone(),
            address: entry.node.address.clone(),
            version: entry.service.version.clone(),
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

    /// Creates the view of a node that has a peer.
    pub fn used(peer: &Peer, decision: Decision, now: Instant) -> Self {
        let status = peer.status();
        let stats = peer.stats();
        Self {
            connection: status.connectivity,
            decision,
            since_ms: u64::try_from(now.saturating_duration_since(status.since).as_millis())
                .unwrap_or(u64::MAX),
            in_flight: stats.in_flight(),
            calls: stats.attempts(),
            failed: stats.failed(),
            p50_us: stats
                .p50()
                .and_then(|p50| u64::try_from(p50.as_micros()).ok()),
            last_failure: status.last_failure,
            ..Self::unused(&peer.entry(), status.membership, Exclusion::NotConnected)
        }
    }
}
