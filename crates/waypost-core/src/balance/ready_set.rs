//! Ready peers of one balancer at one moment, laid out for picking: the compared data is dense, the
//! rest is behind a pointer.

use std::sync::Arc;

use tokio::time::Instant;

use crate::peer::{LoadReader, LoadTable, Peer};

/// Set of the ready peers, from which a picker picks by index. Immutable except for the loads.
#[derive(Debug, Default)]
pub struct ReadySet {
    loads: LoadReader,
    slots: Box<[u32]>,
    weights: Box<[u32]>,
    since: Box<[Instant]>,
    peers: Box<[Arc<Peer>]>,
}

impl ReadySet {
    /// Creates a set of these peers, each with the time since which it has been ready. Their stats
    /// must be in `loads`.
    pub fn new(loads: &LoadTable, peers: impl IntoIterator<Item = (Arc<Peer>, Instant)>) -> Self {
        let (peers, since): (Vec<_>, Vec<_>) = peers.into_iter().unzip();
        Self {
            loads: loads.reader(),
            slots: peers.iter().map(|peer| peer.stats().load_slot()).collect(),
            weights: peers.iter().map(|peer| peer.weight()).collect(),
            since: since.into(),
            peers: peers.into(),
        }
    }

    /// Returns the number of ready peers.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Returns true if no peer is ready.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Returns the number of attempts in flight on peer `index`. Costs two reads; the only cache
    /// line that other threads write is that of the counter.
    ///
    /// # Panics
    /// Panics if `index` is not below [`len`](ReadySet::len), as the other methods do.
    pub fn load(&self, index: usize) -> u32 {
        self.loads.load(self.slots[index])
    }

    /// Returns the weight of peer `index`, 1 to 65 535, from its metadata ([`Peer::weight`]).
    pub fn weight(&self, index: usize) -> u32 {
        self.weights[index]
    }

    /// Returns the time since which peer `index` has been ready without an interruption.
    pub fn ready_since(&self, index: usize) -> Instant {
        self.since[index]
    }

    /// Returns peer `index`.
    pub fn peer(&self, index: usize) -> &Arc<Peer> {
        &self.peers[index]
    }
}
