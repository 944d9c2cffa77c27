//! Records as etcd holds them, read: checked against their key, their heads shared, and what is none counted and reported once.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use waypost_core::record::{Entry, Key};
use waypost_core::registry::Heads;

use crate::space::Space;
use crate::wire::KeyValue;

/// How many that are none are remembered; a hostile writer could make any number.
const REMEMBERED: usize = 10_000;

#[derive(Debug)]
pub(crate) struct Records {
    space: Space,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    heads: Heads,
    /// What is no record, with the revision it was seen at.
    garbage: BTreeMap<Key, i64>,
}

/// What stands under a key.
#[derive(Debug)]
pub(crate) enum Found {
    Record(Entry),
    /// Something else stands where a record should.
    Garbage(Key),
    /// No record can stand there.
    Strange,
}

impl Records {
    pub(crate) fn new(space: Space) -> Self {
        Self { space, state: Mutex::default() }
    }

    pub(crate) fn space(&self) -> &Space {
        &self.space
    }

    pub(crate) fn read(&self, kv: &KeyValue) -> Found {
        let Some(key) = self.space.parse(&kv.key) else { return Found::Strange };
        let mut state = self.lock();
        match state.heads.decode(&key, &kv.value) {
            Ok(entry) => {
                state.garbage.remove(&key);
                Found::Record(entry)
            }
            Err(why) => {
                if state.remember(&key, kv.mod_revision) {
                    tracing::warn!(service = ?key.service, id = ?key.id, %why, "invalid record skipped");
                }
                Found::Garbage(key)
            }
        }
    }

    /// The records of a list.
    pub(crate) fn entries<'a>(&'a self, kvs: &'a [KeyValue]) -> impl Iterator<Item = Entry> + 'a {
        kvs.iter().filter_map(|kv| match self.read(kv) {
            Found::Record(entry) => Some(entry),
            Found::Garbage(_) | Found::Strange => None,
        })
    }

    /// Which record was deleted.
    pub(crate) fn deleted(&self, kv: &KeyValue) -> Option<Key> {
        let key = self.space.parse(&kv.key)?;
        self.lock().garbage.remove(&key);
        Some(key)
    }

    /// How many keys were seen that hold no record.
    pub(crate) fn skipped(&self) -> usize {
        self.lock().garbage.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether it is news.
    fn remember(&mut self, key: &Key, revision: i64) -> bool {
        if self.garbage.len() >= REMEMBERED && !self.garbage.contains_key(key) {
            return false;
        }
        self.garbage.insert(key.clone(), revision) != Some(revision)
    }
}
