//! A peer and its connections: where an attempt gets its permit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use arc_swap::ArcSwap;
use http::uri::Authority;
use tokio::time::Instant;
use waypost_core::balance::Pickable;
use waypost_core::peer::Peer;

use super::room::Room;
use crate::conn::Connection;

/// Streams on each connection from which another connection is of use.
pub(super) const BUSY: usize = 32;

/// Streams on a connection with this limit from which another connection is of use.
pub(super) fn nearly_full(limit: usize) -> usize {
    limit / 4 * 3
}

/// A peer in the pool's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PeerKey(pub(super) u64);

/// A peer with the connections that take calls.
#[derive(Debug)]
pub(crate) struct PooledPeer {
    pub(super) key: PeerKey,
    pub(crate) peer: Arc<Peer>,
    pub(crate) authority: Authority,
    /// Copy of the machine's ready connections, written by the pool's task alone.
    pub(super) connections: ArcSwap<Vec<Arc<Connection>>>,
    /// Set while the pool's task has been asked to look at this peer and has not yet begun to.
    pub(super) look: AtomicBool,
    /// Factor on the time that a call waits before the peer is asked.
    pub(super) stall_factor: AtomicU32,
    room: Arc<Room>,
}

impl PooledPeer {
    pub(super) fn new(key: PeerKey, peer: Arc<Peer>, authority: Authority, room: Arc<Room>) -> Self {
        Self {
            key,
            peer,
            authority,
            connections: ArcSwap::default(),
            look: AtomicBool::new(false),
            stall_factor: AtomicU32::new(1),
            room,
        }
    }

    /// Identifies the peer in its pool.
    pub(crate) fn key(&self) -> PeerKey {
        self.key
    }

    /// Factor on the time that a call waits before the peer is asked: 1, more after `ENHANCE_YOUR_CALM`.
    pub(crate) fn stall_factor(&self) -> u32 {
        self.stall_factor.load(Relaxed)
    }

    /// Takes a permit for one stream: on a connection that is proven over one that is not, then on the least busy. None if all are at their
    /// peer's limit; then the pool's task hears of it.
    pub(crate) fn acquire(&self, now: Instant) -> Option<Permit> {
        let connections = self.connections.load();
        let permit = match connections.as_slice() {
            [] => return None,
            [only] => self.try_acquire(only, now),
            many => {
                let usable = many.iter().filter(|connection| connection.has_room());
                usable
                    .min_by_key(|connection| (connection.needs_proof(now), connection.streams()))
                    .and_then(|least| self.try_acquire(least, now))
            }
        };
        if permit.as_ref().is_none_or(|permit| permit.unproven) {
            self.ask_for_a_look();
        }
        permit
    }

    fn try_acquire(&self, connection: &Arc<Connection>, now: Instant) -> Option<Permit> {
        if !connection.has_room() {
            return None;
        }
        let streams = connection.try_acquire()?;
        if streams >= BUSY || streams >= nearly_full(connection.limit()) {
            self.ask_for_a_look();
        }
        Some(Permit { connection: Arc::clone(connection), unproven: connection.needs_proof(now), room: Arc::clone(&self.room) })
    }

    /// Asks the pool's task to look at this peer: a call found its connections busy, or learned something of it.
    pub(crate) fn ask_for_a_look(&self) {
        if !self.look.swap(true, Relaxed) {
            self.room.ask_for_a_look(self.key);
        }
    }
}

impl Pickable for PooledPeer {
    fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }
}

/// The right to one stream on one connection, given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    pub(crate) connection: Arc<Connection>,
    /// True if the connection was idle for so long that it may be dead.
    pub(crate) unproven: bool,
    room: Arc<Room>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.connection.release();
        self.room.permit_returned();
    }
}
