//! One service's nodes at one moment, and the difference between two moments.

use std::cmp::Ordering;
use std::iter::Peekable;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::record::Entry;
use crate::registry::sorted_set::{Position, Positioned, SortedSet};
use crate::registry::{NodeChange, NodeSet};

/// A node that was lost without having left.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Suspect {
    /// The node as it was last seen.
    pub entry: Entry,
    /// Time of the loss.
    pub since: Instant,
}

impl Positioned for Suspect {
    fn position(&self) -> Position<'_> {
        self.entry.position()
    }

    fn is_same(&self, other: &Self) -> bool {
        self.since == other.since && self.entry.is_same(&other.entry)
    }
}

/// A registry that cannot be watched. The nodes of a [`Snapshot`] stay as they are; only its staleness grows.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outage {
    /// Time of the first error.
    pub since: Instant,
    /// The last error, with its causes.
    pub why: Arc<str>,
}

/// One service's nodes at one moment, immutable. A clone is O(1).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Snapshot {
    /// True once the registry has answered; before that, an empty snapshot says nothing.
    pub synced: bool,
    /// Moves whenever the nodes change, and never otherwise.
    pub generation: u64,
    /// The outage of the registry, while it lasts.
    pub outage: Option<Outage>,
    pub(super) service: Arc<str>,
    pub(super) confirmed: NodeSet,
    pub(super) suspects: SortedSet<Suspect>,
}

/// A node of a [`Snapshot`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Member {
    /// A node that is in the registry and not leaving.
    Confirmed(Entry),
    /// A node that was lost and is kept for a while.
    Suspect(Suspect),
}

/// The difference in one node between two [`Snapshot`]s. At least one side is there.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemberChange {
    /// The node in the older snapshot; none if it was added.
    pub before: Option<Member>,
    /// The node in the newer snapshot; none if it was removed.
    pub now: Option<Member>,
}

impl Snapshot {
    /// Iterates over the nodes in the registry that are not leaving, by id.
    pub fn confirmed(&self) -> impl ExactSizeIterator<Item = &Entry> + Clone {
        self.confirmed.iter()
    }

    /// Iterates over the nodes that were lost and are kept for a while, by id.
    pub fn suspects(&self) -> impl ExactSizeIterator<Item = &Suspect> + Clone {
        self.suspects.iter()
    }

    /// Number of nodes, suspects included.
    pub fn len(&self) -> usize {
        self.confirmed.len() + self.suspects.len()
    }

    /// Returns true if there is no node, confirmed or suspect.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the node with this id.
    pub fn get(&self, id: &str) -> Option<Member> {
        let confirmed = || self.confirmed.get_node(&self.service, id).cloned().map(Member::Confirmed);
        let suspect = || self.suspects.get((&self.service, id)).cloned().map(Member::Suspect);
        confirmed().or_else(suspect)
    }

    /// Time for which the registry could not be watched: zero while it is, growing during an outage.
    pub fn staleness(&self, now: Instant) -> Duration {
        self.outage.as_ref().map_or(Duration::ZERO, |outage| now.saturating_duration_since(outage.since))
    }

    /// Iterates by id over the nodes that differ from those of an older snapshot of the same service. Costs what differs, not what is
    /// there, between snapshots of one [`Directory`](super::Directory).
    pub fn changes_since<'a>(&'a self, old: &'a Self) -> impl Iterator<Item = MemberChange> + use<'a> {
        let confirmed = old.confirmed.diff(&self.confirmed).map(MemberChange::from);
        let suspects = old.suspects.diff(&self.suspects).map(|(before, now)| MemberChange::of_suspect(before, now));
        Merged { confirmed: confirmed.peekable(), suspects: suspects.peekable() }
    }
}

impl Member {
    /// The node's entry, of a suspect as it was last seen.
    pub fn entry(&self) -> &Entry {
        match self {
            Self::Confirmed(entry) => entry,
            Self::Suspect(suspect) => &suspect.entry,
        }
    }

    /// Returns true if the node was lost and is kept for a while.
    pub fn is_suspect(&self) -> bool {
        matches!(self, Self::Suspect(_))
    }
}

impl MemberChange {
    /// The node's id.
    pub fn id(&self) -> &str {
        self.now.as_ref().or(self.before.as_ref()).map_or("", |member| &member.entry().node.id)
    }

    fn of_suspect(before: Option<&Suspect>, now: Option<&Suspect>) -> Self {
        Self { before: before.cloned().map(Member::Suspect), now: now.cloned().map(Member::Suspect) }
    }

    /// Joins what two sets say of one node, which is in one of them at a time.
    fn merge(self, other: Self) -> Self {
        Self { before: self.before.or(other.before), now: self.now.or(other.now) }
    }
}

impl From<NodeChange<'_>> for MemberChange {
    fn from(change: NodeChange<'_>) -> Self {
        let (before, now) = match change {
            NodeChange::Added(now) => (None, Some(now)),
            NodeChange::Updated { before, now } => (Some(before), Some(now)),
            NodeChange::Removed(before) => (Some(before), None),
        };
        Self { before: before.cloned().map(Member::Confirmed), now: now.cloned().map(Member::Confirmed) }
    }
}

/// The changes of the confirmed and of the suspects, in one order.
struct Merged<C: Iterator, S: Iterator> {
    confirmed: Peekable<C>,
    suspects: Peekable<S>,
}

impl<C: Iterator<Item = MemberChange>, S: Iterator<Item = MemberChange>> Iterator for Merged<C, S> {
    type Item = MemberChange;

    fn next(&mut self) -> Option<MemberChange> {
        let order = match (self.confirmed.peek(), self.suspects.peek()) {
            (Some(confirmed), Some(suspect)) => confirmed.id().cmp(suspect.id()),
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        match order {
            Ordering::Less => self.confirmed.next(),
            Ordering::Greater => self.suspects.next(),
            Ordering::Equal => Some(self.confirmed.next()?.merge(self.suspects.next()?)),
        }
    }
}
