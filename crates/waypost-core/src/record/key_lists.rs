//! Lists of keys shared by all metadata that have the same keys: the nodes of a fleet differ in values, hardly ever in keys.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Weak};

use super::Metadata;
use super::metadata::KeyList;

/// Fewest lists that are worth looking through for unused ones.
const PRUNE_AT: usize = 64;

/// Lists of keys in use. An unused one is forgotten; there are never more than twice as many as metadata that use them, and [`PRUNE_AT`].
#[derive(Debug, Default)]
pub(crate) struct KeyLists {
    /// By the hash of the list. The hash is keyed, so that a writer of records cannot make two lists share one.
    known: HashMap<u64, Weak<KeyList>>,
    hasher: RandomState,
    prune_at: usize,
}

impl KeyLists {
    /// Gives `metadata` the list of keys that an earlier one with the same keys has.
    pub(crate) fn share(&mut self, metadata: &mut Metadata) {
        let Some(keys) = metadata.keys() else { return };
        let hash = self.hasher.hash_one(keys);
        match self.known.get(&hash).and_then(Weak::upgrade) {
            Some(same) if same == *keys => metadata.set_keys(same),
            Some(_) => {}
            None => self.add(hash, Arc::downgrade(keys)),
        }
    }

    fn add(&mut self, hash: u64, keys: Weak<KeyList>) {
        if self.known.len() >= self.prune_at.max(PRUNE_AT) {
            self.known.retain(|_, keys| keys.strong_count() > 0);
            self.prune_at = self.known.len() * 2;
        }
        self.known.insert(hash, keys);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(lists: &mut KeyLists, keys: [&str; 2], value: &str) -> Metadata {
        let mut metadata = Metadata::from(keys.map(|key| (key, value)));
        lists.share(&mut metadata);
        metadata
    }

    #[test]
    fn equal_keys_are_one_list() {
        let mut lists = KeyLists::default();
        let (a, b) = (shared(&mut lists, ["x", "y"], "1"), shared(&mut lists, ["y", "x"], "2"));
        let other = shared(&mut lists, ["x", "z"], "1");
        assert!(Arc::ptr_eq(a.keys().unwrap(), b.keys().unwrap()));
        assert!(!Arc::ptr_eq(a.keys().unwrap(), other.keys().unwrap()));
        assert_eq!(b, Metadata::from([("x", "2"), ("y", "2")]));
    }

    #[test]
    fn unused_lists_are_forgotten() {
        let mut lists = KeyLists::default();
        for number in 0..1_000 {
            shared(&mut lists, ["x", &number.to_string()], "");
        }
        assert!(lists.known.len() <= PRUNE_AT);
        let used: Vec<_> = (0..1_000).map(|number| shared(&mut lists, ["x", &number.to_string()], "")).collect();
        assert!((used.len()..=2 * used.len() + PRUNE_AT).contains(&lists.known.len()));
    }

    #[test]
    fn metadata_without_keys_shares_nothing() {
        let mut lists = KeyLists::default();
        [Metadata::null(), Metadata::empty()].iter_mut().for_each(|metadata| lists.share(metadata));
        assert!(lists.known.is_empty());
    }
}
