//! State of one node that a client uses: connectivity and stats. A peer outlives snapshots; a node
//! that no channel uses has no peer.
//!
//! This module does not depend on sockets or balancing.

mod finished;
mod load;
mod stats;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use serde::Serialize;
use tokio::time::Instant;

pub use finished::{AttemptEnd, AttemptObserver, Finished, ReportedLoad};
pub(crate) use load::LoadReader;
pub use load::LoadTable;
pub use stats::PeerStats;

use crate::record::{Entry, Method, Node, keys};

/// Identity of a peer: a node of a service at an address. A node that returns at another address is
/// another peer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId {
    /// Name of the service.
    pub service: String,
    /// Id of the node.
    pub id: String,
    /// Address of the node.
    pub address: String,
}

impl PeerId {
    /// Returns the id of the peer for `entry`.
    pub fn of(entry: &Entry) -> Self {
        Self {
            service: entry.service.name.clone(),
            id: entry.node.id.clone(),
            address: entry.node.address.clone(),
        }
    }
}

/// Membership of a node according to the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Membership {
    /// The node is registered.
    Confirmed,
    /// The node was lost without having left, and is kept for a grace period.
    Suspect,
    /// The node announced that it is leaving.
    Leaving,
}

/// Best state among a peer's connections: observed, never decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ConnectivityState {
    /// No connection exists, and none is wanted.
    Idle,
    /// A connection is being dialled, or waits for the server's SETTINGS.
    Connecting,
    /// The server's SETTINGS have been received.
    Ready,
    /// The peer waits between two attempts to connect.
    Backoff,
    /// The last connection accepts no new calls and finishes those in flight.
    Draining,
}

/// Reason for which a node is not picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Exclusion {
    /// No connection is ready.
    NotConnected,
    /// Connected, but on no ready connection was anything read since a PING was sent. An overdue
    /// call or a silent connection causes the PING.
    Stalled,
    /// The last connection accepts no new calls.
    Draining,
    /// The node announced that it is leaving.
    Leaving,
    /// The node has another protocol.
    Protocol,
    /// The node speaks TLS, and the client does not.
    TlsRequired,
    /// The node does not speak TLS, and the client requires it.
    Plaintext,
    /// The node has another version.
    Version,
    /// The node lacks a label.
    Label,
    /// The node lacks an endpoint.
    Endpoint,
    /// The user's predicate rejects the node, or panicked on it.
    Predicate,
    /// The service has more nodes than `max_peers`, and the node is not in this client's subset.
    OutsideSubset,
    /// The node's address is invalid or not allowed.
    AddressRefused,
}

impl Exclusion {
    /// Returns the name in errors, logs and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotConnected => "not_connected",
            Self::Stalled => "stalled",
            Self::Draining => "draining",
            Self::Leaving => "leaving",
            Self::Protocol => "protocol",
            Self::TlsRequired => "tls_required",
            Self::Plaintext => "plaintext",
            Self::Version => "version",
            Self::Label => "label",
            Self::Endpoint => "endpoint",
            Self::Predicate => "predicate",
            Self::OutsideSubset => "outside_subset",
            Self::AddressRefused => "address_refused",
        }
    }
}

impl fmt::Display for Exclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Observed status of a peer at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerStatus {
    /// Membership according to the registry.
    pub membership: Membership,
    /// Best state among the peer's connections.
    pub connectivity: ConnectivityState,
    /// Time of the last change of membership or connectivity.
    pub since: Instant,
    /// Time since which a connection has been ready; none if no connection is ready.
    pub ready_since: Option<Instant>,
    /// Last failure of a connection.
    pub last_failure: Option<Arc<str>>,
}

/// State of one node that a client uses.
#[derive(Debug)]
pub struct Peer {
    id: PeerId,
    entry: ArcSwap<Entry>,
    stats: PeerStats,
    status: Mutex<PeerStatus>,
}

impl Peer {
    /// Creates an idle peer for `entry`, with its load counter in `loads`.
    pub fn new(entry: Entry, loads: &LoadTable, now: Instant) -> Self {
        let status = PeerStatus {
            membership: Membership::Confirmed,
            connectivity: ConnectivityState::Idle,
            since: now,
            ready_since: None,
            last_failure: None,
        };
        Self {
            id: PeerId::of(&entry),
            entry: ArcSwap::from_pointee(entry),
            stats: PeerStats::new(loads),
            status: Mutex::new(status),
        }
    }

    /// Returns the identity of the peer.
    pub fn id(&self) -> &PeerId {
        &self.id
    }

    /// Returns the node of the latest entry.
    pub fn node(&self) -> Arc<Node> {
        Arc::clone(&self.entry.load().node)
    }

    /// Returns the latest entry of the registry.
    pub fn entry(&self) -> Arc<Entry> {
        self.entry.load_full()
    }

    /// Returns the properties of the method at `path`, according to the node's record.
    pub fn method(&self, path: &str) -> Option<Method> {
        self.entry.load().service.method(path)
    }

    /// Replaces the entry of the node. The stats are kept.
    pub fn describe(&self, entry: &Entry) {
        if **self.entry.load() != *entry {
            self.entry.store(Arc::new(entry.clone()));
        }
    }

    /// Returns the node's weight for weighted strategies: node metadata `weight` from 1 to 65 535,
    /// otherwise 1.
    pub fn weight(&self) -> u32 {
        let entry = self.entry.load();
        let weight = entry
            .node
            .metadata
            .get(keys::WEIGHT)
            .and_then(|weight| weight.parse().ok());
        weight
            .filter(|weight| (1..=65_535).contains(weight))
            .unwrap_or(1)
    }

    /// Returns the peer's counters.
    pub fn stats(&self) -> &PeerStats {
        &self.stats
    }

    /// Returns the observed status.
    pub fn status(&self) -> PeerStatus {
        self.lock().clone()
    }

    /// Records observations. `since` changes only if one of them changed.
    pub fn observe(&self, now: Instant, membership: Membership, connectivity: ConnectivityState) {
        let mut status = self.lock();
        if (status.membership, status.connectivity) == (membership, connectivity) {
            return;
        }
        status.ready_since = match connectivity {
            ConnectivityState::Ready => status.ready_since.or(Some(now)),
            _ => None,
        };
        (status.membership, status.connectivity, status.since) = (membership, connectivity, now);
    }

    /// Records the last failure of a connection.
    pub fn record_failure(&self, why: Arc<str>) {
        self.lock().last_failure = Some(why);
    }

    fn lock(&self) -> MutexGuard<'_, PeerStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Service;

    #[test]
    fn a_weight_out_of_range_counts_as_one() {
        let weight = |text: Option<&str>| {
            let mut node = Node::with_id("greeter", "a", "127.0.0.1:1");
            if let Some(text) = text {
                node.metadata.insert(keys::WEIGHT, text);
            }
            let mut service = Service::new("greeter");
            service.nodes.push(node);
            Peer::new(
                service.entries().remove(0),
                &LoadTable::default(),
                Instant::now(),
            )
            .weight()
        };
        let table = [
            (None, 1),
            (Some("7"), 7),
            (Some("0"), 1),
            (Some("65535"), 65_535),
            (Some("65536"), 1),
            (Some("-1"), 1),
        ];
        for (text, expected) in table {
            assert_eq!(weight(text), expected, "{text:?}");
        }
    }
}
