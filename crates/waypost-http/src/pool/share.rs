//! The nodes of a service that one configuration connects: this client's share of it, by rank,
//! pure.
//!
//! Every node that passes the filters has a rank, drawn from the client's seed and its id. The
//! share is the best by rank until `max_peers` of them fill a place. A node that cannot be
//! connected fills none, so the next by rank is connected beside it until it is back: a dead share
//! is replaced, and a connected node is never given up for one that is not. Better nodes that come
//! push the worst out, a while after they are ready.
//!
//! Only the best few ranks are held; the rest of a large service is counted, and looked through
//! again when those are used up.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;
use waypost_core::balance::subset;
use waypost_core::record::Entry;

/// A connection beyond the share is kept so long, so that a node that comes and goes moves no
/// other.
const SURPLUS_KEPT: Duration = Duration::from_secs(30);
/// Ranks held beyond twice the share.
const RESERVE: usize = 64;

/// Order of a node for one client: the lowest come first. The id breaks ties.
type Rank = (u64, Box<str>);

/// Progress of a node of the share towards taking calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It cannot be connected, for now.
    Empty,
    /// It is being connected, or was connected a moment ago.
    Held,
    /// It is connected and answers.
    Ready,
}

#[derive(Debug)]
struct Member {
    entry: Entry,
    place: Place,
    /// Returns false for a suspect without a connection: it is not connected again.
    eligible: bool,
}

/// One change of the share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// This node is to be connected.
    Join(Entry),
    /// The node with this id is to be let go.
    Leave(Box<str>),
}

/// This client's share of one service under one configuration.
#[derive(Debug)]
pub(crate) struct Share {
    limit: usize,
    seed: u64,
    members: BTreeMap<Rank, Member>,
    joined: BTreeSet<Rank>,
    candidates: BTreeSet<Rank>,
    /// Nodes of this rank and beyond are not held; none: all are.
    floor: Option<Rank>,
    outside: usize,
    held: usize,
    ready: usize,
    surplus_since: Option<Instant>,
    /// Nodes that left the share without being asked to, since the last settle.
    gone: Vec<Box<str>>,
}

