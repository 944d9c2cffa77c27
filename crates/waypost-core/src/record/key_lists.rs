//! Interning of key lists. Metadata with the same keys share one list: the nodes of a fleet differ
//! in values, rarely in keys.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Weak};

use super::Metadata;
use super::metadata::KeyList;

/// Number of lists below which unused ones are not pruned.
const PRUNE_AT: usize = 64;

/// Interner of key lists, by weak references. Unused lists are pruned: the number of entries is at
/// most [`PRUNE_AT`], or twice the number in use at the last pruning, whichever is larger.
#[derive(Debug, Default)]
pub(crate) struct KeyLists {
    /// Lists by hash. The hash is keyed, so that the author of a record cannot force a collision.
    known: HashMap<u64, Weak<KeyList>>,
    hasher: RandomState,
    prune_at: usize,
}

impl KeyLists {
    /// Replaces the key list of `metadata` by the interned list with the same keys.
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
        let (a, b) = (
            shared(&mut lists, ["x", "y"], "1"),
            shared(&mut lists, ["y", "x"], "2"),
        );
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
        let used: Vec<_> = (0..1_000)
            .map(|number| shared(&mut lists, ["x", &number.to_string()], ""))
            .collect();
        assert!((used.len()..=2 * used.len() + PRUNE_AT).contains(&lists.known.len()));
    }

    #[test]
    fn metadata_without_keys_shares_nothing() {
        let mut lists = KeyLists::default();
        [Metadata::null(), Metadata::empty()]
            .iter_mut()
            .for_each(|metadata| lists.share(metadata));
        assert!(lists.known.is_empty());
    }
}
