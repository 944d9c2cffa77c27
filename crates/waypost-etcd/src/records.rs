//! Decoding of etcd's key-value pairs into records. A record is checked against its key, its
//! service information is shared, and invalid ones are counted and logged once.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use waypost_core::record::{Entry, Key};
use waypost_core::registry::Interner;

use crate::space::Space;
use crate::wire::KeyValue;

/// Maximum number of invalid keys remembered: a hostile writer could create any number.
const REMEMBERED: usize = 10_000;

#[derive(Debug)]
pub(crate) struct Records {
    space: Space,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    interner: Interner,
    /// Keys that hold no valid record, with the revision that was seen.
    garbage: BTreeMap<Key, i64>,
}

/// Content of a key.
#[derive(Debug)]
pub(crate) enum Found {
    Record(Entry),
    /// Value that is not a valid record.
    Garbage(Key),
    /// Key that cannot be that of a record.
    Strange,
}

impl Records {
    pub(crate) fn new(space: Space) -> Self {
        Self {
            space,
            state: Mutex::default(),
        }
    }

    pub(crate) fn space(&self) -> &Space {
        &self.space
    }

    pub(crate) fn read(&self, kv: &KeyValue) -> Found {
        let Some(key) = self.space.parse(&kv.key) else {
            return Found::Strange;
        };
        let mut state = self.lock();
        match state.interner.decode(&key, &kv.value) {
            Ok(entry) => {
                state.garbage.remove(&key);
                Found::Record(entry)
            }
            Err(why) => {
                if state.remember(&key, kv.mod_revision) {
                    tracing::warn!(service = ?key.service, node = ?key.id, error = %why, "invalid record skipped");
                }
                Found::Garbage(key)
            }
        }
    }

    /// Returns the valid records of a range response.
    pub(crate) fn entries<'a>(&'a self, kvs: &'a [KeyValue]) -> impl Iterator<Item = Entry> + 'a {
        kvs.iter().filter_map(|kv| match self.read(kv) {
            Found::Record(entry) => Some(entry),
            Found::Garbage(_) | Found::Strange => None,
        })
    }

    /// Returns the record key of a delete event.
    pub(crate) fn deleted(&self, kv: &KeyValue) -> Option<Key> {
        let key = self.space.parse(&kv.key)?;
        self.lock().garbage.remove(&key);
        Some(key)
    }

    /// Returns the number of keys seen that hold no valid record.
    pub(crate) fn skipped(&self) -> usize {
        self.lock().garbage.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Remembers an invalid key. Returns true if it is new, or has changed.
    fn remember(&mut self, key: &Key, revision: i64) -> bool {
        if self.garbage.len() >= REMEMBERED && !self.garbage.contains_key(key) {
            return false;
        }
        self.garbage.insert(key.clone(), revision) != Some(revision)
    }
}
