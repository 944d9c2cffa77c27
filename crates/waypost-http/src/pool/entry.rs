//! One node in use: its peer, its connections and its timers.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::uri::Authority;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use waypost_core::balance::{Judgements, Observed};
use waypost_core::peer::{ConnectivityState, Exclusion, Membership, Peer};
use waypost_core::record::{Address, Entry};

use super::log::NodeLog;
use super::machine::{ConnectionId, Desired, Reconnect};
use super::peer::{BUSY, PooledPeer, nearly_full};
use super::subset::SlotState;
use super::surplus::{Carried, Surplus};
use super::wait_queue::PeerKey;
use super::{PoolShared, ServicePool};
use crate::conn::connect::AddressPolicy;
use crate::conn::{Connection, EnhanceYourCalm, Liveness};

/// Time for which a lost node keeps its slot in the subset, if it was connected.
const PLACE_KEPT: Duration = Duration::from_secs(5);
/// Maximum number of connections to one node, when each is at its peer's limit.
const CONNECTIONS_AT_MOST: usize = 8;
/// Number of connections to all nodes together that lets a client and a few nodes work in parallel
/// rather than in lockstep.
const CONNECTIONS_IN_ALL: usize = 4;

/// Node in use.
#[derive(Debug)]
pub(super) struct PeerEntry {
    pub(super) entry: Entry,
    pub(super) membership: Membership,
    pub(super) address: Result<Address, Exclusion>,
    pub(super) pooled: Arc<PooledPeer>,
    pub(super) machine: Reconnect<Arc<Connection>>,
    pub(super) dials: HashMap<ConnectionId, AbortHandle>,
    pub(super) calm: EnhanceYourCalm,
    /// Number of subsets that the node has joined.
    pub(super) wanted_by: usize,
    pub(super) dirty: bool,
    pub(super) armed: Option<Instant>,
    pub(super) log: NodeLog,
    /// True if the last connection that ended before it was settled was closed in order: the node
    /// may accept the next one.
    pub(super) closed_early: bool,
    pub(super) exclusion: Option<Exclusion>,
    judgements: Judgements,
    /// Time since which the node has been usable without interruption.
    usable_since: Option<Instant>,
    /// Time when the node was last usable, if it ever was for the time that settles a connection. A
    /// node that completes the handshake and then closes keeps no slot.
    usable_until: Option<Instant>,
    settled_after: Duration,
    shared: Vec<Arc<Connection>>,
    surplus: Surplus,
}

impl PeerEntry {
    pub(super) fn new(
        key: PeerKey,
        entry: Entry,
        membership: Membership,
        pool: &ServicePool,
        shared: &PoolShared,
        now: Instant,
    ) -> Self {
        let authority = Authority::try_from(&*entry.node.address)
            .unwrap_or_else(|_| Authority::from_static("invalid"));
        let peer = Arc::new(Peer::new(entry.clone(), &pool.loads, now));
        Self {
            address: dialable(&entry.node.address, &shared.policy),
            entry,
            membership,
            pooled: Arc::new(PooledPeer::new(
                key,
                peer,
                (shared.scheme.clone(), authority),
                Arc::clone(&pool.queue),
            )),
            machine: Reconnect::new(shared.config.reconnect, fastrand::Rng::new()),
            dials: HashMap::new(),
            calm: EnhanceYourCalm::default(),
            wanted_by: 0,
            dirty: false,
            armed: None,
            log: NodeLog::default(),
            closed_early: false,
            exclusion: Some(Exclusion::NotConnected),
            judgements: Judgements::default(),
            usable_since: None,
            usable_until: None,
            settled_after: shared.config.reconnect.settled_after,
            shared: Vec::new(),
            surplus: Surplus::default(),
        }
    }

    /// Returns the client's intent for the node.
    pub(super) fn desired(&self) -> Desired {
        match self.membership {
            _ if self.wanted_by == 0 || self.address.is_err() => Desired::Dropped,
            Membership::Confirmed => Desired::Connected,
            Membership::Suspect => Desired::Kept,
            _ => Desired::Dropped,
        }
    }

    /// Publishes the machine's ready connections to the calls.
    pub(super) fn share_connections(&mut self) {
        let same = self.machine.ready().count() == self.shared.len()
            && self
                .machine
                .ready()
                .zip(&self.shared)
                .all(|((_, a), b)| Arc::ptr_eq(a, b));
        if !same {
            self.shared = self
                .machine
                .ready()
                .map(|(_, connection)| Arc::clone(connection))
                .collect();
            self.pooled.connections.store(Arc::new(self.shared.clone()));
        }
    }

    /// Observes the node and updates its exclusion. Returns the previous exclusion if it has
    /// changed.
    pub(super) fn judge(&mut self, now: Instant) -> Option<Option<Exclusion>> {
        let peer = &self.pooled.peer;
        peer.observe(now, self.membership, self.machine.connectivity());
        let status = peer.status();
        let observed = Observed {
            status: &status,
            responsive: self.machine.is_responsive(),
            address: self.address.as_ref().err().copied(),
        };
        self.judgements.update(now, &observed);
        let exclusion = self.judgements.exclusion();
        if exclusion.is_none() || self.exclusion.is_none() {
            let since = *self.usable_since.get_or_insert(now);
            if now.saturating_duration_since(since) >= self.settled_after {
                self.usable_until = Some(now);
            }
        }
        self.usable_since = self.usable_since.filter(|_| exclusion.is_none());
        let before = std::mem::replace(&mut self.exclusion, exclusion);
        (before != exclusion).then_some(before)
    }

