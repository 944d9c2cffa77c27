//! The records that are ours, and how far their watches are to be believed. Pure.
//!
//! A watch of ours begins where the record was written last, and what it tells first is that write: then it has caught up, and the history
//! is the one that was written to. Where etcd has forgotten that revision, the watch begins with what etcd still knows; then it has caught
//! up after a while, and somebody must have looked at the record since the stream is there.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;
use waypost_core::record::Key;

/// What a watch says of a record of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Own {
    /// Whatever happens to it is heard from now on.
    Watched,
    /// It was written or deleted at this revision, by us or another.
    Changed(i64),
    /// What happened to it is not known, and it is not watched.
    Lost,
    /// What happened to it is not known; it is watched.
    Doubtful,
}

#[derive(Debug, Default)]
pub(super) struct Owns {
    records: BTreeMap<Key, Owned>,
    /// Watches that etcd has said yes to, and when each has had the time to tell what it had missed.
    settling: VecDeque<(Instant, i64, Key)>,
}

/// A record of ours.
#[derive(Debug, Default)]
struct Owned {
    /// Where it was written last, as far as is known.
    revision: i64,
    watch: Option<Watch>,
    /// Somebody has looked at it since the stream is there: another history would have been seen.
    looked_at: bool,
}

#[derive(Debug)]
struct Watch {
    id: i64,
    from: i64,
    settled: bool,
}

impl Owned {
    fn is_proven(&self) -> bool {
        self.looked_at && self.watch.as_ref().is_some_and(|watch| watch.settled)
    }
}

impl Owns {
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.records.keys()
    }

    /// It stands since this revision, as somebody has just seen; `up` if the stream was there. Whether its watch is to be believed.
    pub(super) fn stands(&mut self, key: &Key, revision: i64, up: bool) -> bool {
        let own = self.records.entry(key.clone()).or_default();
        (own.revision, own.looked_at) = (revision, up);
        own.is_proven()
    }

    /// It is not watched by its own; its watch, if it had one.
    pub(super) fn remove(&mut self, key: &Key) -> Option<i64> {
        self.records.remove(key)?.watch.map(|watch| watch.id)
    }

    /// Where its watch is to begin; none if it has one.
    pub(super) fn unwatched(&self, key: &Key) -> Option<i64> {
        self.records.get(key).filter(|own| own.watch.is_none()).map(|own| own.revision)
    }

    pub(super) fn watched(&mut self, key: &Key, id: i64, from: i64) {
        if let Some(own) = self.records.get_mut(key) {
            own.watch = Some(Watch { id, from, settled: false });
        }
    }

    /// Etcd, which is at `revision`, has said yes to its watch. False if that waits for what may never come.
    pub(super) fn created(&mut self, now: Instant, key: &Key, revision: i64, settle: Duration) -> bool {
        let Some(watch) = self.records.get(key).and_then(|own| own.watch.as_ref()) else { return true };
        self.settling.push_back((now + settle, watch.id, key.clone()));
        watch.from <= revision
    }

    /// Its watch has told a change.
    pub(super) fn changed(&mut self, key: &Key, revision: i64) {
        if let Some(own) = self.records.get_mut(key) {
            own.revision = own.revision.max(revision);
        }
    }

    /// The next whose watch has had its time, and is to be believed.
    pub(super) fn proven(&mut self, now: Instant) -> Option<Key> {
        while self.settling.front().is_some_and(|(at, ..)| *at <= now) {
            let (_, id, key) = self.settling.pop_front()?;
            let Some(own) = self.records.get_mut(&key) else { continue };
            let Some(watch) = own.watch.as_mut().filter(|watch| watch.id == id) else { continue };
            watch.settled = true;
            if own.is_proven() {
                return Some(key);
            }
        }
        None
    }

    /// The stream is over.
    pub(super) fn broke(&mut self) {
        self.settling.clear();
        self.records.values_mut().for_each(|own| (own.watch, own.looked_at) = (None, false));
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.settling.front().map(|(at, ..)| *at)
    }
}
