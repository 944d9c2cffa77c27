//! Own records of this process, and the reliability of their watches. Pure.
//!
//! The watch of an own record starts at the revision of its last write, so that its first event is
//! that write. The event proves that the watch has caught up, and that the history is the one
//! written to. If that revision is compacted, the watch starts at the compacted one. It has then
//! caught up after a settling time, provided that the record was read since the stream was opened.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;
use waypost_core::record::Key;

/// Event of the watch of an own record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OwnKeyEvent {
    /// Every further change will be received.
    Watched,
    /// The record was written or deleted at this revision, by this process or another.
    Changed(i64),
    /// Changes may be missing, and the record is not watched.
    Lost,
    /// Changes may be missing; the record is watched.
    Stale,
}

#[derive(Debug, Default)]
pub(super) struct OwnKeys {
    records: BTreeMap<Key, OwnKey>,
    /// Watches that etcd has created, and the time at which each has caught up.
    settling: VecDeque<(Instant, i64, Key)>,
}

/// Own record.
#[derive(Debug, Default)]
struct OwnKey {
    /// Revision of the last known write.
    revision: i64,
    watch: Option<OwnKeyWatch>,
    /// True if the record was read since the stream was opened, which would reveal another history.
    was_read: bool,
}

#[derive(Debug)]
struct OwnKeyWatch {
    id: i64,
    from: i64,
    settled: bool,
}

impl OwnKey {
    fn is_confirmed(&self) -> bool {
        self.was_read && self.watch.as_ref().is_some_and(|watch| watch.settled)
    }
}

impl OwnKeys {
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.records.keys()
    }

    /// Records that the record is valid at this revision; `up` if it was read while the stream was
    /// up. Returns true if its watch is reliable.
    pub(super) fn record_valid(&mut self, key: &Key, revision: i64, up: bool) -> bool {
        let own_key = self.records.entry(key.clone()).or_default();
        (own_key.revision, own_key.was_read) = (revision, up);
        own_key.is_confirmed()
    }

    /// Removes the record. Returns its watch, if it had one.
    pub(super) fn remove(&mut self, key: &Key) -> Option<i64> {
        self.records.remove(key)?.watch.map(|watch| watch.id)
    }

    /// Returns the start revision of its watch; none if it has one.
    pub(super) fn unwatched(&self, key: &Key) -> Option<i64> {
        self.records
            .get(key)
            .filter(|own_key| own_key.watch.is_none())
            .map(|own_key| own_key.revision)
    }

    pub(super) fn watched(&mut self, key: &Key, id: i64, from: i64) {
        if let Some(own_key) = self.records.get_mut(key) {
            own_key.watch = Some(OwnKeyWatch {
                id,
                from,
                settled: false,
            });
        }
    }

    /// Records that etcd, at `revision`, has created the watch. Returns false if the watch starts
    /// in the future, which may never come.
    pub(super) fn created(
        &mut self,
        now: Instant,
        key: &Key,
        revision: i64,
        settle: Duration,
    ) -> bool {
        let Some(watch) = self
            .records
            .get(key)
            .and_then(|own_key| own_key.watch.as_ref())
        else {
            return true;
        };
        self.settling
            .push_back((now + settle, watch.id, key.clone()));
        watch.from <= revision
    }

    /// Records a change delivered by the watch.
    pub(super) fn changed(&mut self, key: &Key, revision: i64) {
        if let Some(own_key) = self.records.get_mut(key) {
            own_key.revision = own_key.revision.max(revision);
        }
    }

    /// Returns the next record whose watch has caught up and is reliable.
    pub(super) fn next_confirmed(&mut self, now: Instant) -> Option<Key> {
        while self.settling.front().is_some_and(|(at, ..)| *at <= now) {
            let (_, id, key) = self.settling.pop_front()?;
            let Some(own_key) = self.records.get_mut(&key) else {
                continue;
            };
            let Some(watch) = own_key.watch.as_mut().filter(|watch| watch.id == id) else {
                continue;
            };
            watch.settled = true;
            if own_key.is_confirmed() {
                return Some(key);
            }
        }
        None
    }

    /// Clears the watches after the end of the stream.
    pub(super) fn clear_watches(&mut self) {
        self.settling.clear();
        self.records
            .values_mut()
            .for_each(|own_key| (own_key.watch, own_key.was_read) = (None, false));
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.settling.front().map(|(at, ..)| *at)
    }
}
