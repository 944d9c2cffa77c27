//! Subset of a service for this client: the nodes that one configuration connects, by rank. Pure.
//!
//! Every node that passes the filters has a rank, derived from the client's seed and its id. The
//! subset is the best by rank, until `max_peers` of them hold a slot. A node that cannot be
//! connected holds no slot, so the next by rank is connected in addition until it is back: a dead
//! subset is replaced, and a connected node is never released for one that is not. New nodes of
//! better rank displace the worst, a while after they are ready.
//!
//! Only the best few ranks are held. The other nodes of a large service are counted, and ranked
//! again when the held ones are used up.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;
use waypost_core::balance::subset::rank;
use waypost_core::record::Entry;

/// Time for which a connection beyond the subset is kept, so that a flapping node displaces no
/// other.
const SURPLUS_KEPT: Duration = Duration::from_secs(30);
/// Number of ranks held beyond twice the subset.
const RESERVE: usize = 64;

/// Rank of a node for one client; the lowest is first. The id breaks ties.
type Rank = (u64, Box<str>);

/// Slot state of a node of the subset: its progress towards taking calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlotState {
    /// The node cannot be connected for now, and holds no slot.
    Empty,
    /// The node is being connected, or was connected a moment ago.
    Held,
    /// The node is connected and responsive.
    Ready,
}

#[derive(Debug)]
struct SubsetMember {
    entry: Entry,
    place: SlotState,
    /// False for a suspect without a connection, which is not connected again.
    eligible: bool,
}

/// Change of the subset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// The node joins: it is to be connected.
    Join(Entry),
    /// The node with this id leaves: it is to be released.
    Leave(Box<str>),
}

/// Subset of this client of one service under one configuration.
#[derive(Debug)]
pub(crate) struct Subset {
    limit: usize,
    seed: u64,
    members: BTreeMap<Rank, SubsetMember>,
    joined: BTreeSet<Rank>,
    candidates: BTreeSet<Rank>,
    /// Lowest rank that is not held; no rank beyond it is held either. None if all nodes are held.
    floor: Option<Rank>,
    outside: usize,
    held: usize,
    ready: usize,
    surplus_since: Option<Instant>,
    /// Nodes that left the subset since the last settle, other than by settling.
    gone: Vec<Box<str>>,
}

impl Subset {
    /// Creates an empty subset of at most `limit` nodes (at least one), ranked by `seed`.
    pub(crate) fn new(limit: usize, seed: u64) -> Self {
        Self {
            limit: limit.max(1),
            seed,
            members: BTreeMap::new(),
            joined: BTreeSet::new(),
            candidates: BTreeSet::new(),
            floor: None,
            outside: 0,
            held: 0,
            ready: 0,
            surplus_since: None,
            gone: Vec::new(),
        }
    }

    fn rank(&self, id: &str) -> Rank {
        (rank(self.seed, id), id.into())
    }

    /// Returns the number of nodes that pass the filters.
    pub(crate) fn passing(&self) -> usize {
        self.members.len() + self.outside
    }

    /// Returns the number of nodes that are to be connected.
    pub(crate) fn joined(&self) -> usize {
        self.joined.len()
    }

    /// Returns true if the node is to be connected.
    pub(crate) fn has_joined(&self, id: &str) -> bool {
        self.joined.contains(&self.rank(id))
    }

    /// Adds a node that passes the filters and did not before; `eligible` is false for a suspect
    /// without a connection.
    pub(crate) fn add(&mut self, entry: &Entry, eligible: bool) {
        let rank = self.rank(&entry.node.id);
        if self.floor.as_ref().is_some_and(|floor| rank >= *floor) {
            self.outside += 1;
            return;
        }
        self.hold(rank, entry, eligible);
        self.trim();
    }

    fn hold(&mut self, rank: Rank, entry: &Entry, eligible: bool) {
        if eligible {
            self.candidates.insert(rank.clone());
        }
        self.members.insert(
            rank,
            SubsetMember {
                entry: entry.clone(),
                place: SlotState::Empty,
                eligible,
            },
        );
    }

    /// Updates the description of a node.
    pub(crate) fn describe(&mut self, entry: &Entry) {
        if let Some(member) = self.members.get_mut(&self.rank(&entry.node.id)) {
            member.entry = entry.clone();
        }
    }

    /// Sets the eligibility of a node for being connected.
    pub(crate) fn set_eligible(&mut self, id: &str, eligible: bool) {
        let rank = self.rank(id);
        let Some(member) = self.members.get_mut(&rank) else {
            return;
        };
        if std::mem::replace(&mut member.eligible, eligible) == eligible {
            return;
        }
        if eligible {
            self.candidates.insert(rank);
        } else {
            self.candidates.remove(&rank);
            self.unjoin(&rank);
        }
    }

    /// Removes a node that is gone, or no longer passes the filters.
    pub(crate) fn remove(&mut self, id: &str) {
        let rank = self.rank(id);
        self.unjoin(&rank);
        self.candidates.remove(&rank);
        if self.members.remove(&rank).is_none() {
            self.outside = self.outside.saturating_sub(1);
        }
    }

    /// Sets the slot state of a node of the subset.
    pub(crate) fn set_slot(&mut self, id: &str, place: SlotState) {
        let rank = self.rank(id);
        if self.joined.contains(&rank) {
            self.count(&rank, place);
        }
    }

