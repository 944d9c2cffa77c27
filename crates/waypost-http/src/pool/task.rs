//! Task of a service's pool. It awaits and acts; the decisions are those of [`Reconnect`],
//! [`Subset`](super::subset::Subset) and the balancers.
//!
//! Every event marks peers dirty or subsets unsettled, and an iteration ends when none is left. The
//! events of one connection arrive on one ordered channel, so its end is never seen before its
//! beginning.

mod connections;
mod lines;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use http::uri::Scheme;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use waypost_core::directory::{MemberChange, Snapshot};
use waypost_core::peer::{Exclusion, Membership};
use waypost_core::record::Entry;
use waypost_core::registry::Error;

use super::entry::PeerEntry;
use super::log::{LineBudget, NodeLog, ServiceLog};
use super::machine::{ConnectionId, Event};
use super::members::{Members, Retry};
use super::subscription::Renewal;
use super::subset::{Change, SlotState};
use super::timers::Timers;
use super::wait_queue::PeerKey;
use super::{ServicePool, Used, lock};
use crate::config::ClientConfig;
use crate::conn::connect::{AddressPolicy, Connect};
use crate::conn::{ConnectionConfig, ConnectionEvent, DialSlots};

/// Time for which waiting calls are spread over nodes that are about to be ready. Afterwards, the
/// ready ones serve them.
const SPREAD: Duration = Duration::from_millis(100);
/// Minimum interval between verifications of the idle connections of all nodes.
const PROVE_EVERY: Duration = Duration::from_secs(1);
/// Minimum average interval between dials of nodes that hold no slot.
const UNPLACED_DIAL_EVERY: Duration = Duration::from_millis(100);

type Report = (PeerKey, ConnectionId, ConnectionEvent);

/// Settings and state that a client's pools subset.
#[derive(Clone, Debug)]
pub(crate) struct PoolShared {
    pub(crate) config: Arc<ClientConfig>,
    pub(crate) connection: Arc<ConnectionConfig>,
    pub(crate) connect: Arc<dyn Connect>,
    /// Scheme of requests over its connections.
    pub(crate) scheme: Scheme,
    pub(crate) policy: AddressPolicy,
    pub(crate) slots: DialSlots,
    /// Seed of this client's subsets.
    pub(crate) seed: u64,
}

/// Task of a service's pool.
pub(crate) struct PoolTask {
    service: Arc<str>,
    pool: Arc<ServicePool>,
    shared: PoolShared,
    snapshot: Snapshot,
    members: Vec<Members>,
    peers: HashMap<PeerKey, PeerEntry>,
    /// Current peer of each node id; older ones of the same id drain.
    by_id: HashMap<Box<str>, PeerKey>,
    next_key: u64,
    ready: usize,
    dirty: Vec<PeerKey>,
    timers: Timers,
    reports: mpsc::UnboundedSender<Report>,
    events: mpsc::UnboundedReceiver<Report>,
    connections: JoinSet<()>,
    /// Number of waiting calls that the capacity added in this iteration may serve.
    capacity_added: usize,
    serve_all_at: Option<Instant>,
    proven_at: Option<Instant>,
    idle_since: Option<Instant>,
    lines: LineBudget,
    service_log: ServiceLog,
    connected_once: bool,
}

/// Drop guard that notifies channels and waiting calls of the end of the task, including by panic.
struct Gone(Arc<ServicePool>);

impl Drop for Gone {
    fn drop(&mut self) {
        for registered in lock(&self.0.balancers).current(now()) {
            let _ = registered.balancer.publish(now(), Vec::new());
        }
        self.0.queue.close();
    }
}

impl PoolTask {
    pub(crate) fn new(service: &str, pool: Arc<ServicePool>, shared: PoolShared) -> Self {
        // Bounded by the number of connections: each has at most one event of each kind queued.
        let (reports, events) = mpsc::unbounded_channel();
        Self {
            service: service.into(),
            pool,
            shared,
            snapshot: Snapshot::default(),
            members: Vec::new(),
            peers: HashMap::new(),
            by_id: HashMap::new(),
            next_key: 0,
            ready: 0,
            dirty: Vec::new(),
            timers: Timers::default(),
            reports,
            events,
            connections: JoinSet::new(),
            capacity_added: 0,
            serve_all_at: None,
            proven_at: None,
            idle_since: None,
            lines: LineBudget::default(),
            service_log: ServiceLog::default(),
            connected_once: false,
        }
    }

