//! A peer and its connections, from which an attempt takes its permit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use arc_swap::ArcSwap;
use http::uri::{Authority, Scheme};
use tokio::time::Instant;
use waypost_core::balance::Pickable;
use waypost_core::peer::Peer;

use super::wait_queue::{GivesPermits, PeerKey, WaitQueue};
use crate::conn::Connection;

/// Number of streams on each connection from which another connection is opened.
pub(super) const BUSY: usize = 32;

/// Returns the number of streams, on a connection with this limit, from which another connection is
/// opened.
pub(super) fn nearly_full(limit: usize) -> usize {
    limit / 4 * 3
}

/// Peer with the connections that take calls.
#[derive(Debug)]
pub(crate) struct PooledPeer {
    pub(super) key: PeerKey,
    pub(crate) peer: Arc<Peer>,
    pub(crate) scheme: Scheme,
    pub(crate) authority: Authority,
    /// Copy of the machine's ready connections, written by the pool's task only.
    pub(super) connections: ArcSwap<Vec<Arc<Connection>>>,
    /// True from the request for a check of this peer until the pool's task starts it.
    pub(super) is_dirty: AtomicBool,
    /// Factor on the time that a call waits before the peer is probed.
    pub(super) stall_factor: AtomicU32,
    queue: Arc<WaitQueue<PooledPeer>>,
}

impl PooledPeer {
    pub(super) fn new(
        key: PeerKey,
        peer: Arc<Peer>,
        (scheme, authority): (Scheme, Authority),
        queue: Arc<WaitQueue<PooledPeer>>,
    ) -> Self {
        Self {
            key,
            peer,
            scheme,
            authority,
            connections: ArcSwap::default(),
            is_dirty: AtomicBool::new(false),
            stall_factor: AtomicU32::new(1),
            queue,
        }
    }

    /// Returns the factor on the time that a call waits before the peer is probed: 1, more after
    /// `ENHANCE_YOUR_CALM`.
    pub(crate) fn stall_factor(&self) -> u32 {
        self.stall_factor.load(Relaxed)
    }

    fn try_acquire(&self, connection: &Arc<Connection>, now: Instant) -> Option<Permit> {
        if !connection.has_capacity() {
            return None;
        }
        let streams = connection.try_acquire()?;
        if streams >= BUSY || streams >= nearly_full(connection.limit()) {
            self.mark_dirty();
        }
        Some(Permit {
            connection: Arc::clone(connection),
            unproven: connection.needs_proof(now),
            queue: Arc::clone(&self.queue),
        })
    }

    /// Requests a check of this peer by the pool's task: a call found its connections busy, or
    /// observed a failure.
    pub(crate) fn mark_dirty(&self) {
        if !self.is_dirty.swap(true, Relaxed) {
            self.queue.mark_dirty(self.key);
        }
    }
}

impl GivesPermits for PooledPeer {
    type Permit = Permit;

    fn key(&self) -> PeerKey {
        self.key
    }

    /// Takes a permit for one stream: on a verified connection rather than one that needs proof,
    /// then on the least busy. Returns none if all are at their peer's limit; the pool's task is
    /// then notified.
    fn acquire(&self, now: Instant) -> Option<Permit> {
        let connections = self.connections.load();
        let permit = match connections.as_slice() {
            [] => return None,
            [only] => self.try_acquire(only, now),
            many => {
                let usable = many.iter().filter(|connection| connection.has_capacity());
                usable
                    .min_by_key(|connection| (connection.needs_proof(now), connection.streams()))
                    .and_then(|least| self.try_acquire(least, now))
            }
        };
        if permit.as_ref().is_none_or(|permit| permit.unproven) {
            self.mark_dirty();
        }
        permit
    }
}

impl Pickable for PooledPeer {
    fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }
}

/// Permit for one stream on one connection, returned when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    pub(crate) connection: Arc<Connection>,
    /// True if the connection was idle for so long that it may be dead.
    pub(crate) unproven: bool,
    queue: Arc<WaitQueue<PooledPeer>>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.connection.release();
        self.queue.permit_returned();
    }
}
