//! Tree of a sorted set: insertion, removal, splits and merges of its nodes.

use std::sync::Arc;

use super::{Position, Positioned};

/// Maximum number of items of a leaf and of children of a branch. An edit copies that many pointers
/// per level.
const MAX: usize = 32;
/// Minimum width of a leaf or branch; a narrower one is merged with its neighbour.
const MIN: usize = MAX / 4;

#[derive(Clone, Debug)]
pub(super) enum Tree<T> {
    Leaf(Arc<Vec<T>>),
    Branch(Arc<Branch<T>>),
}

#[derive(Clone, Debug)]
pub(super) struct Branch<T> {
    /// Number of levels below the branch. A leaf has none.
    height: u8,
    pub(super) children: Vec<Tree<T>>,
}

impl<T> Tree<T> {
    pub(super) fn leaf(items: Vec<T>) -> Self {
        Self::Leaf(Arc::new(items))
    }

    fn branch(height: u8, children: Vec<Self>) -> Self {
        Self::Branch(Arc::new(Branch { height, children }))
    }

    pub(super) fn height(&self) -> u8 {
        match self {
            Self::Leaf(_) => 0,
            Self::Branch(branch) => branch.height,
        }
    }

    fn width(&self) -> usize {
        match self {
            Self::Leaf(items) => items.len(),
            Self::Branch(branch) => branch.children.len(),
        }
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Leaf(a), Self::Leaf(b)) => Arc::ptr_eq(a, b),
            (Self::Branch(a), Self::Branch(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl<T: Positioned> Tree<T> {
    /// Builds a tree from sorted items.
    pub(super) fn build(items: Vec<T>) -> Self {
        let mut level: Vec<_> = chunks(items).map(Self::leaf).collect();
        let mut height = 0;
        while level.len() > 1 {
            height += 1;
            level = chunks(level)
                .map(|children| Self::branch(height, children))
                .collect();
        }
        level.pop().unwrap_or_else(|| Self::leaf(Vec::new()))
    }

    /// Returns a root over the two halves of a split tree.
    pub(super) fn over(left: Self, right: Self) -> Self {
        Self::branch(left.height() + 1, vec![left, right])
    }

    /// Returns the replacement of a root that has at most one child.
    pub(super) fn only_child(&self) -> Option<Self> {
        match self {
            Self::Branch(branch) if branch.children.is_empty() => Some(Self::leaf(Vec::new())),
            Self::Branch(branch) if branch.children.len() == 1 => branch.children.first().cloned(),
            _ => None,
        }
    }

    pub(super) fn get(&self, position: Position<'_>) -> Option<&T> {
        match self {
            Self::Leaf(items) => items.get(search(items, position).ok()?),
            Self::Branch(branch) => branch
                .children
                .get(branch.child_of(position))?
                .get(position),
        }
    }

    fn first(&self) -> Option<&T> {
        match self {
            Self::Leaf(items) => items.first(),
            Self::Branch(branch) => branch.children.first()?.first(),
        }
    }

    /// Inserts an item. Returns the right half if the tree was split.
    pub(super) fn insert(&mut self, item: T) -> Option<Self> {
        match self {
            Self::Leaf(items) => {
                let items = Arc::make_mut(items);
                match search(items, item.position()) {
                    Ok(at) => items[at] = item,
                    Err(at) => return insert_at(items, at, item).map(Self::leaf),
                }
                None
            }
            Self::Branch(branch) => {
                let branch = Arc::make_mut(branch);
                let at = branch.child_of(item.position());
                let right = branch.children[at].insert(item)?;
                insert_at(&mut branch.children, at + 1, right)
                    .map(|children| Self::branch(branch.height, children))
            }
        }
    }

    pub(super) fn remove(&mut self, position: Position<'_>) -> Option<T> {
        match self {
            Self::Leaf(items) => {
                let at = search(items, position).ok()?;
                Some(Arc::make_mut(items).remove(at))
            }
            Self::Branch(branch) => {
                let branch = Arc::make_mut(branch);
                let at = branch.child_of(position);
                let removed = branch.children.get_mut(at)?.remove(position);
                branch.rebalance(at);
                removed
            }
        }
    }

    /// Appends the right neighbour. Returns the right half if both exceed one node.
    fn append(&mut self, right: Self) -> Option<Self> {
        match (self, right) {
            (Self::Leaf(left), Self::Leaf(right)) => {
                join(Arc::make_mut(left), Arc::unwrap_or_clone(right)).map(Self::leaf)
            }
            (Self::Branch(left), Self::Branch(right)) => {
                let (left, right) = (Arc::make_mut(left), Arc::unwrap_or_clone(right));
                join(&mut left.children, right.children)
                    .map(|children| Self::branch(left.height, children))
            }
            // Neighbours have the same height.
            (_, right) => Some(right),
        }
    }
}

impl<T: Positioned> Branch<T> {
    /// Returns the index of the child whose range includes a position.
    pub(super) fn child_of(&self, position: Position<'_>) -> usize {
        let after = |child: &Tree<T>| {
            child
                .first()
                .is_some_and(|first| first.position() > position)
        };
        self.children
            .partition_point(|child| !after(child))
            .saturating_sub(1)
    }

    /// Removes an empty child, and merges a small one with its neighbour.
    fn rebalance(&mut self, at: usize) {
        match self.children[at].width() {
            0 => drop(self.children.remove(at)),
            width if width < MIN && self.children.len() > 1 => self.merge(at.saturating_sub(1)),
            _ => {}
        }
    }

    fn merge(&mut self, at: usize) {
        let right = self.children.remove(at + 1);
        if let Some(rest) = self.children[at].append(right) {
            self.children.insert(at + 1, rest);
        }
    }
}

pub(super) fn search<T: Positioned>(items: &[T], position: Position<'_>) -> Result<usize, usize> {
    items.binary_search_by(|item| item.position().cmp(&position))
}

/// Inserts an item. Returns the right half if there are more than [`MAX`] items. Items inserted in
/// ascending order leave full nodes behind.
fn insert_at<T>(items: &mut Vec<T>, at: usize, item: T) -> Option<Vec<T>> {
    let is_last = at == items.len();
    items.reserve_exact(1);
    items.insert(at, item);
    let split_at = if is_last { MAX } else { MAX / 2 };
    (items.len() > MAX).then(|| split(items, split_at))
}

fn join<T>(left: &mut Vec<T>, right: Vec<T>) -> Option<Vec<T>> {
    left.reserve_exact(right.len());
    left.extend(right);
    let half = left.len() / 2;
    (left.len() > MAX).then(|| split(left, half))
}

fn split<T>(items: &mut Vec<T>, at: usize) -> Vec<T> {
    let right = items.split_off(at);
    items.shrink_to_fit();
    right
}

/// Splits items into chunks of at most [`MAX`], each without spare capacity.
fn chunks<T>(items: Vec<T>) -> impl Iterator<Item = Vec<T>> {
    let parts = items.len().div_ceil(MAX);
    let mut items = items.into_iter();
    (0..parts).map(move |_| items.by_ref().take(MAX).collect())
}
