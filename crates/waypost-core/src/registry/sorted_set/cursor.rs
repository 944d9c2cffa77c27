//! Cursors over a sorted set: iteration in order, and differences that skip the parts that two sets
//! share.

use std::cmp::Ordering;

use super::tree::{Tree, search};
use super::{Position, Positioned};

/// Position in a tree: the remaining items or subtrees of each level, the deepest level last. No
/// level is empty.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a, T> {
    levels: Vec<Level<'a, T>>,
}

#[derive(Clone, Copy, Debug)]
enum Level<'a, T> {
    Trees(&'a [Tree<T>]),
    Items(&'a [T]),
}

enum Next<'a, T> {
    Tree(&'a Tree<T>),
    Item(&'a T),
}

impl<'a, T> Cursor<'a, T> {
    fn new(root: &'a Tree<T>) -> Self {
        let mut cursor = Self {
            levels: Vec::with_capacity(usize::from(root.height()) + 2),
        };
        cursor.push(Level::Trees(std::slice::from_ref(root)));
        cursor
    }

    fn push(&mut self, level: Level<'a, T>) {
        let is_empty = match level {
            Level::Trees(trees) => trees.is_empty(),
            Level::Items(items) => items.is_empty(),
        };
        if !is_empty {
            self.levels.push(level);
        }
    }

    fn peek(&self) -> Option<Next<'a, T>> {
        match *self.levels.last()? {
            Level::Trees(trees) => trees.first().map(Next::Tree),
            Level::Items(items) => items.first().map(Next::Item),
        }
    }

    /// Skips the next tree or item.
    fn skip(&mut self) {
        match self.levels.pop() {
            Some(Level::Trees(trees)) => self.push(Level::Trees(&trees[1..])),
            Some(Level::Items(items)) => self.push(Level::Items(&items[1..])),
            None => {}
        }
    }

    /// Replaces the next tree, which is `tree`, by its content.
    fn open(&mut self, tree: &'a Tree<T>) {
        self.skip();
        match tree {
            Tree::Leaf(items) => self.push(Level::Items(items)),
            Tree::Branch(branch) => self.push(Level::Trees(&branch.children)),
        }
    }

    pub(super) fn next_item(&mut self) -> Option<&'a T> {
        loop {
            match self.peek()? {
                Next::Tree(tree) => self.open(tree),
                Next::Item(item) => {
                    self.skip();
                    return Some(item);
                }
            }
        }
    }
}

impl<'a, T: Positioned> Cursor<'a, T> {
    /// Returns a cursor at the first item whose position is not before `position`.
    pub(super) fn at(root: &'a Tree<T>, position: Position<'_>) -> Self {
        let mut cursor = Self { levels: Vec::new() };
        cursor.seek(root, position);
        cursor
    }

    fn seek(&mut self, mut tree: &'a Tree<T>, position: Position<'_>) {
        while let Tree::Branch(branch) = tree {
            let at = branch.child_of(position);
            let Some((child, after)) = branch.children.get(at..).and_then(<[_]>::split_first)
            else {
                return;
            };
            self.push(Level::Trees(after));
            tree = child;
        }
        if let Tree::Leaf(items) = tree {
            let at = search(items, position).unwrap_or_else(|at| at);
            self.push(Level::Items(&items[at..]));
        }
    }
}

/// Iterator over the items of a [`SortedSet`], in order.
#[derive(Clone, Debug)]
pub(crate) struct Iter<'a, T> {
    cursor: Cursor<'a, T>,
    left: usize,
}

impl<'a, T> Iter<'a, T> {
    pub(super) fn new(root: &'a Tree<T>, left: usize) -> Self {
        Self {
            cursor: Cursor::new(root),
            left,
        }
    }
}

impl<'a, T> Iterator for Iter<'a, T> {
    type Item = &'a T;

    fn next(&mut self) -> Option<&'a T> {
        let item = self.cursor.next_item()?;
        self.left -= 1;
        Some(item)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<T> ExactSizeIterator for Iter<'_, T> {}

/// Iterator over the positions at which two [`SortedSet`]s differ, in order, as the items before
/// and after.
#[derive(Clone, Debug)]
pub(crate) struct Diff<'a, T> {
    old: Cursor<'a, T>,
    new: Cursor<'a, T>,
}

impl<'a, T: Positioned + PartialEq> Iterator for Diff<'a, T> {
    type Item = (Option<&'a T>, Option<&'a T>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match (self.old.peek(), self.new.peek()) {
                (None, None) => return None,
                (Some(Next::Tree(old)), Some(Next::Tree(new))) => self.narrow(old, new),
                (Some(Next::Tree(old)), _) => self.old.open(old),
                (_, Some(Next::Tree(new))) => self.new.open(new),
                (Some(Next::Item(old)), None) => return Some(self.take_old(old)),
                (None, Some(Next::Item(new))) => return Some(self.take_new(new)),
                (Some(Next::Item(old)), Some(Next::Item(new))) => {
                    if let Some(difference) = self.compare(old, new) {
                        return Some(difference);
                    }
                }
            }
        }
    }
}

impl<'a, T: Positioned + PartialEq> Diff<'a, T> {
    fn compare(&mut self, old: &'a T, new: &'a T) -> Option<(Option<&'a T>, Option<&'a T>)> {
        if old.is_same(new) {
            self.skip_both();
            return None;
        }
        match old.position().cmp(&new.position()) {
            Ordering::Less => Some(self.take_old(old)),
            Ordering::Greater => Some(self.take_new(new)),
            Ordering::Equal => {
                self.skip_both();
                (old != new).then_some((Some(old), Some(new)))
            }
        }
    }
}

impl<'a, T> Diff<'a, T> {
    pub(super) fn new(old: &'a Tree<T>, new: &'a Tree<T>) -> Self {
        Self {
            old: Cursor::new(old),
            new: Cursor::new(new),
        }
    }

    /// Skips a tree that both sets share. Otherwise opens the higher of the two, so that shared
    /// parts are compared at the same height.
    fn narrow(&mut self, old: &'a Tree<T>, new: &'a Tree<T>) {
        if old.is_same(new) {
            return self.skip_both();
        }
        let order = old.height().cmp(&new.height());
        if order != Ordering::Less {
            self.old.open(old);
        }
        if order != Ordering::Greater {
            self.new.open(new);
        }
    }

    fn skip_both(&mut self) {
        self.old.skip();
        self.new.skip();
    }

    fn take_old(&mut self, old: &'a T) -> (Option<&'a T>, Option<&'a T>) {
        self.old.skip();
        (Some(old), None)
    }

    fn take_new(&mut self, new: &'a T) -> (Option<&'a T>, Option<&'a T>) {
        self.new.skip();
        (None, Some(new))
    }
}
