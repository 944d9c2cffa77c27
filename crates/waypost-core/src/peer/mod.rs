//! What a client knows of one node that it uses: connectivity and stats. A peer outlives snapshots; a node that no channel uses has none.
//!
//! This room never knows sockets, and never who is picked.

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

/// Which peer: a node of a service at an address. A node that comes back elsewhere is another peer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId {
    /// The service's name.
    pub service: String,
    /// The node's id.
    pub id: String,
    /// The node's address.
    pub address: String,
}

impl PeerId {
    /// The peer that `entry` describes.
    pub fn of(entry: &Entry) -> Self {
        Self { service: entry.head.name.clone(), id: entry.node.id.clone(), address: entry.node.address.clone() }
    }
}

/// The registry's word on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Membership {
    /// The node is in the registry.
    Confirmed,
    /// The node was lost without having left, and is kept for a while.
    Suspect,
    /// The node announced that it is leaving.
    Leaving,
}

/// The best state among a peer's connections: observed, never decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ConnectivityState {
    /// No connection, and none wanted.
    Idle,
    /// Dialling, or waiting for the server's SETTINGS.
    Connecting,
    /// The server's SETTINGS have been read.
    Ready,
    /// Between two attempts to connect.
    Backoff,
    /// The last connection takes no new calls and finishes those it has.
    Draining,
}

/// Why a node is not picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Exclusion {
    /// No connection is ready.
    NotConnected,
    /// A call waits too long on the node, and no connection of it has answered a PING yet.
    Stalled,
    /// The last connection takes no new calls.
    Draining,
    /// The node announced that it is leaving.
    Leaving,
    /// The node speaks another protocol.
    Protocol,
    /// The node has another version.
    Version,
    /// The node lacks a label.
    Label,
    /// The node lacks an endpoint.
    Endpoint,
    /// The user's own predicate rejects the node, or panicked on it.
    Predicate,
    /// The service has more nodes than `max_peers`, and the node is not in this client's share.
    OutsideSubset,
    /// The node's address cannot or may not be dialled.
    AddressRefused,
}

impl Exclusion {
    /// The name in errors, logs and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotConnected => "not_connected",
            Self::Stalled => "stalled",
            Self::Draining => "draining",
            Self::Leaving => "leaving",
            Self::Protocol => "protocol",
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

/// What is observed of a peer at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerStatus {
    /// The registry's word.
    pub membership: Membership,
    /// The best of its connections.
    pub connectivity: ConnectivityState,
    /// Since when both are as they are.
    pub since: Instant,
    /// When a connection became ready after none was.
    pub ready_since: Option<Instant>,
    /// The last failure of a connection.
    pub last_failure: Option<Arc<str>>,
}

/// What a client knows of one node.
#[derive(Debug)]
pub struct Peer {
    id: PeerId,
    entry: ArcSwap<Entry>,
    stats: PeerStats,
    status: Mutex<PeerStatus>,
}

impl Peer {
    /// A peer for `entry`, idle, with its load in `loads`.
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

    /// Identifies the peer.
    pub fn id(&self) -> &PeerId {
        &self.id
    }

    /// The node as the registry last described it.
    pub fn node(&self) -> Arc<Node> {
        Arc::clone(&self.entry.load().node)
    }

    /// The entry as the registry last described it.
    pub fn entry(&self) -> Arc<Entry> {
        self.entry.load_full()
    }

    /// Returns the properties of the method at `path`, as the node's record states them.
    pub fn method(&self, path: &str) -> Option<Method> {
        self.entry.load().head.method(path)
    }

    /// Takes a new description of the same node; its stats stay.
    pub fn describe(&self, entry: &Entry) {
        if **self.entry.load() != *entry {
            self.entry.store(Arc::new(entry.clone()));
        }
    }

    /// The node's weight for strategies that know one: node metadata `weight`, 1 to 65 535, else 1.
    pub fn weight(&self) -> u32 {
        let entry = self.entry.load();
        let weight = entry.node.metadata.get(keys::WEIGHT).and_then(|weight| weight.parse().ok());
        weight.filter(|weight| (1..=65_535).contains(weight)).unwrap_or(1)
    }

    /// The peer's counters.
    pub fn stats(&self) -> &PeerStats {
        &self.stats
    }

    /// What is observed of the peer now.
    pub fn status(&self) -> PeerStatus {
        self.lock().clone()
    }

    /// Notes what is observed; `since` moves only when something changed.
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

    /// Notes the last failure of a connection.
    pub fn note_failure(&self, why: Arc<str>) {
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
            Peer::new(service.entries().remove(0), &LoadTable::default(), Instant::now()).weight()
        };
        let table = [(None, 1), (Some("7"), 7), (Some("0"), 1), (Some("65535"), 65_535), (Some("65536"), 1), (Some("-1"), 1)];
        for (text, expected) in table {
            assert_eq!(weight(text), expected, "{text:?}");
        }
    }
}