    fn count(&mut self, rank: &Rank, place: SlotState) {
        let Some(member) = self.members.get_mut(rank) else {
            return;
        };
        let old = std::mem::replace(&mut member.place, place);
        self.held = self.held + usize::from(place != SlotState::Empty)
            - usize::from(old != SlotState::Empty);
        self.ready = self.ready + usize::from(place == SlotState::Ready)
            - usize::from(old == SlotState::Ready);
    }

    /// Removes a node from the subset outside of [`settle`](Subset::settle).
    fn unjoin(&mut self, rank: &Rank) {
        self.count(rank, SlotState::Empty);
        if self.joined.remove(rank) {
            self.gone.push(rank.1.clone());
        }
    }

    /// Brings the subset in line with the current nodes, and returns the changes. `refill` lists
    /// every entry that passes the filters, with its eligibility; it is called only when the held
    /// ranks are used up.
    pub(crate) fn settle<'a, I>(&mut self, now: Instant, refill: impl Fn() -> I) -> Vec<Change>
    where
        I: Iterator<Item = (&'a Entry, bool)>,
    {
        let mut changes: Vec<_> = std::mem::take(&mut self.gone)
            .into_iter()
            .map(Change::Leave)
            .collect();
        loop {
            while let Some(rank) = self.next_to_join() {
                changes.push(self.join(&rank));
            }
            if self.held >= self.limit || self.outside == 0 || !self.candidates.is_empty() {
                break;
            }
            self.refill(refill());
        }
        self.leave_surplus(now, &mut changes);
        changes
    }

    /// Returns the best candidate, while slots are free or it is better than one that has joined.
    fn next_to_join(&self) -> Option<Rank> {
        let best = self.candidates.first()?;
        let better = self.joined.last().is_some_and(|last| best < last);
        (self.held < self.limit || better).then(|| best.clone())
    }

    fn join(&mut self, rank: &Rank) -> Change {
        self.candidates.remove(rank);
        self.joined.insert(rank.clone());
        self.count(rank, SlotState::Held);
        Change::Join(self.members[rank].entry.clone())
    }

    /// Shrinks the subset while it is full of ready nodes: the worst nodes that are not ready leave
    /// at once, surplus ready ones after a while.
    fn leave_surplus(&mut self, now: Instant, changes: &mut Vec<Change>) {
        while self.ready >= self.limit
            && let Some(last) = self.joined.last().cloned()
        {
            if self.members[&last].place != SlotState::Ready {
                changes.push(self.leave(&last));
            } else if self.ready == self.limit {
                break;
            } else {
                let since = *self.surplus_since.get_or_insert(now);
                if now.saturating_duration_since(since) < SURPLUS_KEPT {
                    return;
                }
                changes.push(self.leave(&last));
            }
        }
        self.surplus_since = None;
    }

    fn leave(&mut self, rank: &Rank) -> Change {
        self.count(rank, SlotState::Empty);
        self.joined.remove(rank);
        self.candidates.insert(rank.clone());
        Change::Leave(rank.1.clone())
    }

    /// Returns the ids of the nodes that are to be connected, best first.
    pub(crate) fn ids(&self) -> impl Iterator<Item = &str> {
        self.joined.iter().map(|(_, id)| &**id)
    }

    /// Empties the subset: every joined node leaves.
    pub(crate) fn take_all(&mut self) -> Vec<Change> {
        let old = std::mem::replace(self, Self::new(self.limit, self.seed));
        old.gone
            .into_iter()
            .chain(old.joined.into_iter().map(|(_, id)| id))
            .map(Change::Leave)
            .collect()
    }

    /// Returns the time of the next settle if no event occurs before.
    pub(crate) fn next_wake(&self) -> Option<Instant> {
        self.surplus_since
            .and_then(|since| since.checked_add(SURPLUS_KEPT))
    }

    /// Returns the number of nodes that are to be connected and hold no slot.
    pub(crate) fn without_slot(&self) -> usize {
        self.joined.len().saturating_sub(self.held)
    }

    fn capacity(&self) -> usize {
        self.limit
            .saturating_mul(2)
            .saturating_add(RESERVE)
            .max(self.joined.len().saturating_mul(2))
    }

    /// Drops ranks held beyond need. The nodes are ranked again when they are needed.
    fn trim(&mut self) {
        if self.members.len() <= self.capacity().saturating_mul(2) {
            return;
        }
        let keep = self.capacity();
        while self.members.len() > keep
            && let Some(last) = self.members.last_key_value().map(|(rank, _)| rank.clone())
            && !self.joined.contains(&last)
        {
            self.members.remove(&last);
            self.candidates.remove(&last);
            self.outside += 1;
            self.floor = Some(last);
        }
    }

    /// Holds the best ranks that were not held: an iteration over all nodes, each time for twice as
    /// many as before.
    fn refill<'a>(&mut self, passing: impl Iterator<Item = (&'a Entry, bool)>) {
        let wanted = self.capacity();
        let mut more: Vec<_> = passing
            .map(|(entry, eligible)| (self.rank(&entry.node.id), entry, eligible))
            .filter(|(rank, ..)| {
                self.floor.as_ref().is_none_or(|floor| rank >= floor)
                    && !self.members.contains_key(rank)
            })
            .collect();
        more.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        self.floor = more.get(wanted).map(|(rank, ..)| rank.clone());
        self.outside = more.len().saturating_sub(wanted);
        for (rank, entry, eligible) in more.into_iter().take(wanted) {
            self.hold(rank, entry, eligible);
        }
    }
}

#[cfg(test)]
mod tests;
