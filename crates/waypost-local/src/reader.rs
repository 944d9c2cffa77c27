//! Reader of records and locks: reads files, probes owners, and removes the files of dead ones.
//! Blocking, without timers.

use std::collections::{BTreeMap, HashSet};
use std::fs::File as Handle;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;
use waypost_core::record::{Entry, Key, RecordLimits};
use waypost_core::registry::{BadRecord, Interner, Result, SkipTable, SkippedRecords};

use crate::dir::{Dir, File};
use crate::file::{Stamp, open, stamp, stamp_at};
use crate::lock::{self, Lock, probe};
use crate::unavailable;

/// State of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Record with a live owner.
    Live(Stamp, Entry),
    /// Known record with a live owner.
    Same,
    /// Record whose lock is free: its owner died.
    Lost,
    /// File that holds no valid record of this key.
    Invalid,
    /// No record, but the tombstone of an owner that deregisters.
    Left,
    /// No file.
    Absent,
}

pub(crate) struct Reader {
    dir: Dir,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    interner: Interner,
    /// Files that hold no valid record; the stamp is none if there is no regular file.
    skipped: SkipTable<Option<Stamp>>,
}

/// Maximum number of reads of a record that changes meanwhile.
const MAX_READS: usize = 8;

impl Reader {
    pub(crate) fn new(dir: Dir) -> Self {
        let state = State {
            interner: Interner::new(dir.limits()),
            ..State::default()
        };
        Self {
            dir,
            state: Mutex::new(state),
        }
    }

    pub(crate) fn dir(&self) -> &Dir {
        &self.dir
    }

    pub(crate) fn skipped(&self, service: Option<&str>) -> SkippedRecords {
        self.state().skipped.report(service)
    }

    /// Returns the records with a live owner, of one service or all.
    pub(crate) fn list(&self, service: Option<&str>) -> Result<Vec<Entry>> {
        let live = |(_, seen)| match seen {
            Seen::Live(_, entry) => Some(entry),
            _ => None,
        };
        Ok(self
            .scan(service, &BTreeMap::new())?
            .into_iter()
            .filter_map(live)
            .collect())
    }

    /// Reads all keys of one service or all, and removes leftovers. A record with a `known` stamp
    /// is not read again.
    pub(crate) fn scan(
        &self,
        service: Option<&str>,
        known: &BTreeMap<Key, Stamp>,
    ) -> Result<Vec<(Key, Seen)>> {
        self.dir.check()?;
        let failed = |error| {
            unavailable(
                format!("reading the directory {}", self.dir.root().display()),
                error,
            )
        };
        let services = match service {
            Some(service) => vec![service.to_owned()],
            None => self.dir.services().map_err(failed)?,
        };
        let mut seen = Vec::new();
        for service in &services {
            for id in self.dir.ids(service).map_err(failed)? {
                let key = Key {
                    service: service.clone(),
                    id,
                };
                let what = self.get(&key, known.get(&key));
                if matches!(what, Seen::Absent | Seen::Left) {
                    self.sweep(&key);
                }
                seen.push((key, what));
            }
        }
        self.forget_repaired(service, &seen);
        Ok(seen)
    }

    /// Forgets files that are no longer invalid, within the scanned scope.
    fn forget_repaired(&self, service: Option<&str>, seen: &[(Key, Seen)]) {
        let still: HashSet<_> = seen
            .iter()
            .filter(|(_, what)| *what == Seen::Invalid)
            .map(|(key, _)| (key.service.as_str(), key.id.as_str()))
            .collect();
        self.state()
            .skipped
            .retain(service, |service, id, _| still.contains(&(service, id)));
    }

    /// Reads one key.
    pub(crate) fn get(&self, key: &Key, known: Option<&Stamp>) -> Seen {
        let seen = (0..MAX_READS)
            .find_map(|_| self.probe_once(key, known))
            .unwrap_or(Seen::Absent);
        if seen != Seen::Invalid {
            self.state().skipped.remove(key);
        }
        seen
    }

