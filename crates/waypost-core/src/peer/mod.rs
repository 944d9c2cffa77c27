//! What a client knows of one node: its connection state and its meters. It outlives snapshots.
//!
//! [`Machine`] decides when a node is connected and when it is let go, [`Pulse`] when a connection that says nothing is asked whether it
//! still lives; both are pure. This room never knows sockets, and never who is picked.

mod machine;
mod meters;
mod pulse;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use serde::Serialize;
use tokio::time::Instant;

pub use machine::{Action, Calm, ConnectionId, Event, Machine, Settings, Wish};
pub use meters::{Meters, Outcome};
pub use pulse::{Ask, Health, Pulse, Read};

use crate::record::{Entry, Node};

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
pub enum Membership {
    /// It is in the registry.
    Confirmed,
    /// It was lost without having left, and is kept for a while.
    Suspect,
    /// It said that it is going.
    Leaving,
}

/// The best state among a peer's connections: observed, never decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Connection {
    /// None, and none wanted.
    Idle,
    /// Dialling, or waiting for the server's SETTINGS.
    Connecting,
    /// The server's SETTINGS have been read.
    Ready,
    /// Between two attempts to connect.
    Backoff,
    /// The last one takes no new calls and finishes those it has.
    Draining,
}

/// Why a node is not picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Exclusion {
    /// No connection is ready.
    NotConnected,
    /// A call waits too long on it, and it has not answered a PING yet.
    Stalled,
    /// Its last connection takes no new calls.
    Draining,
    /// It said that it is going.
    Leaving,
    /// It speaks another protocol.
    Protocol,
    /// It has another version.
    Version,
    /// It lacks a label.
    Label,
    /// It lacks an endpoint.
    Endpoint,
    /// The user's own predicate says no.
    Predicate,
    /// The service has more nodes than `max_peers`, and it is not of this client's share.
    OutsideSubset,
    /// Its address cannot or may not be dialled.
    AddressRefused,
}

impl fmt::Display for Exclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
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
        })
    }
}

/// What is observed of a peer at one moment.
#[derive(Clone, Debug)]
pub struct Status {
    /// The registry's word.
    pub membership: Membership,
    /// The best of its connections.
    pub connection: Connection,
    /// Whether none of its ready connections answers.
    pub stalled: bool,
    /// Since when the three above are as they are.
    pub since: Instant,
    /// The last thing that went wrong with a connection.
    pub last_failure: Option<Arc<str>>,
}

/// What a client knows of one node.
#[derive(Debug)]
pub struct Peer {
    id: PeerId,
    entry: ArcSwap<Entry>,
    meters: Meters,
    status: Mutex<Status>,
}

impl Peer {
    /// A peer for `entry`, idle.
    pub fn new(entry: Entry, now: Instant) -> Self {
        let status = Status {
            membership: Membership::Confirmed,
            connection: Connection::Idle,
            stalled: false,
            since: now,
            last_failure: None,
        };
        Self {
            id: PeerId::of(&entry),
            entry: ArcSwap::from_pointee(entry),
            meters: Meters::default(),
            status: Mutex::new(status),
        }
    }

    /// Which peer it is.
    pub fn id(&self) -> &PeerId {
        &self.id
    }

    /// The node as the registry last described it.
    pub fn node(&self) -> Arc<Node> {
        Arc::clone(&self.entry.load().node)
    }

    /// The entry as the registry last described it.
    pub fn entry(&self) -> arc_swap::Guard<Arc<Entry>> {
        self.entry.load()
    }

    /// Takes a new description of the same node; its meters stay.
    pub fn describe(&self, entry: &Entry) {
        if **self.entry.load() != *entry {
            self.entry.store(Arc::new(entry.clone()));
        }
    }

    /// Its counters.
    pub fn meters(&self) -> &Meters {
        &self.meters
    }

    /// What is observed of it now.
    pub fn status(&self) -> Status {
        self.lock().clone()
    }

    /// Notes what is observed; `since` moves only when something changed. Returns whether it did.
    pub fn observe(&self, now: Instant, membership: Membership, connection: Connection, stalled: bool) -> bool {
        let mut status = self.lock();
        let same = (status.membership, status.connection, status.stalled) == (membership, connection, stalled);
        if !same {
            *status = Status { membership, connection, stalled, since: now, last_failure: status.last_failure.take() };
        }
        !same
    }

    /// Notes the last thing that went wrong.
    pub fn note_failure(&self, why: &str) {
        self.lock().last_failure = Some(why.into());
    }

    fn lock(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
