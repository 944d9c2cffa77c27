//! Metadata: sorted pairs of text that may be `null`, packed to save memory in clients that hold
//! many nodes.
//!
//! The keys are one packed list, shared by all metadata with the same keys
//! ([`KeyLists`](super::KeyLists)). The values are a packed list of their own, which is one
//! allocation per node. A change repacks the pairs, since metadata is read far more often than it
//! is changed.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::packed::{Item, Items, pack, pack_numbers};

/// Sorted pairs of text, by key. May be `null`, as a nil map of Go is; a `null` metadata has no
/// pairs.
///
/// Values keep the positions of the U+FFFD that were escaped in the record: Go writes bytes that
/// are not UTF-8 in this form.
///
/// ```
/// use waypost_core::record::Metadata;
///
/// let mut metadata = Metadata::from([("zone", "eu-1"), ("protocol", "grpc")]);
/// metadata.insert("weight", "2");
/// assert_eq!(metadata.get("zone"), Some("eu-1"));
/// assert_eq!(metadata.remove("weight").as_deref(), Some("2"));
///
/// let pairs: Vec<_> = metadata.iter().collect();
/// assert_eq!(pairs, [("protocol", "grpc"), ("zone", "eu-1")]);
/// ```
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Metadata(Option<Pairs>);

#[derive(Clone, Default, PartialEq, Eq, Hash)]
struct Pairs {
    /// Packed keys; none if there are no pairs.
    keys: Option<Arc<KeyList>>,
    values: Box<str>,
}

/// Packed keys of a metadata. The list is behind two pointers, since an `Arc<str>` would take 8
/// bytes more in every node.
#[derive(PartialEq, Eq, Hash)]
pub(super) struct KeyList(Box<str>);

/// One packed pair.
#[derive(Clone, Copy)]
struct Pair<'a> {
    key: &'a str,
    value: Item<'a>,
}

impl Metadata {
    /// Returns the metadata that is written as `null`.
    pub const fn null() -> Self {
        Self(None)
    }

    /// Returns the metadata that is written as `{}`.
    pub fn empty() -> Self {
        Self(Some(Pairs::default()))
    }

    /// Returns true if the metadata is written as `null`.
    pub const fn is_null(&self) -> bool {
        self.0.is_none()
    }

    /// Returns true if there are no pairs.
    pub fn is_empty(&self) -> bool {
        self.keys().is_none()
    }

    /// Returns the number of pairs, in time proportional to it.
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Returns the value of `key`, in time proportional to the number of pairs.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.iter()
            .take_while(|(known, _)| *known <= key)
            .find(|(known, _)| *known == key)
            .map(|(_, value)| value)
    }

    /// Returns true if `key` has a value, even an empty one.
    pub fn contains_key(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// Iterates over the pairs in the order of their keys.
    pub fn iter(&self) -> MetadataIter<'_> {
        let Some(Pairs { keys, values }) = &self.0 else {
            return MetadataIter::default();
        };
        MetadataIter {
            keys: Items(keys.as_ref().map_or("", |keys| &keys.0)),
            values: Items(values),
        }
    }

    /// Sets `key` to `value`. A `null` metadata becomes a map.
    pub fn insert(&mut self, key: impl AsRef<str>, value: impl AsRef<str>) {
        self.extend([(key, value)]);
    }

    /// Removes `key` and returns its value.
    pub fn remove(&mut self, key: &str) -> Option<String> {
        let removed = self.get(key)?.to_owned();
        let kept: Vec<_> = self.pairs().filter(|pair| pair.key != key).collect();
        *self = pack_pairs(&kept);
        Some(removed)
    }

    /// Packs the pairs of `text`, in which keys and values follow each other. `ends` has the end of
    /// each key and of each value. Of equal keys the last one wins.
    pub(super) fn from_text(text: &str, ends: &[(usize, usize)]) -> Self {
        let starts = std::iter::once(0).chain(ends.iter().map(|(_, value)| *value));
        let pairs = starts
            .zip(ends)
            .map(|(start, &(key, value))| Pair::new(&text[start..key], &text[key..value]));
        pack_unsorted(pairs.collect())
    }

    /// Marks each U+FFFD of the values that is another character in `other`: Go had bytes there
    /// that are not UTF-8.
    pub(super) fn mark_lost(&mut self, other: &Self) {
        let mut others = other.iter().peekable();
        let mut same_of = |key| {
            while others.next_if(|(other, _)| *other < key).is_some() {}
            others.next_if(|(other, _)| *other == key)
        };
        let marks_of = |(key, value)| {
            same_of(key).map_or_else(String::new, |(_, other)| replaced(value, other))
        };
        let marks: Vec<String> = self.iter().map(marks_of).collect();
        if marks.iter().all(String::is_empty) {
            return;
        }
        let pairs = self.pairs().zip(&marks).map(|(pair, marks)| Pair {
            value: Item {
                marks,
                ..pair.value
            },
            ..pair
        });
        *self = pack_pairs(&pairs.collect::<Vec<_>>());
    }

    /// Iterates over keys and values, with the positions in the value where Go had bytes that are
    /// not UTF-8.
    pub(super) fn iter_lost(&self) -> impl Iterator<Item = (&str, &str, Vec<usize>)> {
        self.pairs()
            .map(|pair| (pair.key, pair.value.text, pair.value.marks().collect()))
    }

    pub(super) fn keys(&self) -> Option<&Arc<KeyList>> {
        self.0.as_ref()?.keys.as_ref()
    }

    /// Replaces the list of keys by an equal one.
    pub(super) fn set_keys(&mut self, same: Arc<KeyList>) {
        if let Some(pairs) = &mut self.0 {
            pairs.keys = Some(same);
        }
    }

    fn pairs(&self) -> impl Iterator<Item = Pair<'_>> {
        let MetadataIter { keys, values } = self.iter();
        keys.zip(values).map(|(key, value)| Pair {
            key: key.text,
            value,
        })
    }

    /// Returns a copy of the metadata with `pairs` set. Of equal keys the last one wins.
    fn with<'a>(&'a self, pairs: impl Iterator<Item = Pair<'a>>) -> Self {
        pack_unsorted(self.pairs().chain(pairs).collect())
    }
}

