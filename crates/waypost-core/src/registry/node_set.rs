//! Node set: the nodes of one service or of all, as one value. Events of a watcher are applied to
//! it.
//!
//! Backends compute their events from two sets; listeners apply events to one. A clone is a
//! snapshot in O(1). The difference of two snapshots skips the parts that they share.

use std::fmt;
use std::sync::Arc;

use super::Event;
use super::sorted_set::{self, Position, Positioned, SortedSet};
use crate::record::{Entry, Key};

impl Positioned for Entry {
    fn position(&self) -> Position<'_> {
        (&self.service.name, &self.node.id)
    }

    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.node, &other.node) && Arc::ptr_eq(&self.service, &other.service)
    }
}

/// Persistent set of [`Entry`]s, one per service name and node id, in that order.
///
/// `Clone` is O(1). An edit is O(log n) and does not change clones. [`diff`](Self::diff) is
/// proportional to the difference if one set derives from a clone of the other, and O(n) between
/// sets that share nothing.
#[derive(Clone, Default)]
pub struct NodeSet(SortedSet<Entry>);

/// Effect of an insertion into a [`NodeSet`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insertion {
    /// No entry had this service name and node id.
    Added,
    /// A different entry was replaced.
    Replaced,
    /// An equal entry was present; the set did not change.
    Unchanged,
}

/// Difference of one node between two [`NodeSet`]s. `From` converts it into an [`Event`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeChange<'a> {
    /// A node that is only in the newer set.
    Added(&'a Entry),
    /// A node whose entries differ.
    Updated {
        /// Entry in the older set.
        before: &'a Entry,
        /// Entry in the newer set.
        now: &'a Entry,
    },
    /// A node that is only in the older set.
    Removed(&'a Entry),
}

impl NodeSet {
    /// Returns the number of nodes.
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
        self.0
            .iter_from((name, ""))
            .take_while(move |entry| entry.service.name == name)
    }

    /// Returns the entry of one node.
    pub fn get(&self, key: &Key) -> Option<&Entry> {
        self.get_node(&key.service, &key.id)
    }

    /// Returns the entry of the node `id` of `service`.
    pub fn get_node(&self, service: &str, id: &str) -> Option<&Entry> {
        self.0.get((service, id))
    }

    /// Inserts an entry, in place of the one with the same service name and node id. If that one is
    /// equal, it stays and shared structure is kept.
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
        self.0
            .diff(&next.0)
            .filter_map(|difference| match difference {
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
    /// Returns the newest entry of the node.
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

/// Iterator over the entries of a [`NodeSet`], in order.
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
