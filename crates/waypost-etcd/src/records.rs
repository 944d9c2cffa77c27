//! Decoding of etcd's key-value pairs into records. A record is checked against its key, its
//! service information is shared, and invalid ones are counted and logged once.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;
use waypost_core::record::{Entry, Key, RecordLimits};
use waypost_core::registry::{Interner, SkipTable, SkippedRecords};

use crate::keys::KeySpace;
use crate::rpc::KeyValue;

#[derive(Debug)]
pub(crate) struct Records {
    key_space: KeySpace,
    state: Mutex<DecoderState>,
}

#[derive(Debug, Default)]
struct DecoderState {
    interner: Interner,
    /// Keys that hold no valid record, with the revision of their last change.
    skipped: SkipTable<i64>,
    /// Revision of the last complete list.
    listed: i64,
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
    pub(crate) fn new(key_space: KeySpace, limits: RecordLimits) -> Self {
        let state = DecoderState {
            interner: Interner::new(limits),
            ..DecoderState::default()
        };
        Self {
            key_space,
            state: Mutex::new(state),
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
                state.skipped.remove(&key);
                Decoded::Record(entry)
            }
            Err(why) => {
                if state
                    .skipped
                    .insert(Instant::now(), &key, kv.mod_revision, &why)
                {
                    tracing::warn!(service = ?key.service, node = ?key.id, error = %why, "invalid record skipped");
                }
                Decoded::Invalid(key)
            }
        }
    }

    /// Returns the valid records of a range response, and adds the keys of the others to `skipped`.
    pub(crate) fn entries<'a>(
        &'a self,
        kvs: &'a [KeyValue],
        skipped: &'a mut HashSet<Key>,
    ) -> impl Iterator<Item = Entry> + 'a {
        kvs.iter().filter_map(|kv| match self.decode(kv) {
            Decoded::Record(entry) => Some(entry),
            Decoded::Invalid(key) => {
                skipped.insert(key);
                None
            }
            Decoded::Foreign => None,
        })
    }

    /// Returns the record key of a delete event.
    pub(crate) fn deleted(&self, kv: &KeyValue) -> Option<Key> {
        let key = self.key_space.parse(&kv.key)?;
        self.lock().skipped.remove(&key);
        Some(key)
    }

    /// Forgets skipped keys of one service, or of all, that a complete list at `revision` did not
    /// contain: they were deleted while nothing was watched. `skipped` are those that it contained.
    pub(crate) fn listed(&self, service: Option<&str>, revision: i64, skipped: &HashSet<Key>) {
        let is_listed = |service: &str, id: &str| {
            let key = Key {
                service: service.to_owned(),
                id: id.to_owned(),
            };
            skipped.contains(&key)
        };
        let mut state = self.lock();
        // In a lower revision than before, the changes of the old history did not happen.
        let is_rewritten = std::mem::replace(&mut state.listed, revision) > revision;
        state.skipped.retain(service, |service, id, changed| {
            (*changed > revision && !is_rewritten) || is_listed(service, id)
        });
        let others = state.skipped.take_not_logged();
        if others > 0 {
            tracing::warn!(
                service = service.unwrap_or("all"),
                others,
                "further invalid records skipped"
            );
        }
    }

    /// Returns the keys seen, of one service or of all, that hold no valid record.
    pub(crate) fn skipped(&self, service: Option<&str>) -> SkippedRecords {
        self.lock().skipped.report(service)
    }

    fn lock(&self) -> MutexGuard<'_, DecoderState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(id: &str, mod_revision: i64) -> KeyValue {
        KeyValue {
            key: format!("/p/s/{id}").into_bytes(),
            value: b"{".to_vec(),
            mod_revision,
            ..KeyValue::default()
        }
    }

    fn list(records: &Records, revision: i64, kvs: &[KeyValue]) -> usize {
        let mut skipped = HashSet::new();
        assert_eq!(records.entries(kvs, &mut skipped).count(), 0);
        records.listed(None, revision, &skipped);
        records.skipped(Some("s")).count
    }

    #[test]
    fn a_key_that_a_list_no_longer_contains_is_not_counted() {
        let records = Records::new(KeySpace::new("/p"), RecordLimits::default());
        assert_eq!(list(&records, 5, &[kv("1", 3), kv("2", 4)]), 2);
        records.decode(&kv("3", 9));
        assert_eq!(
            list(&records, 8, &[kv("1", 3)]),
            2,
            "the third is newer than the list"
        );
        assert_eq!(list(&records, 9, &[kv("3", 9)]), 1);
        assert_eq!(list(&records, 2, &[]), 0, "etcd was wiped");
    }
}