/// Sorts and packs pairs. Of equal keys the last one wins.
fn pack_unsorted(mut pairs: Vec<Pair<'_>>) -> Metadata {
    pairs.sort_by_key(|pair| pair.key);
    pairs.dedup_by(|later, earlier| {
        let is_same = later.key == earlier.key;
        if is_same {
            *earlier = *later;
        }
        is_same
    });
    pack_pairs(&pairs)
}

/// Packs sorted pairs.
fn pack_pairs(pairs: &[Pair<'_>]) -> Metadata {
    if pairs.is_empty() {
        return Metadata::empty();
    }
    let keys = Arc::new(KeyList(pack(pairs.iter().map(|pair| Item::new(pair.key)))));
    Metadata(Some(Pairs {
        keys: Some(keys),
        values: pack(pairs.iter().map(|pair| pair.value)),
    }))
}

/// Packs the positions of those U+FFFD of `text` where `other` has another character.
fn replaced(text: &str, other: &str) -> String {
    let replacement = char::REPLACEMENT_CHARACTER;
    let both = text.char_indices().zip(other.chars());
    pack_numbers(
        both.filter(|((_, ours), theirs)| *ours == replacement && *theirs != replacement)
            .map(|((at, _), _)| at),
    )
}

impl<'a> Pair<'a> {
    fn new(key: &'a str, value: &'a str) -> Self {
        Self {
            key,
            value: Item::new(value),
        }
    }
}

/// Iterator over the pairs of a [`Metadata`], in the order of their keys.
#[derive(Clone, Debug, Default)]
pub struct MetadataIter<'a> {
    keys: Items<'a>,
    values: Items<'a>,
}

impl<'a> Iterator for MetadataIter<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        Some((self.keys.next()?.text, self.values.next()?.text))
    }
}

impl<'a> IntoIterator for &'a Metadata {
    type Item = (&'a str, &'a str);
    type IntoIter = MetadataIter<'a>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<K: AsRef<str>, V: AsRef<str>> Extend<(K, V)> for Metadata {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, pairs: I) {
        let pairs: Vec<_> = pairs.into_iter().collect();
        *self = self.with(
            pairs
                .iter()
                .map(|(key, value)| Pair::new(key.as_ref(), value.as_ref())),
        );
    }
}

impl<K: AsRef<str>, V: AsRef<str>> FromIterator<(K, V)> for Metadata {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let mut metadata = Self::empty();
        metadata.extend(pairs);
        metadata
    }
}

impl<K: AsRef<str>, V: AsRef<str>, const N: usize> From<[(K, V); N]> for Metadata {
    fn from(pairs: [(K, V); N]) -> Self {
        pairs.into_iter().collect()
    }
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_null() {
            true => f.write_str("null"),
            false => f.debug_map().entries(self).finish(),
        }
    }
}

impl Serialize for Metadata {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.is_null() {
            true => serializer.serialize_none(),
            false => serializer.collect_map(self),
        }
    }
}