    /// Reads one key once. Returns none if the record was changed meanwhile.
    fn probe_once(&self, key: &Key, known: Option<&Stamp>) -> Option<Seen> {
        let path = self.dir.file(key, File::Record);
        let opened = match open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Some(self.without_record(key));
            }
            opened => opened.and_then(|record| Ok((stamp(&record.metadata()?), record))),
        };
        let (stamp, record) = match opened {
            Ok((Some(stamp), record)) => (stamp, record),
            Ok((None, _)) => return Some(self.invalid(key, None, &"it is not a file")),
            Err(error) => return Some(self.invalid(key, None, &error)),
        };
        let seen = if known == Some(&stamp) {
            Seen::Same
        } else {
            self.read(key, stamp, record)
        };
        if seen == Seen::Invalid || probe(&self.dir.file(key, File::Lock)) == lock::State::Held {
            return Some(seen);
        }
        // The owner may have left, or another may have come, since the file was opened.
        if stamp_at(&path) != Some(stamp) {
            return None;
        }
        self.sweep(key);
        Some(Seen::Lost)
    }

    fn without_record(&self, key: &Key) -> Seen {
        if self.dir.file(key, File::Left).exists() {
            Seen::Left
        } else {
            Seen::Absent
        }
    }

    fn read(&self, key: &Key, stamp: Stamp, record: Handle) -> Seen {
        let length = stamp.length();
        let max = self.dir.limits().read_bytes();
        if length > max {
            return self.invalid(key, Some(stamp), &BadRecord::TooLong { length, max });
        }
        let mut bytes = Vec::new();
        if let Err(error) = record.take(max as u64 + 1).read_to_end(&mut bytes) {
            return self.invalid(key, Some(stamp), &error);
        }
        let decoded = self.state().interner.decode(key, &bytes);
        match decoded {
            Ok(entry) => Seen::Live(stamp, entry),
            Err(error) => self.invalid(key, Some(stamp), &error),
        }
    }

    /// Counts an invalid file, and logs it once.
    fn invalid(&self, key: &Key, stamp: Option<Stamp>, why: &dyn std::fmt::Display) -> Seen {
        if self.state().skipped.insert(Instant::now(), key, stamp, why) {
            tracing::warn!(service = ?key.service, node = ?key.id, error = %why, "invalid record skipped");
        }
        Seen::Invalid
    }

    /// Returns the current record of any owner.
    pub(crate) fn record(&self, key: &Key) -> Option<Result<Entry, BadRecord>> {
        let limits = self.dir.limits();
        let bytes = read(&self.dir.file(key, File::Record), limits).ok()?;
        Some(self.state().interner.decode(key, &bytes))
    }

    /// Removes the files of a dead owner, if the lock is free, and the locked file is still the one
    /// at its path.
    pub(crate) fn sweep(&self, key: &Key) {
        if let Ok(lock) = open(&self.dir.file(key, File::Lock)) {
            self.sweep_under(key, lock);
        }
    }

    fn sweep_under(&self, key: &Key, lock: Handle) {
        let Ok(Some(lock)) = Lock::exclusive(lock) else {
            return;
        };
        if !lock.is_at(&self.dir.file(key, File::Lock)) {
            return;
        }
        // An invalid file has no known owner: it stays, and so does its lock.
        if self.record(key).is_some_and(|record| record.is_err()) {
            return;
        }
        for file in [File::Record, File::Draft, File::Left, File::Lock] {
            drop(std::fs::remove_file(self.dir.file(key, file)));
        }
        self.dir.tidy(&key.service);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a file, up to the maximum length of a record plus one byte.
pub(crate) fn read(path: &Path, limits: RecordLimits) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?
        .take(limits.read_bytes() as u64 + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use waypost_core::record::{Node, Service};

    use super::*;

    #[test]
    fn a_sweep_spares_an_owner_that_locks_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let reader =
            Reader::new(Dir::open(Some(dir.path().to_owned()), RecordLimits::default()).unwrap());
        let mut service = Service::new("greeter");
        service
            .nodes
            .push(Node::with_id("greeter", "1", "127.0.0.1:1"));
        let key = service.entries()[0].key();
        let (lock, record) = (
            reader.dir().file(&key, File::Lock),
            reader.dir().file(&key, File::Record),
        );
        reader.dir().make_service("greeter").unwrap();
        std::fs::write(&lock, "").unwrap();
        let of_dead_owner = open(&lock).unwrap();
        std::fs::remove_file(&lock).unwrap();
        std::fs::write(&lock, "").unwrap();
        let _of_live_owner = Lock::exclusive(open(&lock).unwrap()).unwrap().unwrap();
        std::fs::write(&record, service.to_json()).unwrap();
        reader.sweep_under(&key, of_dead_owner);
        assert!(matches!(reader.get(&key, None), Seen::Live(..)));
        assert_eq!(probe(&lock), lock::State::Held);
    }
}
