//! The nodes of one service or of all, as one value: what the events of a watcher add up to.
//!
//! Backends compute their events from two sets; listeners apply events to one. A clone is a snapshot and costs nothing, and two snapshots
//! know their difference without looking at what they share.

use std::fmt;
use std::sync::Arc;

use super::Event;
use super::sorted_set::{self, Position, Positioned, SortedSet};
use crate::record::{Entry, Key};

impl Positioned for Entry {
    fn position(&self) -> Position<'_> {
        (&self.head.name, &self.node.id)
    }

    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.node, &other.node) && Arc::ptr_eq(&self.head, &other.head)
    }
}

/// A persistent set of [`Entry`]s, one per service name and node id, in that order.
///
/// `Clone` is O(1). An edit is O(log n) and leaves clones as they were. [`diff`](Self::diff) costs what differs where one set was made
/// from a clone of the other, and O(n) between sets that share nothing.
#[derive(Clone, Default)]
pub struct NodeSet(SortedSet<Entry>);

/// The effect of an insertion into a [`NodeSet`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insertion {
    /// No entry was at this service name and node id.
    Added,
    /// Another entry was there.
    Replaced,
    /// An equal entry was there; the set is as it was.
    Unchanged,
}

/// One difference between two [`NodeSet`]s. `From` makes the [`Event`] of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeChange<'a> {
    /// A node that is in the newer set only.
    Added(&'a Entry),
    /// A node whose entries differ.
    Updated {
        /// The entry in the older set.
        before: &'a Entry,
        /// The entry in the newer set.
        now: &'a Entry,
    },
    /// A node that is in the older set only.
    Removed(&'a Entry),
}

impl NodeSet {
    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns true if there is no node.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Iterates over the entries, by service name and node id.
    pub fn iter(&self) -> Entries<'_> {
        Entries(self.0.iter())
    }

    /// Iterates over the entries of one service, by node id.
    pub fn service<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Entry> + use<'a> {
        self.0.iter_from((name, "")).take_while(move |entry| entry.head.name == name)
    }

    /// Returns the entry of one node.
    pub fn get(&self, key: &Key) -> Option<&Entry> {
        self.get_node(&key.service, &key.id)
    }

    /// Returns the entry of the node `id` of `service`.
    pub fn get_node(&self, service: &str, id: &str) -> Option<&Entry> {
        self.0.get((service, id))
    }

    /// Puts an entry in, in place of the one with the same service name and node id. An equal one stays, and so does what is shared.
    pub fn insert(&mut self, entry: Entry) -> Insertion {
        let insertion = match self.0.get(entry.position()) {
            Some(old) if *old == entry => return Insertion::Unchanged,
            Some(_) => Insertion::Replaced,
            None => Insertion::Added,
        };
        self.0.insert(entry);
        insertion
    }

    /// Removes and returns the entry of one node.
    pub fn remove(&mut self, key: &Key) -> Option<Entry> {
        self.remove_node(&key.service, &key.id)
    }

    /// Removes and returns the entry of the node `id` of `service`.
    pub fn remove_node(&mut self, service: &str, id: &str) -> Option<Entry> {
        self.0.remove((service, id))
    }

    /// Applies one event.
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::Reset(entries) => *self = entries.into_iter().collect(),
            Event::Created(entry) | Event::Updated(entry) => {
                self.insert(entry);
            }
            Event::Deleted(key) => {
                self.remove(&key);
            }
        }
    }

    /// Iterates over the differences from this set to `next`, by service name and node id.
    pub fn diff<'a>(&'a self, next: &'a Self) -> impl Iterator<Item = NodeChange<'a>> + use<'a> {
        self.0.diff(&next.0).filter_map(|difference| match difference {
            (Some(before), Some(now)) => Some(NodeChange::Updated { before, now }),
            (None, Some(now)) => Some(NodeChange::Added(now)),
            (Some(before), None) => Some(NodeChange::Removed(before)),
            (None, None) => None,
        })
    }

    /// Returns the events that lead from this set to `next`.
    pub fn events_to(&self, next: &Self) -> Vec<Event> {
        self.diff(next).map(Event::from).collect()
    }
}

impl PartialEq for NodeSet {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.diff(other).next().is_none()
    }
}

impl Eq for NodeSet {}

impl fmt::Debug for NodeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

impl FromIterator<Entry> for NodeSet {
    fn from_iter<I: IntoIterator<Item = Entry>>(entries: I) -> Self {
        Self(entries.into_iter().collect())
    }
}

impl Extend<Entry> for NodeSet {
    fn extend<I: IntoIterator<Item = Entry>>(&mut self, entries: I) {
        for entry in entries {
            self.insert(entry);
        }
    }
}

impl<'a> IntoIterator for &'a NodeSet {
    type Item = &'a Entry;
    type IntoIter = Entries<'a>;

    fn into_iter(self) -> Entries<'a> {
        self.iter()
    }
}

impl<'a> NodeChange<'a> {
    /// The newest entry of the node.
    pub fn entry(&self) -> &'a Entry {
        match self {
            Self::Added(entry) | Self::Updated { now: entry, .. } | Self::Removed(entry) => entry,
        }
    }
}

impl From<NodeChange<'_>> for Event {
    fn from(change: NodeChange<'_>) -> Self {
        match change {
            NodeChange::Added(entry) => Self::Created(entry.clone()),
            NodeChange::Updated { now, .. } => Self::Updated(now.clone()),
            NodeChange::Removed(entry) => Self::Deleted(entry.key()),
        }
    }
}

/// The entries of a [`NodeSet`], in order.
#[derive(Clone, Debug)]
pub struct Entries<'a>(sorted_set::Iter<'a, Entry>);

impl<'a> Iterator for Entries<'a> {
    type Item = &'a Entry;

    fn next(&mut self) -> Option<&'a Entry> {
        self.0.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl ExactSizeIterator for Entries<'_> {}