    /// Runs until stopped, until the directory is closed, or until no channel has used the service
    /// for the idle time and `forget` agrees; then closes every connection. If only the directory's
    /// task has ended, another is started on this runtime.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>, forget: impl Fn() -> bool) {
        let pool = Arc::clone(&self.pool);
        let gone = Gone(Arc::clone(&pool));
        let mut subscription = pool.subscription.reader();
        let (mut renewal, mut renew_at) = (Renewal::default(), None);
        self.take_balancers();
        self.take_snapshot(subscription.snapshot());
        loop {
            self.settle();
            let wake = self.next_wake();
            let idle_until = self.idle_until();
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                changed = subscription.changed(), if renew_at.is_none() => {
                    if changed {
                        self.take_snapshot(subscription.snapshot());
                    } else {
                        renew_at = Some(renewal.next_try(now()));
                    }
                }
                () = sleep_until(renew_at.unwrap_or_else(now)), if renew_at.is_some() => match pool.subscription.renew() {
                    Ok(renewed) => {
                        renewal.renewed(now());
                        (subscription, renew_at) = (renewed, None);
                        self.take_snapshot(subscription.snapshot());
                    }
                    Err(Error::Closed) => break,
                    Err(_) => renew_at = Some(renewal.next_try(now())),
                },
                () = pool.queue.signal.notified() => {
                    self.take_balancers();
                    self.take_dirty();
                }
                Some((key, id, event)) = self.events.recv() => self.on_connection_event(key, id, event),
                () = sleep_until(wake.unwrap_or_else(now)), if wake.is_some() => {}
                () = sleep_until(idle_until.unwrap_or_else(now)), if idle_until.is_some() => if forget() { break },
            }
            self.take_due_events();
        }
        drop(gone);
        self.connections.shutdown().await;
    }

    /// Returns the time of the next iteration if no event occurs before. It may be past; then it is
    /// due.
    fn next_wake(&self) -> Option<Instant> {
        let subsets = self.members.iter().flat_map(|members| {
            [
                members.subset.next_wake(),
                members.rebuild.next_wake(),
                members.recheck.next_wake(),
            ]
        });
        let logs = [self.lines.next_wake(), self.service_log.next_wake()];
        subsets
            .chain([self.timers.next(), self.serve_all_at])
            .chain(logs)
            .flatten()
            .min()
    }

    fn idle_until(&mut self) -> Option<Instant> {
        let idle = self.pool.is_idle();
        self.idle_since = idle.then(|| self.idle_since.unwrap_or_else(now));
        self.idle_since?
            .checked_add(self.shared.config.directory.idle_watch)
    }

    /// Handles all events and timers that are due.
    fn take_due_events(&mut self) {
        while let Ok((key, id, event)) = self.events.try_recv() {
            self.on_connection_event(key, id, event);
        }
        while self.connections.try_join_next().is_some() {}
        let now = now();
        while let Some((at, key)) = self.timers.pop_due(now) {
            if let Some(peer) = self.peers.get_mut(&key)
                && peer.armed == Some(at)
            {
                peer.armed = None;
                self.mark(key);
            }
        }
        self.log_left_out(now);
        if self.serve_all_at.is_some_and(|at| at <= now) {
            self.serve_all_at = None;
            self.capacity_added = usize::MAX;
        }
        for members in &mut self.members {
            members.unsettled |= members.subset.next_wake().is_some_and(|at| at <= now)
                || members.recheck.is_due(now);
            members.unpublished |= members.rebuild.is_due(now);
        }
    }

    fn mark(&mut self, key: PeerKey) {
        if let Some(peer) = self.peers.get_mut(&key)
            && !std::mem::replace(&mut peer.dirty, true)
        {
            self.dirty.push(key);
        }
    }

    fn is_ready(&self, id: &str) -> bool {
        let peer = self.by_id.get(id).and_then(|key| self.peers.get(key));
        peer.is_some_and(|peer| peer.machine.is_ready())
    }

    // Changes of the directory and the channels.

    /// Adds new balancers and removes those that are gone.
    fn take_balancers(&mut self) {
        let current = lock(&self.pool.balancers).current(now()).to_vec();
        for mut gone in self
            .members
            .extract_if(.., |members| {
                !current
                    .iter()
                    .any(|other| other.id == members.registered.id)
            })
            .collect::<Vec<_>>()
        {
            for change in gone.subset.take_all() {
                self.on_share_change(change, None);
            }
        }
        for registered in current {
            if !self
                .members
                .iter()
                .any(|members| members.registered.id == registered.id)
            {
                let members = Members::new(registered, self.shared.seed, &self.snapshot, |id| {
                    self.is_ready(id)
                });
                self.members.push(members);
                self.capacity_added = usize::MAX;
            }
        }
    }

    fn take_snapshot(&mut self, snapshot: Snapshot) {
        // A snapshot that is not synced is empty: the registry has not responded, and the nodes are
        // not gone.
        if self.snapshot.synced && !snapshot.synced {
            return;
        }
        let old = std::mem::replace(&mut self.snapshot, snapshot);
        let snapshot = self.snapshot.clone();
        for change in snapshot.changes_since(&old) {
            self.on_member_change(&change);
        }
    }

    fn on_member_change(&mut self, change: &MemberChange) {
        let is_ready = self.is_ready(change.id());
        for members in &mut self.members {
            members.on_change(change, is_ready);
        }
        let Some(&key) = self.by_id.get(change.id()) else {
            return;
        };
        let Some(peer) = self.peers.get_mut(&key) else {
            return;
        };
        match &change.now {
            None => peer.membership = Membership::Leaving,
            Some(now) if now.entry().node.address != peer.entry.node.address => {
                let entry = now.entry().clone();
                return self.replace(key, entry);
            }
            Some(now) => {
                let was = std::mem::replace(
                    &mut peer.membership,
                    if now.is_suspect() {
                        Membership::Suspect
                    } else {
                        Membership::Confirmed
                    },
                );
                let described = peer.entry != *now.entry();
                if described {
                    peer.entry = now.entry().clone();
                    peer.pooled.peer.describe(now.entry());
                    self.members
                        .iter_mut()
                        .for_each(|members| members.unpublished = true);
                }
                if !now.is_suspect() && (described || was != Membership::Confirmed) {
                    self.step(key, Event::Announced);
                }
            }
        }
        self.mark(key);
    }

    /// Replaces the peer of a node that has a new address. The new peer is wanted by the same
    /// subsets.
    fn replace(&mut self, old: PeerKey, entry: Entry) {
        let id: Box<str> = (&*entry.node.id).into();
        let new = self.add_peer(entry);
        let (wanted_by, log) = self
            .peers
            .get_mut(&old)
            .map_or((0, NodeLog::default()), |peer| {
                peer.membership = Membership::Leaving;
                (
                    std::mem::take(&mut peer.wanted_by),
                    std::mem::take(&mut peer.log),
                )
            });
        if let Some(peer) = self.peers.get_mut(&new) {
            (peer.wanted_by, peer.log) = (wanted_by, log);
        }
        for members in self
            .members
            .iter_mut()
            .filter(|members| members.subset.has_joined(&id))
        {
            members.unpublished = true;
        }
        self.mark(old);
        self.mark(new);
    }

    fn take_dirty(&mut self) {
        for key in self.pool.queue.take_dirty() {
            let Some(peer) = self.peers.get(&key) else {
                continue;
            };
            // Cleared before the check, so that a later event requests another.
            peer.pooled
                .is_dirty
                .store(false, std::sync::atomic::Ordering::SeqCst);
            let target = peer.target(|| self.ready + self.ready_soon());
            let needs_proof = peer.needs_proof(now());
            self.step(key, Event::Target(target));
            self.mark(key);
            if needs_proof {
                self.prove_all();
            }
        }
    }

    /// Verifies the idle connections of all nodes: the cause that made one doubtful may have
    /// affected the others. Iterates over the peers in use, at most once a second.
    fn prove_all(&mut self) {
        let now = now();
        if self
            .proven_at
            .is_some_and(|at| now.saturating_duration_since(at) < PROVE_EVERY)
        {
            return;
        }
        self.proven_at = Some(now);
        self.peers.values().for_each(PeerEntry::prove);
    }

    // Reconciliation.

    /// Brings connections, subsets and ready sets in line with the current state, and serves waiting
    /// calls.
    fn settle(&mut self) {
        loop {
            while let Some(key) = self.dirty.pop() {
                self.tend(key);
            }
            if !self.settle_shares() && self.dirty.is_empty() {
                break;
            }
        }
        self.publish();
        self.serve();
        self.log_service(now());
    }

    fn settle_shares(&mut self) -> bool {
        let mut settled = false;
        for at in 0..self.members.len() {
            if !self.members[at].unsettled {
                continue;
            }
            settled = true;
            let mut members = std::mem::take(&mut self.members);
            let changes = members[at].settle(now(), &self.snapshot, |id| self.is_ready(id));
            self.members = members;
            if let Some(panicked) = self.members[at].take_panic(now()) {
                tracing::warn!(service = %self.service, %panicked, "filter panicked; affected nodes excluded until the next evaluation");
            }
            for change in changes {
                self.on_share_change(change, Some(at));
            }
        }
        settled
    }

    fn on_share_change(&mut self, change: Change, at: Option<usize>) {
        let (key, joins) = match change {
            Change::Join(entry) => (self.peer_of(entry), true),
            Change::Leave(id) => match self.by_id.get(&id) {
                Some(&key) => (key, false),
                None => return,
            },
        };
        let Some(peer) = self.peers.get_mut(&key) else {
            return;
        };
        peer.wanted_by = if joins {
            peer.wanted_by + 1
        } else {
            peer.wanted_by.saturating_sub(1)
        };
        if let Some(at) = at
            && joins
        {
            let place = peer.place(now());
            if place == SlotState::Ready {
                self.capacity_added = usize::MAX;
            }
            self.members[at].subset.set_slot(&peer.entry.node.id, place);
            self.members[at].unsettled = true;
        }
        self.mark(key);
    }

    fn peer_of(&mut self, entry: Entry) -> PeerKey {
        match self.by_id.get(&*entry.node.id) {
            Some(&key)
                if self
                    .peers
                    .get(&key)
                    .is_some_and(|peer| peer.entry.node.address == entry.node.address) =>
            {
                key
            }
            _ => self.add_peer(entry),
        }
    }

    fn add_peer(&mut self, entry: Entry) -> PeerKey {
        let key = PeerKey(self.next_key);
        self.next_key += 1;
        let suspect = self
            .snapshot
            .get(&entry.node.id)
            .is_some_and(|member| member.is_suspect());
        let membership = if suspect {
            Membership::Suspect
        } else {
            Membership::Confirmed
        };
        let id: Box<str> = (&*entry.node.id).into();
        let peer = PeerEntry::new(key, entry, membership, &self.pool, &self.shared, now());
        if let Some(old) = self.by_id.get(&id).and_then(|key| self.peers.get(key)) {
            self.ready -= usize::from(old.exclusion.is_none());
        }
        lock(&self.pool.peers).insert(
            id.clone(),
            Used {
                peer: Arc::clone(&peer.pooled),
                exclusion: peer.exclusion,
            },
        );
        self.peers.insert(key, peer);
        self.by_id.insert(id, key);
        key
    }

    /// Reconciles one peer: its connections, its exclusion, its slot in the subsets, its timer.
    fn tend(&mut self, key: PeerKey) {
        let Some(peer) = self.peers.get_mut(&key) else {
            return;
        };
        peer.dirty = false;
        let desired = peer.desired();
        let surplus = peer.surplus(now(), self.ready);
        self.step(key, Event::Desired(desired));
        if let Some(id) = surplus {
            self.step(key, Event::Surplus(id));
        }
        let Some(peer) = self.peers.get_mut(&key) else {
            return;
        };
        peer.share_connections();
        let now = now();
        let changed = peer.judge(now);
        let (place, id) = (peer.place(now), peer.entry.node.id.clone());
        let (exclusion, is_ready) = (peer.exclusion, peer.machine.is_ready());
        let suspect = peer.membership == Membership::Suspect;
        if self.by_id.get(&*id) == Some(&key) {
            if let Some(before) = changed {
                self.on_exclusion(&id, before, exclusion);
            }
            for members in &mut self.members {
                members.subset.set_slot(&id, place);
                if suspect {
                    members.subset.set_eligible(&id, is_ready);
                }
                members.unsettled = true;
            }
        }
        self.log(key, now);
        self.arm_or_remove(key, now);
    }

    fn on_exclusion(&mut self, id: &str, before: Option<Exclusion>, exclusion: Option<Exclusion>) {
        if let Some(used) = lock(&self.pool.peers).get_mut(id) {
            used.exclusion = exclusion;
        }
        let ready = |exclusion: Option<Exclusion>| usize::from(exclusion.is_none());
        self.ready = self.ready + ready(exclusion) - ready(before);
        for members in self
            .members
            .iter_mut()
            .filter(|members| members.subset.has_joined(id))
        {
            members.unpublished = true;
        }
    }

    fn arm_or_remove(&mut self, key: PeerKey, now: Instant) {
        let without_slot = self
            .members
            .iter()
            .map(|members| members.subset.without_slot())
            .max()
            .unwrap_or(0);
        let Some(peer) = self.peers.get_mut(&key) else {
            return;
        };
        if peer.is_gone() {
            return self.remove(key);
        }
        peer.machine.set_backoff_floor(
            UNPLACED_DIAL_EVERY.saturating_mul(u32::try_from(without_slot).unwrap_or(u32::MAX)),
        );
        if let Some(at) = peer.next_wake(now) {
            self.timers.arm(key, at, &mut peer.armed);
        }
    }

    fn remove(&mut self, key: PeerKey) {
        let Some(peer) = self.peers.remove(&key) else {
            return;
        };
        if self.by_id.get(&*peer.entry.node.id) == Some(&key) {
            self.by_id.remove(&*peer.entry.node.id);
            lock(&self.pool.peers).remove(&*peer.entry.node.id);
            self.ready -= usize::from(peer.exclusion.is_none());
        }
    }

    /// Publishes the ready sets that changed: an iteration over the nodes that a subset connects.
    fn publish(&mut self) {
        let now = now();
        for members in self
            .members
            .iter_mut()
            .filter(|members| members.unpublished)
        {
            members.unpublished = false;
            let (mut ready, mut excluded) = (Vec::new(), BTreeMap::new());
            for peer in members
                .subset
                .ids()
                .filter_map(|id| self.peers.get(self.by_id.get(id)?))
            {
                match peer.exclusion {
                    None => ready.push((Arc::clone(&peer.pooled), peer.ready_since(now))),
                    Some(exclusion) => *excluded.entry(exclusion).or_default() += 1,
                }
            }
            members.count(excluded);
            let balancer = &members.registered.balancer;
            match balancer.publish(now, ready) {
                Ok(()) => members.rebuild = Retry::default(),
                Err(panicked) => {
                    let strategy = balancer.config().strategy.name();
                    tracing::warn!(service = %self.service, strategy, %panicked, "strategy panicked; nodes are picked at random");
                    members.rebuild.failed(now);
                }
            }
        }
    }

    /// Returns the number of nodes that are about to be ready: an iteration over those in use.
    fn ready_soon(&self) -> usize {
        self.peers
            .values()
            .filter(|peer| !peer.machine.is_ready() && peer.machine.may_be_ready_soon())
            .count()
    }

    /// Serves waiting calls with the capacity added in this iteration. A node that has just become
    /// ready gets its part of them; the others wait a moment for the nodes that are about to be.
    fn serve(&mut self) {
        let made = std::mem::take(&mut self.capacity_added);
        let waiting = self.pool.queue.waiting();
        if made == 0 || waiting == 0 {
            return;
        }
        let soon = self.ready_soon();
        if made == usize::MAX || soon == 0 {
            self.serve_all_at = None;
            return self.pool.queue.serve(usize::MAX);
        }
        self.serve_all_at = self.serve_all_at.or_else(|| now().checked_add(SPREAD));
        self.pool.queue.serve(waiting.div_ceil(soon + 1));
    }
}

fn now() -> Instant {
    Instant::now()
}
