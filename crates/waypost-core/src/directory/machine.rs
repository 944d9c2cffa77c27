//! Pure state machine of the nodes of one service.
//!
//! A node that is marked as leaving is removed at once. A node that disappears without the mark is
//! lost: it becomes a suspect, which is kept until it is confirmed again, leaves, or its grace
//! period expires, which is at least two intervals of its registration. An outage of the registry does not change the nodes: no grace period expires
//! before the registry has been back for one. The cost of an event is proportional to the change.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Outage, Snapshot, Suspect};
use crate::record::{Entry, ServiceName};
use crate::registry::sorted_set::Positioned;
use crate::registry::{Event, Insertion, NodeChange, NodeSet};

/// Number of expiries kept in addition to two per suspect, before outdated ones are removed.
const SPARE_EXPIRIES: usize = 64;

/// Longest grace period because of an interval: any writer of the registry can write one.
const MAX_INTERVAL_GRACE: Duration = Duration::from_secs(600);

/// Cache of one service's nodes, to which the events of the registry are applied. Lost nodes are
/// kept for a grace period.
#[derive(Clone, Debug)]
pub struct ServiceCache {
    grace: Duration,
    snapshot: Snapshot,
    /// Expiries of grace periods, soonest first. An outdated one (its suspect was confirmed, or
    /// lost again later) is skipped when it is due.
    expiries: BinaryHeap<Reverse<Expiry>>,
    /// Time before which no suspect expires: one grace period after the last outage. During an
    /// outage a live node cannot register again, and afterwards it needs some time to do so.
    expire_from: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Expiry {
    at: Instant,
    entry: Entry,
}

impl ServiceCache {
    /// Creates an empty cache of `service` that keeps suspects for `grace`.
    pub fn new(service: &ServiceName, grace: Duration) -> Self {
        Self::resume(service, grace, Snapshot::default())
    }

    /// Creates a cache that resumes from a snapshot of `service`. Its suspects keep the rest of
    /// their grace period.
    pub fn resume(service: &ServiceName, grace: Duration, snapshot: Snapshot) -> Self {
        let expiry = |suspect: &Suspect| expiry(grace, suspect.since, &suspect.entry);
        let expiries = snapshot.suspects.iter().filter_map(expiry).collect();
        Self {
            grace,
            snapshot: Snapshot {
                service: service.as_str().into(),
                ..snapshot
            },
            expiries,
            expire_from: None,
        }
    }

    /// Returns the current snapshot.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Applies an event of the registry. The event ends an outage. Nodes of other services are
    /// ignored.
    pub fn on_event(&mut self, now: Instant, event: Event) {
        if self.snapshot.outage.take().is_some() {
            let graces = self.snapshot.suspects.iter();
            let graces = graces.map(|suspect| grace_of(self.grace, &suspect.entry));
            self.expire_from = now.checked_add(graces.max().unwrap_or(self.grace));
        }
        let is_first = !std::mem::replace(&mut self.snapshot.synced, true);
        let has_changed = match event {
            Event::Reset(entries) => self.reset(now, entries),
            Event::Created(entry) | Event::Updated(entry) => self.put(entry),
            Event::Deleted(key) => {
                key.service == *self.snapshot.service && self.lose_if_confirmed(now, &key.id)
            }
        };
        self.snapshot.generation += u64::from(is_first || has_changed);
    }

    /// Starts an outage of the registry, or continues it with its original start.
    pub fn on_outage(&mut self, now: Instant, why: &str) {
        let since = self
            .snapshot
            .outage
            .as_ref()
            .map_or(now, |outage| outage.since);
        let is_known = self
            .snapshot
            .outage
            .as_ref()
            .is_some_and(|outage| *outage.why == *why);
        if !is_known {
            self.snapshot.outage = Some(Outage {
                since,
                why: why.into(),
            });
        }
    }

    /// Removes suspects whose grace period has expired.
    pub fn on_tick(&mut self, now: Instant) {
        if self.next_wake().is_none_or(|at| at > now) {
            return;
        }
        let over = self.take_over(now);
        self.snapshot.generation += u64::from(!over.is_empty());
        if is_most(over.len(), self.snapshot.suspects.len()) {
            let grace = self.grace;
            let is_over = |suspect: &Suspect| {
                expires_at(grace, suspect.since, &suspect.entry).is_some_and(|at| at <= now)
            };
            self.snapshot.suspects = self
                .snapshot
                .suspects
                .iter()
                .filter(|suspect| !is_over(suspect))
                .cloned()
                .collect();
            return;
        }
        for entry in over {
            self.snapshot.suspects.remove(entry.position());
        }
    }

    /// Takes the suspects with an expired grace period from the heap.
    fn take_over(&mut self, now: Instant) -> Vec<Entry> {
        let mut over = Vec::new();
        while self
            .expiries
            .peek()
            .is_some_and(|Reverse(expiry)| expiry.at <= now)
        {
            let expiry = self
                .expiries
                .pop()
                .filter(|Reverse(expiry)| self.is_current(expiry));
            over.extend(expiry.map(|Reverse(expiry)| expiry.entry));
        }
        over
    }

    /// Returns the time of the next tick if no event comes before. None during an outage.
    pub fn next_wake(&self) -> Option<Instant> {
        let Reverse(next) = self.expiries.peek()?;
        let in_outage = self.snapshot.outage.is_some();
        (!in_outage).then(|| self.expire_from.map_or(next.at, |from| next.at.max(from)))
    }

    fn put(&mut self, entry: Entry) -> bool {
        match () {
            () if !self.is_ours(&entry) => false,
            () if entry.node.is_leaving() => self.leave(&entry),
            () => self.confirm(entry),
        }
    }

