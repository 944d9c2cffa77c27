//! The nodes of a service for one balancer: filtered, counted, and ranked into its subset.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use waypost_core::backoff::BackoffConfig;
use waypost_core::directory::{Member, MemberChange, Snapshot};
use waypost_core::panics::Panicked;
use waypost_core::peer::Exclusion;
use waypost_core::record::Entry;

use super::balancers::{Counts, Registered, adjust, lock};
use super::subset::{Change, Subset};

/// Backoff after which a strategy or a filter that panicked is called again.
const AFTER_PANIC: BackoffConfig = BackoffConfig {
    initial: Duration::from_secs(1),
    max: Duration::from_secs(60),
};

/// Backoff state of user code that panicked: the time of the next call, and the number of panics in
/// a row.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Retry {
    at: Option<Instant>,
    failures: u32,
}

impl Retry {
    pub(super) fn failed(&mut self, now: Instant) {
        let delay = AFTER_PANIC.delay(self.failures, fastrand::f64());
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

/// One balancer and the nodes that it uses.
#[derive(Debug)]
pub(super) struct Members {
    pub(super) registered: Registered,
    pub(super) subset: Subset,
    /// True if the subset must be settled.
    pub(super) unsettled: bool,
    /// True if the ready set must be published.
    pub(super) unpublished: bool,
    /// Backoff until the strategy is built again after a panic.
    pub(super) rebuild: Retry,
    /// Backoff until the filters are applied again to all nodes after one panicked: their earlier
    /// results are not reliable.
    pub(super) recheck: Retry,
    panicked: Option<Panicked>,
}

impl Members {
    /// Creates the members from all nodes of a snapshot: the one iteration over all nodes that a
    /// new balancer costs.
    pub(super) fn new(
        registered: Registered,
        seed: u64,
        snapshot: &Snapshot,
        is_ready: impl Fn(&str) -> bool,
    ) -> Self {
        let subset = Subset::new(registered.balancer.config().max_peers, seed);
        let (rebuild, recheck) = (Retry::default(), Retry::default());
        let mut members = Self {
            registered,
            subset,
            unsettled: true,
            unpublished: true,
            rebuild,
            recheck,
            panicked: None,
        };
        members.add_all(snapshot, is_ready);
        members
    }

    fn add_all(&mut self, snapshot: &Snapshot, is_ready: impl Fn(&str) -> bool) {
        let confirmed = snapshot.confirmed().map(|entry| (entry, true));
        let suspects = snapshot
            .suspects()
            .map(|suspect| (&suspect.entry, is_ready(&suspect.entry.node.id)));
        for (entry, eligible) in confirmed.chain(suspects) {
            self.add(entry, eligible);
        }
    }

    fn check(&mut self, entry: &Entry) -> Result<(), Exclusion> {
        self.registered
            .balancer
            .config()
            .filters
            .try_check(entry)
            .unwrap_or_else(|panicked| {
                self.panicked = Some(panicked);
                Err(Exclusion::Predicate)
            })
    }

    /// Returns a filter's panic since the last call, and schedules another check. Returns none if
    /// one is already scheduled.
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
                self.subset.add(entry, eligible);
                lock(&self.registered.counts).passing = self.subset.passing();
            }
            Err(exclusion) => adjust(&mut lock(&self.registered.counts).filtered, exclusion, true),
        }
    }

    fn remove(&mut self, entry: &Entry) {
        match self.check(entry) {
            Ok(()) => {
                self.subset.remove(&entry.node.id);
                lock(&self.registered.counts).passing = self.subset.passing();
            }
            Err(exclusion) => adjust(
                &mut lock(&self.registered.counts).filtered,
                exclusion,
                false,
            ),
        }
    }

    /// Applies one change of the directory. A suspect is eligible as long as it has a connection.
    pub(super) fn on_change(&mut self, change: &MemberChange, is_ready: bool) {
        self.unsettled = true;
        let eligible = |member: &Member| !member.is_suspect() || is_ready;
        match (&change.before, &change.now) {
            (None, Some(now)) => self.add(now.entry(), eligible(now)),
            (Some(before), None) => self.remove(before.entry()),
            (Some(before), Some(now))
                if self.check(before.entry()) == Ok(()) && self.check(now.entry()) == Ok(()) =>
            {
                self.subset.describe(now.entry());
                self.subset
                    .set_eligible(&now.entry().node.id, eligible(now));
            }
            (Some(before), Some(now)) => {
                self.remove(before.entry());
                self.add(now.entry(), eligible(now));
            }
            (None, None) => {}
        }
    }

    /// Settles the subset, and returns the nodes to be connected and to be released.
    pub(super) fn settle(
        &mut self,
        now: Instant,
        snapshot: &Snapshot,
        is_ready: impl Fn(&str) -> bool,
    ) -> Vec<Change> {
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
            let suspects = snapshot
                .suspects()
                .map(|suspect| (&suspect.entry, is_ready(&suspect.entry.node.id)));
            confirmed.chain(suspects).filter(|(entry, _)| passes(entry))
        };
        changes.extend(self.subset.settle(now, passing));
        self.panicked = panicked.take().or(self.panicked.take());
        if !changes.is_empty() {
            self.unpublished = true;
        }
        changes
    }

    /// Applies the filters to all nodes again.
    fn start_over(&mut self, snapshot: &Snapshot, is_ready: impl Fn(&str) -> bool) -> Vec<Change> {
        let left = self.subset.take_all();
        *lock(&self.registered.counts) = Counts::default();
        self.recheck.at = None;
        self.add_all(snapshot, is_ready);
        if self.panicked.is_none() {
            self.recheck = Retry::default();
        }
        left
    }

    /// Updates the counts of the subset's nodes, by reason if they are not picked.
    pub(super) fn count(&self, excluded: BTreeMap<Exclusion, usize>) {
        let mut counts = lock(&self.registered.counts);
        (counts.joined, counts.excluded) = (self.subset.joined(), excluded);
    }
}
