//! Lists that keep the difference between `null` and empty, so that a record is encoded byte for
//! byte as it was decoded.

use std::ops::{Index, IndexMut};
use std::slice::{Iter, IterMut, SliceIndex};
use std::vec;

use serde::Serialize;

/// List that may be `null`, as a nil slice of Go is. A `null` list has no items.
///
/// Indexing panics out of bounds, as it does for a slice; [`get`](Self::get) does not.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct NilableVec<T>(Option<Vec<T>>);

impl<T> NilableVec<T> {
    /// Returns the list that is written as `null`.
    pub const fn null() -> Self {
        Self(None)
    }

    /// Returns true if the list is written as `null`.
    pub const fn is_null(&self) -> bool {
        self.0.is_none()
    }

    /// Returns the items as a slice, empty for `null`.
    pub fn as_slice(&self) -> &[T] {
        self.0.as_deref().unwrap_or_default()
    }

    /// Returns the items as a mutable slice.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        self.0.as_deref_mut().unwrap_or_default()
    }

    /// Returns the items as a vector, empty for `null`.
    pub fn into_vec(self) -> Vec<T> {
        self.0.unwrap_or_default()
    }

    /// Returns the number of items.
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Returns true if there are no items.
    pub fn is_empty(&self) -> bool {
        self.as_slice().is_empty()
    }

    /// Iterates over the items.
    pub fn iter(&self) -> Iter<'_, T> {
        self.as_slice().iter()
    }

    /// Iterates over mutable references to the items.
    pub fn iter_mut(&mut self) -> IterMut<'_, T> {
        self.as_mut_slice().iter_mut()
    }

    /// Returns the item at `index`, or none if `index` is out of bounds.
    pub fn get(&self, index: usize) -> Option<&T> {
        self.as_slice().get(index)
    }

    /// Returns the first item.
    pub fn first(&self) -> Option<&T> {
        self.as_slice().first()
    }

    /// Returns a mutable reference to the first item.
    pub fn first_mut(&mut self) -> Option<&mut T> {
        self.as_mut_slice().first_mut()
    }

    /// Appends one item. A `null` list becomes a list of one.
    pub fn push(&mut self, item: T) {
        self.0.get_or_insert_default().push(item);
    }
}

impl<T> Default for NilableVec<T> {
    fn default() -> Self {
        Self::null()
    }
}

impl<T> From<Vec<T>> for NilableVec<T> {
    fn from(items: Vec<T>) -> Self {
        Self(Some(items))
    }
}

impl<T> FromIterator<T> for NilableVec<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Self(Some(items.into_iter().collect()))
    }
}

impl<T> Extend<T> for NilableVec<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, items: I) {
        self.0.get_or_insert_default().extend(items);
    }
}

impl<T, I: SliceIndex<[T]>> Index<I> for NilableVec<T> {
    type Output = I::Output;

    fn index(&self, index: I) -> &I::Output {
        &self.as_slice()[index]
    }
}

impl<T, I: SliceIndex<[T]>> IndexMut<I> for NilableVec<T> {
    fn index_mut(&mut self, index: I) -> &mut I::Output {
        &mut self.as_mut_slice()[index]
    }
}

impl<T> IntoIterator for NilableVec<T> {
    type Item = T;
    type IntoIter = vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.into_vec().into_iter()
    }
}

impl<'a, T> IntoIterator for &'a NilableVec<T> {
    type Item = &'a T;
    type IntoIter = Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a, T> IntoIterator for &'a mut NilableVec<T> {
    type Item = &'a mut T;
    type IntoIter = IterMut<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}