    fn is_ours(&self, entry: &Entry) -> bool {
        entry.service.name == *self.snapshot.service
    }

    fn confirm(&mut self, entry: Entry) -> bool {
        let was_suspect = self.snapshot.suspects.remove(entry.position()).is_some();
        let insertion = self.snapshot.confirmed.insert(entry);
        was_suspect || insertion != Insertion::Unchanged
    }

    fn leave(&mut self, entry: &Entry) -> bool {
        let was_suspect = self.snapshot.suspects.remove(entry.position()).is_some();
        let was_confirmed = self
            .snapshot
            .confirmed
            .remove_node(&entry.service.name, &entry.node.id)
            .is_some();
        was_suspect || was_confirmed
    }

    fn lose_if_confirmed(&mut self, now: Instant, id: &str) -> bool {
        let service = Arc::clone(&self.snapshot.service);
        let lost = self.snapshot.confirmed.remove_node(&service, id);
        lost.map(|entry| self.suspect(now, entry)).is_some()
    }

    fn suspect(&mut self, now: Instant, entry: Entry) {
        self.expiries.extend(expiry(self.grace, now, &entry));
        self.snapshot.suspects.insert(Suspect { entry, since: now });
        self.forget_outlived_expiries();
    }

    fn suspect_all(&mut self, now: Instant, lost: Vec<Entry>) {
        if !is_most(lost.len(), self.snapshot.suspects.len()) {
            return lost.into_iter().for_each(|entry| self.suspect(now, entry));
        }
        let expiries: Vec<_> = lost
            .iter()
            .filter_map(|entry| expiry(self.grace, now, entry))
            .collect();
        self.expiries.extend(expiries);
        let lost = lost.into_iter().map(|entry| Suspect { entry, since: now });
        self.snapshot.suspects = self.snapshot.suspects.iter().cloned().chain(lost).collect();
        self.forget_outlived_expiries();
    }

    /// Removes outdated expiries, so that a flapping node does not grow the heap.
    fn forget_outlived_expiries(&mut self) {
        if self.expiries.len() > 2 * self.snapshot.suspects.len() + SPARE_EXPIRIES {
            let mut expiries = std::mem::take(&mut self.expiries);
            expiries.retain(|Reverse(expiry)| self.is_current(expiry));
            self.expiries = expiries;
        }
    }

    fn is_current(&self, expiry: &Expiry) -> bool {
        let suspect = self.snapshot.suspects.get(expiry.entry.position());
        suspect.is_some_and(|suspect| {
            expires_at(self.grace, suspect.since, &suspect.entry) == Some(expiry.at)
        })
    }

    /// Replaces the nodes by those of the registry, as a difference, so that the snapshots before
    /// and after share the unchanged part.
    fn reset(&mut self, now: Instant, entries: Vec<Entry>) -> bool {
        let ours = entries.into_iter().filter(|entry| self.is_ours(entry));
        let (leaving, present): (Vec<_>, NodeSet) = split_leaving(ours.collect());
        let has_left = leaving.iter().filter(|entry| self.leave(entry)).count() > 0;
        let (found, lost) = changes(&self.snapshot.confirmed, &present);
        let has_changed = has_left || !found.is_empty() || !lost.is_empty();
        let replaces = is_most(found.len() + lost.len(), present.len());
        for entry in found {
            self.snapshot.suspects.remove(entry.position());
            if !replaces {
                self.snapshot.confirmed.insert(entry);
            }
        }
        if replaces {
            self.snapshot.confirmed = present;
        } else {
            lost.iter().for_each(|entry| {
                drop(
                    self.snapshot
                        .confirmed
                        .remove_node(&entry.service.name, &entry.node.id),
                );
            });
        }
        self.suspect_all(now, lost);
        has_changed
    }
}

/// Returns the grace period of a lost node: never shorter than two intervals of its registration,
/// within which a live node is registered again.
fn grace_of(grace: Duration, entry: &Entry) -> Duration {
    let interval = entry.node.interval().unwrap_or_default();
    grace.max(MAX_INTERVAL_GRACE.min(interval.saturating_mul(2)))
}

fn expires_at(grace: Duration, since: Instant, entry: &Entry) -> Option<Instant> {
    since.checked_add(grace_of(grace, entry))
}

fn expiry(grace: Duration, since: Instant, entry: &Entry) -> Option<Reverse<Expiry>> {
    Some(Reverse(Expiry {
        at: expires_at(grace, since, entry)?,
        entry: entry.clone(),
    }))
}

/// Returns true if there are so many changes that building a new set is cheaper than editing the
/// old one.
fn is_most(changes: usize, len: usize) -> bool {
    4 * changes > len
}

fn split_leaving(entries: Vec<Entry>) -> (Vec<Entry>, NodeSet) {
    let (leaving, present): (Vec<_>, Vec<_>) = entries
        .into_iter()
        .partition(|entry| entry.node.is_leaving());
    (leaving, present.into_iter().collect())
}

/// Returns the entries that were added or changed, and those that were removed.
fn changes(old: &NodeSet, new: &NodeSet) -> (Vec<Entry>, Vec<Entry>) {
    let (mut found, mut lost) = (Vec::new(), Vec::new());
    for change in old.diff(new) {
        match change {
            NodeChange::Added(entry) | NodeChange::Updated { now: entry, .. } => {
                found.push(entry.clone());
            }
            NodeChange::Removed(entry) => lost.push(entry.clone()),
        }
    }
    (found, lost)
}

impl PartialEq for Expiry {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Expiry {}

impl PartialOrd for Expiry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Expiry {
    fn cmp(&self, other: &Self) -> Ordering {
        self.at.cmp(&other.at)
    }
}

#[cfg(test)]
mod tests;
