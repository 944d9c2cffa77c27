//! Lists and maps that remember whether Go wrote them as `null`, so that a record reads and writes byte for byte.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};

use serde::{Serialize, Serializer};

/// A list that may be `null`, as a nil slice of Go is; used as a slice, where `null` is empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct List<T>(Option<Vec<T>>);

impl<T> List<T> {
    /// The list that is written as `null`.
    pub const fn null() -> Self {
        Self(None)
    }

    /// Whether it is written as `null`.
    pub const fn is_null(&self) -> bool {
        self.0.is_none()
    }

    /// Adds one at the end; a `null` list becomes a list of one.
    pub fn push(&mut self, item: T) {
        self.0.get_or_insert_default().push(item);
    }
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self::null()
    }
}

impl<T> From<Vec<T>> for List<T> {
    fn from(items: Vec<T>) -> Self {
        Self(Some(items))
    }
}

impl<T> Deref for List<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl<T> DerefMut for List<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        self.0.as_deref_mut().unwrap_or_default()
    }
}

impl<T> FromIterator<T> for List<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Self(Some(items.into_iter().collect()))
    }
}

impl<'a, T> IntoIterator for &'a List<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Sorted pairs of text that may be `null`, as a nil map of Go is; read as a map, where `null` is empty.
///
/// It also remembers which U+FFFD of its values were escaped in the record it was read from: Go writes bytes that are no text so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    pairs: Option<BTreeMap<String, String>>,
    #[expect(clippy::box_collection, reason = "hardly any has one, and all pay for its size")]
    lost: Option<Box<BTreeMap<String, Vec<usize>>>>,
}

impl Metadata {
    /// The metadata that is written as `null`.
    pub const fn null() -> Self {
        Self { pairs: None, lost: None }
    }

    /// The metadata that is written as `{}`.
    pub const fn empty() -> Self {
        Self { pairs: Some(BTreeMap::new()), lost: None }
    }

    /// Whether it is written as `null`.
    pub const fn is_null(&self) -> bool {
        self.pairs.is_none()
    }

    /// Sets `key` to `value`; what was `null` becomes a map.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<String>) {
        let key = key.into();
        self.forget_lost(&key);
        self.pairs.get_or_insert_default().insert(key, value.into());
    }

    /// Takes `key` out; returns what stood there.
    pub fn remove(&mut self, key: &str) -> Option<String> {
        self.forget_lost(key);
        self.pairs.as_mut()?.remove(key)
    }

    /// Where in the value of `key` Go had bytes that are no text, in rising order.
    pub(super) fn lost(&self, key: &str) -> &[usize] {
        self.lost.as_ref().and_then(|lost| lost.get(key)).map_or(&[], Vec::as_slice)
    }

    /// Takes each U+FFFD that stands for something else in `other` for a place where Go had bytes that are no text.
    pub(super) fn mark_lost(&mut self, other: &Self) {
        let lost: BTreeMap<_, _> = self
            .iter()
            .filter_map(|(key, value)| Some((key.clone(), replacements(value, other.get(key)?))))
            .filter(|(_, places)| !places.is_empty())
            .collect();
        self.lost = (!lost.is_empty()).then(|| Box::new(lost));
    }

    fn forget_lost(&mut self, key: &str) {
        if let Some(lost) = &mut self.lost {
            lost.remove(key);
            if lost.is_empty() {
                self.lost = None;
            }
        }
    }
}

/// In rising order, the places of those U+FFFD of `text` where `other` has another character.
fn replacements(text: &str, other: &str) -> Vec<usize> {
    let replacement = char::REPLACEMENT_CHARACTER;
    let both = text.char_indices().zip(other.chars());
    both.filter(|((_, ours), theirs)| *ours == replacement && *theirs != replacement).map(|((at, _), _)| at).collect()
}

impl Serialize for Metadata {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.pairs.serialize(serializer)
    }
}

impl Deref for Metadata {
    type Target = BTreeMap<String, String>;

    fn deref(&self) -> &Self::Target {
        static EMPTY: BTreeMap<String, String> = BTreeMap::new();
        self.pairs.as_ref().unwrap_or(&EMPTY)
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Metadata {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let pairs = pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        Self { pairs: Some(pairs), lost: None }
    }
}

impl<K: Into<String>, V: Into<String>, const N: usize> From<[(K, V); N]> for Metadata {
    fn from(pairs: [(K, V); N]) -> Self {
        pairs.into_iter().collect()
    }
}
