//! Decoding of etcd's key-value pairs into records. A record is checked against its key, its
//! service information is shared, and invalid ones are counted and logged once.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use waypost_core::record::{Entry, Key};
use waypost_core::registry::Interner;

use crate::keys::KeySpace;
use crate::rpc::KeyValue;

/// Maximum number of invalid keys remembered: a hostile writer could create any number.
const MAX_INVALID: usize = 10_000;

#[derive(Debug)]
pub(crate) struct Records {
    key_space: KeySpace,
    state: Mutex<DecoderState>,
}

#[derive(Debug, Default)]
struct DecoderState {
    interner: Interner,
    /// Keys that hold no valid record, with the revision that was seen.
    invalid: BTreeMap<Key, i64>,
}

/// Content of a key.
#[derive(Debug)]
pub(crate) enum Decoded {
    Record(Entry),
    /// Value that is not a valid record.
    Invalid(Key),
    /// Key that cannot be that of a record.
    Foreign,
}

impl Records {
    pub(crate) fn new(key_space: KeySpace) -> Self {
        Self {
            key_space,
            state: Mutex::default(),
        }
    }

    pub(crate) fn key_space(&self) -> &KeySpace {
        &self.key_space
    }

    pub(crate) fn decode(&self, kv: &KeyValue) -> Decoded {
        let Some(key) = self.key_space.parse(&kv.key) else {
            return Decoded::Foreign;
        };
        let mut state = self.lock();
        match state.interner.decode(&key, &kv.value) {
            Ok(entry) => {
                state.invalid.remove(&key);
                Decoded::Record(entry)
            }
            Err(error) => {
                if state.insert_invalid(&key, kv.mod_revision) {
                    tracing::warn!(service = ?key.service, node = ?key.id, %error, "invalid record skipped");
                }
                Decoded::Invalid(key)
            }
        }
    }

    /// Returns the valid records of a range response.
    pub(crate) fn entries<'a>(&'a self, kvs: &'a [KeyValue]) -> impl Iterator<Item = Entry> + 'a {
        kvs.iter().filter_map(|kv| match self.decode(kv) {
            Decoded::Record(entry) => Some(entry),
            Decoded::Invalid(_) | Decoded::Foreign => None,
        })
    }

    /// Returns the record key of a delete event.
    pub(crate) fn deleted(&self, kv: &KeyValue) -> Option<Key> {
        let key = self.key_space.parse(&kv.key)?;
        self.lock().invalid.remove(&key);
        Some(key)
    }

    /// Returns the number of keys seen that hold no valid record.
    pub(crate) fn skipped(&self) -> usize {
        self.lock().invalid.len()
    }

    fn lock(&self) -> MutexGuard<'_, DecoderState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DecoderState {
    /// Remembers an invalid key. Returns true if it is new, or has changed.
    fn insert_invalid(&mut self, key: &Key, revision: i64) -> bool {
        if self.invalid.len() >= MAX_INVALID && !self.invalid.contains_key(key) {
            return false;
        }
        self.invalid.insert(key.clone(), revision) != Some(revision)
    }
}
