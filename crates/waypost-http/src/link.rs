//! A peer and its connections: where a call gets its permit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed};

use arc_swap::ArcSwap;
use http::uri::Authority;
use tokio::sync::Notify;
use waypost_core::balance::Pickable;
use waypost_core::peer::Peer;

use crate::connection::Connection;

/// From so many calls on each connection on, another connection is of use.
const BUSY: usize = 32;

/// A peer with the connections that take calls.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) peer: Arc<Peer>,
    pub(crate) authority: Authority,
    pub(crate) connections: ArcSwap<Vec<Arc<Connection>>>,
    /// Set by a call that found all connections busy; taken by the task that owns the peers.
    pub(crate) busy: AtomicBool,
    /// How often this peer's times are doubled.
    pub(crate) patience: AtomicU32,
    room: Arc<Room>,
}

/// Where calls wait for a permit, and where they ask for more connections.
#[derive(Debug, Default)]
pub(crate) struct Room {
    /// Calls that wait now.
    pub(crate) waiting: AtomicUsize,
    /// Woken when a permit was given back while somebody waited.
    pub(crate) freed: Notify,
    /// Wakes the task that owns the peers.
    pub(crate) wake: Notify,
    /// Set when that task has ended: nobody will be ready any more.
    pub(crate) closed: AtomicBool,
}

impl Link {
    pub(crate) fn new(peer: Arc<Peer>, authority: Authority, room: Arc<Room>) -> Self {
        Self { peer, authority, connections: ArcSwap::default(), busy: AtomicBool::new(false), patience: AtomicU32::new(1), room }
    }

    /// A permit for one stream on the least busy connection; none if all are at their peer's limit.
    pub(crate) fn acquire(&self) -> Option<Permit> {
        let connections = self.connections.load();
        let least = match connections.as_slice() {
            [] => return None,
            [only] => only,
            many => many.iter().filter(|c| c.has_room()).min_by_key(|c| c.streams())?,
        };
        let streams = least.acquire();
        if streams.is_none_or(|n| n >= BUSY || n >= least.limit() / 4 * 3) && !self.busy.swap(true, Relaxed) {
            self.room.wake.notify_one();
        }
        streams?;
        Some(Permit { connection: Arc::clone(least), room: Arc::clone(&self.room) })
    }
}

impl Pickable for Link {
    fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }
}

/// The right to one stream on one connection, given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    pub(crate) connection: Arc<Connection>,
    room: Arc<Room>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.connection.release();
        if self.room.waiting.load(Relaxed) > 0 {
            self.room.freed.notify_waiters();
        }
    }
}
