//! The ready peers of one balancer at one moment, laid out for picking: what is compared is dense, the rest is behind a pointer.

use std::sync::Arc;

use tokio::time::Instant;

use crate::peer::{LoadReader, LoadTable, Peer};

/// The ready peers that a picker chooses among, by index. Immutable but for their loads.
#[derive(Debug, Default)]
pub struct ReadySet {
    loads: LoadReader,
    slots: Box<[u32]>,
    weights: Box<[u32]>,
    since: Box<[Instant]>,
    peers: Box<[Arc<Peer>]>,
}

impl ReadySet {
    /// A set of these peers, each with the time since when it is ready; their stats must be in `loads`.
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

    /// Number of ready peers.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Returns true if no peer is ready.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Attempts in flight on peer `index` now: two reads, of which the pick of many threads shares no written line but the counter's own.
    ///
    /// # Panics
    /// If `index` is not below [`len`](ReadySet::len), as the others do.
    pub fn load(&self, index: usize) -> u32 {
        self.loads.load(self.slots[index])
    }

    /// Weight of peer `index`, 1 to 65 535, from its metadata ([`Peer::weight`]).
    pub fn weight(&self, index: usize) -> u32 {
        self.weights[index]
    }

    /// Time since when peer `index` is ready without a break.
    pub fn ready_since(&self, index: usize) -> Instant {
        self.since[index]
    }

    /// Peer `index` itself.
    pub fn peer(&self, index: usize) -> &Arc<Peer> {
        &self.peers[index]
    }
}
