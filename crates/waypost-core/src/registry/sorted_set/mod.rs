//! Persistent sorted set: clones share their structure, an edit copies one path, a difference skips
//! shared parts.
//!
//! The set is a B+-tree of reference-counted nodes. A clone costs one reference count. An insertion
//! or removal copies the path from the root to one leaf, and edits in place the nodes that no clone
//! shares. The set depends only on the order of the items.

mod cursor;
mod tree;

#[cfg(test)]
mod tests;

use cursor::Cursor;
pub(crate) use cursor::{Diff, Iter};
use tree::Tree;

/// Sort key of an item: service name, then node id.
pub(crate) type Position<'a> = (&'a str, &'a str);

/// Item with a position in a [`SortedSet`].
pub(crate) trait Positioned: Clone {
    /// Returns the position of the item. It is unique within a set and constant while the item is
    /// in it.
    fn position(&self) -> Position<'_>;

    /// Returns true if both are the same allocation; false permits no conclusion. A difference uses
    /// it to skip unchanged items without a comparison.
    fn is_same(&self, other: &Self) -> bool;
}

/// Sorted set whose clones share their structure.
#[derive(Clone, Debug)]
pub(crate) struct SortedSet<T> {
    root: Tree<T>,
    len: usize,
}

impl<T> Default for SortedSet<T> {
    fn default() -> Self {
        Self {
            root: Tree::leaf(Vec::new()),
            len: 0,
        }
    }
}

impl<T: Positioned> SortedSet<T> {
    /// Builds a set from items in any order. Of several items at one position the last one wins.
    pub(crate) fn build(mut items: Vec<T>) -> Self {
        items.sort_by(|a, b| a.position().cmp(&b.position()));
        items.reverse();
        items.dedup_by(|a, b| a.position() == b.position());
        items.reverse();
        Self {
            len: items.len(),
            root: Tree::build(items),
        }
    }

    /// Returns the number of items.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Returns the item at a position.
    pub(crate) fn get(&self, position: Position<'_>) -> Option<&T> {
        self.root.get(position)
    }

    /// Inserts an item at its position. Returns true if the position was empty.
    pub(crate) fn insert(&mut self, item: T) -> bool {
        let is_new = self.get(item.position()).is_none();
        self.len += usize::from(is_new);
        if let Some(right) = self.root.insert(item) {
            let left = std::mem::replace(&mut self.root, Tree::leaf(Vec::new()));
            self.root = Tree::over(left, right);
        }
        is_new
    }

    /// Removes and returns the item at a position. If there is none, no node is copied.
    pub(crate) fn remove(&mut self, position: Position<'_>) -> Option<T> {
        self.get(position)?;
        let removed = self.root.remove(position)?;
        self.len -= 1;
        while let Some(only) = self.root.only_child() {
            self.root = only;
        }
        Some(removed)
    }

    /// Iterates over all items in order.
    pub(crate) fn iter(&self) -> Iter<'_, T> {
        Iter::new(&self.root, self.len)
    }

    /// Iterates in order over the items at `position` and after it.
    pub(crate) fn iter_from(
        &self,
        position: Position<'_>,
    ) -> impl Iterator<Item = &T> + use<'_, T> {
        let mut cursor = Cursor::at(&self.root, position);
        std::iter::from_fn(move || cursor.next_item())
    }

    /// Iterates in order over the positions whose items differ in `next`, as the items before and
    /// after. The cost is proportional to the difference if one set derives from a clone of the
    /// other.
    pub(crate) fn diff<'a>(&'a self, next: &'a Self) -> Diff<'a, T> {
        Diff::new(&self.root, &next.root)
    }
}

impl<T: Positioned> FromIterator<T> for SortedSet<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Self::build(items.into_iter().collect())
    }
}
