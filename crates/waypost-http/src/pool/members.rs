//! The nodes of a service as one balancer takes them: filtered, counted, and ranked into its share.

use std::collections::BTreeMap;

use tokio::time::Instant;
use waypost_core::directory::{Member, MemberChange, Snapshot};
use waypost_core::peer::Exclusion;
use waypost_core::record::Entry;

use super::balancers::{Registered, adjust, lock};
use super::share::{Change, Share};

/// One balancer and the nodes that it takes.
#[derive(Debug)]
pub(super) struct Members {
    pub(super) registered: Registered,
    pub(super) share: Share,
    /// The share is to be settled.
    pub(super) unsettled: bool,
    /// The ready set is to be published.
    pub(super) unpublished: bool,
    /// When a strategy that panicked is asked again, and how often it has.
    pub(super) rebuild: Option<(Instant, u32)>,
}

impl Members {
    /// All nodes of a snapshot: the one walk that a new balancer costs.
    pub(super) fn new(registered: Registered, seed: u64, snapshot: &Snapshot, is_ready: impl Fn(&str) -> bool) -> Self {
        let share = Share::new(registered.balancer.config().max_peers, seed);
        let mut members = Self { registered, share, unsettled: true, unpublished: true, rebuild: None };
        let confirmed = snapshot.confirmed().map(|entry| (entry, true));
        let suspects = snapshot.suspects().map(|suspect| (&suspect.entry, is_ready(&suspect.entry.node.id)));
        for (entry, eligible) in confirmed.chain(suspects) {
            members.add(entry, eligible);
        }
        members
    }

    fn check(&self, entry: &Entry) -> Result<(), Exclusion> {
        self.registered.balancer.config().filters.check(entry)
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
        let filters = &self.registered.balancer.config().filters;
        let passing = || {
            let confirmed = snapshot.confirmed().map(|entry| (entry, true));
            let suspects = snapshot.suspects().map(|suspect| (&suspect.entry, is_ready(&suspect.entry.node.id)));
            confirmed.chain(suspects).filter(|(entry, _)| filters.check(entry).is_ok())
        };
        let changes = self.share.settle(now, passing);
        if !changes.is_empty() {
            self.unpublished = true;
        }
        changes
    }

    /// Counts the nodes of the share that are not picked.
    pub(super) fn count(&self, excluded: BTreeMap<Exclusion, usize>) {
        let mut counts = lock(&self.registered.counts);
        (counts.joined, counts.excluded) = (self.share.joined(), excluded);
    }
}