    /// Returns the time since which the node has been ready without interruption.
    pub(super) fn ready_since(&self, now: Instant) -> Instant {
        self.pooled.peer.status().ready_since.unwrap_or(now)
    }

    /// Returns the node's progress towards taking calls.
    pub(super) fn place(&self, now: Instant) -> SlotState {
        if self.exclusion.is_none() {
            return SlotState::Ready;
        }
        let held = match self.kept_until() {
            Some(until) => now < until,
            None => {
                self.address.is_ok() && self.machine.failures() == 0 && self.may_be_dialled_soon()
            }
        };
        if held {
            SlotState::Held
        } else {
            SlotState::Empty
        }
    }

    fn may_be_dialled_soon(&self) -> bool {
        self.machine.connecting() == 0 || self.machine.may_be_ready_soon()
    }

    fn kept_until(&self) -> Option<Instant> {
        self.usable_until
            .and_then(|until| until.checked_add(PLACE_KEPT))
    }

    /// Returns the time of the next check if no event occurs before. It may be past; then the check
    /// is due.
    pub(super) fn next_wake(&self, now: Instant) -> Option<Instant> {
        let place = self
            .kept_until()
            .filter(|until| self.exclusion.is_some() && *until > now);
        [
            self.machine.next_wake(),
            place,
            self.surplus.next_wake(),
            self.log.next_wake(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Returns the target number of connections. `sharing` is the number of peers that share the
    /// load, now or soon.
    pub(super) fn target(&self, sharing: impl FnOnce() -> usize) -> usize {
        let connections = &self.shared;
        let all = |is: &dyn Fn(&Arc<Connection>) -> bool| {
            !connections.is_empty() && connections.iter().all(is)
        };
        let most = if all(&|c| {
            c.limit() > 0 && (c.streams() >= nearly_full(c.limit()) || !c.has_capacity())
        }) {
            CONNECTIONS_AT_MOST
        } else if all(&|c| c.streams() >= BUSY) {
            connections_each(sharing())
        } else {
            0
        };
        if connections.len() < most {
            connections.len() + 1
        } else {
            connections.len()
        }
    }

    /// Returns the connection to be drained, if one fewer has been enough for a while with
    /// `sharing` peers to share the load: an unresponsive one, or else the least busy.
    pub(super) fn surplus(&mut self, now: Instant, sharing: usize) -> Option<ConnectionId> {
        let ready = || self.machine.ready().map(|(_, connection)| connection);
        // Once a peer has its part of the connections, only a nearly full one opens another.
        let busy = if ready().count() <= connections_each(sharing) {
            BUSY
        } else {
            usize::MAX
        };
        let carried = || Carried {
            peak: ready().map(|connection| connection.take_peak()).sum(),
            busy: ready()
                .map(|connection| busy.min(nearly_full(connection.limit())))
                .min()
                .unwrap_or(BUSY),
        };
        if !self.surplus.look(now, ready().count(), carried) {
            return None;
        }
        let least = |(id, connection): &(ConnectionId, &Arc<Connection>)| {
            (
                connection.liveness() == Liveness::Alive,
                connection.streams(),
                Reverse(*id),
            )
        };
        self.machine.ready().min_by_key(least).map(|(id, _)| id)
    }

    /// Publishes the factor on this peer's stall timeout to the calls; returns the state for new
    /// connections.
    pub(super) fn share_calm(&self, now: Instant) -> EnhanceYourCalm {
        self.pooled
            .stall_factor
            .store(self.calm.stall_factor(now), Relaxed);
        self.calm
    }

    /// Returns true if no subset uses the node and it has no connection.
    pub(super) fn is_gone(&self) -> bool {
        self.wanted_by == 0 && self.machine.is_empty()
    }

    /// Verifies the ready connections that were idle.
    pub(super) fn prove(&self) {
        self.machine
            .ready()
            .for_each(|(_, connection)| connection.prove());
    }

    /// Returns true if a ready connection was idle for so long that it must be verified.
    pub(super) fn needs_proof(&self, now: Instant) -> bool {
        self.machine
            .ready()
            .any(|(_, connection)| connection.needs_proof(now))
    }

    /// Returns true if no connection is ready after a failed connect, or after the server closed
    /// two in a row early.
    pub(super) fn has_failed(&self) -> bool {
        self.machine.failures() > u32::from(self.closed_early)
            && self.machine.connectivity() == ConnectivityState::Backoff
    }
}

/// Returns the number of connections that each of `sharing` peers should have under load.
fn connections_each(sharing: usize) -> usize {
    CONNECTIONS_IN_ALL.div_ceil(sharing.max(1))
}

fn dialable(address: &str, policy: &AddressPolicy) -> Result<Address, Exclusion> {
    let address: Address = address.parse().map_err(|_| Exclusion::AddressRefused)?;
    if policy.allows_host(&address.host) && Authority::try_from(address.to_string()).is_ok() {
        Ok(address)
    } else {
        Err(Exclusion::AddressRefused)
    }
}
