//! The nodes of a service as one balancer takes them: filtered, counted, and ranked into its share.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use waypost_core::backoff::{BackoffConfig, full_jitter};
use waypost_core::directory::{Member, MemberChange, Snapshot};
use waypost_core::panics::Panicked;
use waypost_core::peer::Exclusion;
use waypost_core::record::Entry;

use super::balancers::{Counts, Registered, adjust, lock};
use super::share::{Change, Share};

/// A strategy or a filter that panicked is asked again after this back-off.
const AFTER_PANIC: BackoffConfig = BackoffConfig { initial: Duration::from_secs(1), max: Duration::from_secs(60) };

/// User code that panicked: when it is asked again, and how often it has in a row.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Retry {
    at: Option<Instant>,
    failures: u32,
}

impl Retry {
    pub(super) fn failed(&mut self, now: Instant) {
        let delay = full_jitter(&mut fastrand::Rng::new(), AFTER_PANIC.initial, AFTER_PANIC.max, self.failures);
        self.at = now.checked_add(AFTER_PANIC.initial + delay);
        self.failures = self.failures.saturating_add(1);
    }

    pub(super) fn next_wake(self) -> Option<Instant> {
        self.at
    }

    pub(super) fn is_due(self, now: Instant) -> bool {
        self.at.is_some_and(|at| at <= now)
    }
}

/// One balancer and the nodes that it takes.
#[derive(Debug)]
pub(super) struct Members {
    pub(super) registered: Registered,
    pub(super) share: Share,
    /// The share is to be settled.
    pub(super) unsettled: bool,
    /// The ready set is to be published.
    pub(super) unpublished: bool,
    /// The strategy is built again after it panicked.
    pub(super) rebuild: Retry,
    /// The filters are asked again about all nodes after one panicked: what they said before is not to be relied on.
    pub(super) recheck: Retry,
    panicked: Option<Panicked>,
}

impl Members {
    /// All nodes of a snapshot: the one walk that a new balancer costs.
    pub(super) fn new(registered: Registered, seed: u64, snapshot: &Snapshot, is_ready: impl Fn(&str) -> bool) -> Self {
        let share = Share::new(registered.balancer.config().max_peers, seed);
        let (rebuild, recheck) = (Retry::default(), Retry::default());
        let mut members = Self { registered, share, unsettled: true, unpublished: true, rebuild, recheck, panicked: None };
        members.add_all(snapshot, is_ready);
        members
    }

    fn add_all(&mut self, snapshot: &Snapshot, is_ready: impl Fn(&str) -> bool) {
        let confirmed = snapshot.confirmed().map(|entry| (entry, true));
        let suspects = snapshot.suspects().map(|suspect| (&suspect.entry, is_ready(&suspect.entry.node.id)));
        for (entry, eligible) in confirmed.chain(suspects) {
            self.add(entry, eligible);
        }
    }

    fn check(&mut self, entry: &Entry) -> Result<(), Exclusion> {
        self.registered.balancer.config().filters.try_check(entry).unwrap_or_else(|panicked| {
            self.panicked = Some(panicked);
            Err(Exclusion::Predicate)
        })
    }

    /// Returns the panic of a filter since this was last asked; the filters are asked again later.
    pub(super) fn take_panic(&mut self, now: Instant) -> Option<Panicked> {
        let panicked = self.panicked.take()?;
        if self.recheck.next_wake().is_some() {
            return None;
        }
        self.recheck.failed(now);
        Some(panicked)
    }

    fn add(&mut self, entry: &Entry, eligible: bool) {
        match self.check(entry) {
            Ok(()) => {
                self.share.add(entry, eligible);
                lock(&self.registered.counts).passing = self.share.passing();
            }
            Err(exclusion) => adjust(&mut lock(&self.registered.counts).filtered, exclusion, true),
        }
    }

    fn remove(&mut self, entry: &Entry) {
        match self.check(entry) {
            Ok(()) => {
                self.share.remove(&entry.node.id);
                lock(&self.registered.counts).passing = self.share.passing();
            }
            Err(exclusion) => adjust(&mut lock(&self.registered.counts).filtered, exclusion, false),
        }
    }

    /// Takes in one change of the directory. A suspect is eligible as long as it has a connection.
    pub(super) fn on_change(&mut self, change: &MemberChange, is_ready: bool) {
        self.unsettled = true;
        let eligible = |member: &Member| !member.is_suspect() || is_ready;
        match (&change.before, &change.now) {
            (None, Some(now)) => self.add(now.entry(), eligible(now)),
            (Some(before), None) => self.remove(before.entry()),
            (Some(before), Some(now)) if self.check(before.entry()) == Ok(()) && self.check(now.entry()) == Ok(()) => {
                self.share.describe(now.entry());
                self.share.set_eligible(&now.entry().node.id, eligible(now));
            }
            (Some(before), Some(now)) => {
                self.remove(before.entry());
                self.add(now.entry(), eligible(now));
            }
            (None, None) => {}
        }
    }

    /// Settles the share; returns the nodes to be connected and to be let go.
    pub(super) fn settle(&mut self, now: Instant, snapshot: &Snapshot, is_ready: impl Fn(&str) -> bool) -> Vec<Change> {
        self.unsettled = false;
        let mut changes = Vec::new();
        if self.recheck.is_due(now) {
            changes = self.start_over(snapshot, &is_ready);
        }
        let filters = &self.registered.balancer.config().filters;
        let panicked = Cell::new(None);
        let passes = |entry: &Entry| {
            filters.try_check(entry).map_or_else(
                |panic| {
                    panicked.set(Some(panic));
                    false
                },
                |checked| checked.is_ok(),
            )
        };
        let passing = || {
            let confirmed = snapshot.confirmed().map(|entry| (entry, true));
            let suspects = snapshot.suspects().map(|suspect| (&suspect.entry, is_ready(&suspect.entry.node.id)));
            confirmed.chain(suspects).filter(|(entry, _)| passes(entry))
        };
        changes.extend(self.share.settle(now, passing));
        self.panicked = panicked.take().or(self.panicked.take());
        if !changes.is_empty() {
            self.unpublished = true;
        }
        changes
    }

    /// Asks the filters about all nodes again.
    fn start_over(&mut self, snapshot: &Snapshot, is_ready: impl Fn(&str) -> bool) -> Vec<Change> {
        let left = self.share.take_all();
        *lock(&self.registered.counts) = Counts::default();
        self.recheck.at = None;
        self.add_all(snapshot, is_ready);
        if self.panicked.is_none() {
            self.recheck = Retry::default();
        }
        left
    }

    /// Counts the nodes of the share that are not picked.
    pub(super) fn count(&self, excluded: BTreeMap<Exclusion, usize>) {
        let mut counts = lock(&self.registered.counts);
        (counts.joined, counts.excluded) = (self.share.joined(), excluded);
    }
}