impl Share {
    /// An empty share of at most `limit` nodes (at least one), ranked by `seed`.
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
        (subset::rank(self.seed, id), id.into())
    }

    /// Number of nodes that pass the filters.
    pub(crate) fn passing(&self) -> usize {
        self.members.len() + self.outside
    }

    /// Number of nodes that are to be connected.
    pub(crate) fn joined(&self) -> usize {
        self.joined.len()
    }

    /// Returns true if the node is to be connected.
    pub(crate) fn has_joined(&self, id: &str) -> bool {
        self.joined.contains(&self.rank(id))
    }

    /// Takes in a node that passes the filters and did not before; not eligible: a suspect without
    /// a connection.
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
        self.members.insert(rank, Member { entry: entry.clone(), place: Place::Empty, eligible });
    }

    /// Takes in a new description of a node.
    pub(crate) fn describe(&mut self, entry: &Entry) {
        if let Some(member) = self.members.get_mut(&self.rank(&entry.node.id)) {
            member.entry = entry.clone();
        }
    }

    /// Lets a node be connected, or not.
    pub(crate) fn set_eligible(&mut self, id: &str, eligible: bool) {
        let rank = self.rank(id);
        let Some(member) = self.members.get_mut(&rank) else { return };
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

    /// Takes out a node that is gone, or passes the filters no more.
    pub(crate) fn remove(&mut self, id: &str) {
        let rank = self.rank(id);
        self.unjoin(&rank);
        self.candidates.remove(&rank);
        if self.members.remove(&rank).is_none() {
            self.outside = self.outside.saturating_sub(1);
        }
    }

    /// Notes how far a node of the share has come.
    pub(crate) fn set_place(&mut self, id: &str, place: Place) {
        let rank = self.rank(id);
        if self.joined.contains(&rank) {
            self.count(&rank, place);
        }
    }

    fn count(&mut self, rank: &Rank, place: Place) {
        let Some(member) = self.members.get_mut(rank) else { return };
        let old = std::mem::replace(&mut member.place, place);
        self.held = self.held + usize::from(place != Place::Empty) - usize::from(old != Place::Empty);
        self.ready = self.ready + usize::from(place == Place::Ready) - usize::from(old == Place::Ready);
    }

    /// Ends a node's membership in the share from outside of [`settle`](Share::settle).
    fn unjoin(&mut self, rank: &Rank) {
        self.count(rank, Place::Empty);
        if self.joined.remove(rank) {
            self.gone.push(rank.1.clone());
        }
    }

    /// Brings the share in line with what is known, and returns what changed. `refill` lists every
    /// entry that passes the filters, with its eligibility; it is asked only when the ranks that
    /// are held are used up.
    pub(crate) fn settle<'a, I>(&mut self, now: Instant, refill: impl Fn() -> I) -> Vec<Change>
    where
        I: Iterator<Item = (&'a Entry, bool)>,
    {
        let mut changes: Vec<_> = std::mem::take(&mut self.gone).into_iter().map(Change::Leave).collect();
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

    /// The best candidate, while places are empty or it is better than one that has joined.
    fn next_to_join(&self) -> Option<Rank> {
        let best = self.candidates.first()?;
        let better = self.joined.last().is_some_and(|last| best < last);
        (self.held < self.limit || better).then(|| best.clone())
    }

    fn join(&mut self, rank: &Rank) -> Change {
        self.candidates.remove(rank);
        self.joined.insert(rank.clone());
        self.count(rank, Place::Held);
        Change::Join(self.members[rank].entry.clone())
    }

    /// While the share is full of ready nodes, the worst that are not ready leave at once, and
    /// ready ones too many after a while.
    fn leave_surplus(&mut self, now: Instant, changes: &mut Vec<Change>) {
        while self.ready >= self.limit
            && let Some(last) = self.joined.last().cloned()
        {
            if self.members[&last].place != Place::Ready {
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
        self.count(rank, Place::Empty);
        self.joined.remove(rank);
        self.candidates.insert(rank.clone());
        Change::Leave(rank.1.clone())
    }

    /// The nodes that are to be connected, best first.
    pub(crate) fn ids(&self) -> impl Iterator<Item = &str> {
        self.joined.iter().map(|(_, id)| &**id)
    }

    /// Empties the share: every node that has joined it leaves.
    pub(crate) fn take_all(&mut self) -> Vec<Change> {
        let old = std::mem::replace(self, Self::new(self.limit, self.seed));
        old.gone.into_iter().chain(old.joined.into_iter().map(|(_, id)| id)).map(Change::Leave).collect()
    }

    /// When to settle even if nothing happens.
    pub(crate) fn next_wake(&self) -> Option<Instant> {
        self.surplus_since.and_then(|since| since.checked_add(SURPLUS_KEPT))
    }

    /// Number of nodes that are to be connected and fill no place.
    pub(crate) fn unplaced(&self) -> usize {
        self.joined.len().saturating_sub(self.held)
    }

    fn capacity(&self) -> usize {
        self.limit.saturating_mul(2).saturating_add(RESERVE).max(self.joined.len().saturating_mul(2))
    }

    /// Lets go of ranks that are held beyond need; what they were is looked through again when it
    /// is wanted.
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

    /// Holds the best ranks that were not held: a walk over all nodes, each time over twice as many
    /// as before.
    fn refill<'a>(&mut self, passing: impl Iterator<Item = (&'a Entry, bool)>) {
        let wanted = self.capacity();
        let mut more: Vec<_> = passing
            .map(|(entry, eligible)| (self.rank(&entry.node.id), entry, eligible))
            .filter(|(rank, ..)| self.floor.as_ref().is_none_or(|floor| rank >= floor) && !self.members.contains_key(rank))
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
