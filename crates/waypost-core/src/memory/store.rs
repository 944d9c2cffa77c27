//! Records of a memory registry, and the rules of their ownership. Time is an argument. Changes are
//! applied to the broadcaster of every handle.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use super::NAME;
use crate::record::{Entry, Key, Service};
use crate::registry::{
    BadRecord, Broadcaster, Change, DeregisterOptions, Error, Instance, Interner, NodeSet,
    RegisterOptions, Result, SkipTable, SkippedRecords,
};

/// Id of a handle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct HandleId(u64);

#[derive(Default)]
pub(super) struct Store {
    /// Lease of every record; none if another writer put it.
    records: BTreeMap<Key, Option<Lease>>,
    /// Records that can be decoded.
    nodes: NodeSet,
    /// Records that cannot be decoded.
    skipped: SkipTable<()>,
    /// Expiry of each lease, soonest first. Leases without an end are not included.
    ends: BTreeSet<(Instant, Key)>,
    handles: BTreeMap<HandleId, Broadcaster>,
    last_handle: HandleId,
    /// Keys that each instance has written before. Only a first write may take a record over.
    written: HashSet<(HandleId, Key, Instance)>,
    interner: Interner,
    pub(super) unreachable: bool,
    pub(super) delay: Duration,
    pub(super) answers_to_lose: u32,
    pub(super) writes: u64,
}

#[derive(Clone, Copy)]
struct Lease {
    handle: HandleId,
    /// Expiry; none if the lease never ends.
    until: Option<Instant>,
}

/// Permitted treatment of the record under a key by a registering instance.
enum Ownership {
    Keep,
    Write,
}

impl Store {
    pub(super) fn join(&mut self, broadcaster: Broadcaster) -> HandleId {
        self.last_handle.0 += 1;
        match self.unreachable {
            true => broadcaster.fail(unreachable),
            false => broadcaster.reset(self.nodes.clone()),
        }
        self.handles.insert(self.last_handle, broadcaster);
        self.last_handle
    }

    /// Removes a dropped handle. Its records expire by themselves.
    pub(super) fn leave(&mut self, handle: HandleId) {
        self.handles.remove(&handle);
        self.written.retain(|(owner, ..)| *owner != handle);
    }

    /// Closes a handle, and revokes its leases.
    pub(super) fn close(&mut self, handle: HandleId) {
        self.leave(handle);
        let is_ours = |lease: &Option<Lease>| lease.is_some_and(|lease| lease.handle == handle);
        let ours: Vec<_> = self
            .records
            .iter()
            .filter(|(_, lease)| is_ours(lease))
            .map(|(key, _)| key.clone())
            .collect();
        ours.into_iter().for_each(|key| self.lose(key));
    }

    /// Returns the latency of the response if the handle is open.
    pub(super) fn open(&self, handle: HandleId) -> Result<Duration> {
        if self.handles.contains_key(&handle) {
            Ok(self.delay)
        } else {
            Err(Error::Closed)
        }
    }

    pub(super) fn reachable(&self) -> Result<()> {
        if self.unreachable {
            Err(unreachable())
        } else {
            Ok(())
        }
    }

    pub(super) fn loses_answer(&mut self) -> bool {
        let lost = self.answers_to_lose > 0;
        self.answers_to_lose = self.answers_to_lose.saturating_sub(1);
        lost
    }

    pub(super) fn nodes(&self) -> &NodeSet {
        &self.nodes
    }

    pub(super) fn skipped(&self, service: Option<&str>) -> SkippedRecords {
        self.skipped.report(service)
    }

    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.ends.first().map(|(until, _)| *until)
    }

    pub(super) fn expire(&mut self, now: Instant) {
        while let Some((_, key)) = self.ends.first().filter(|(until, _)| *until <= now) {
            self.lose(key.clone());
        }
    }

    pub(super) fn register(
        &mut self,
        now: Instant,
        handle: HandleId,
        stamped: &Service,
        options: &RegisterOptions,
    ) -> Result<()> {
        let entries = self.interner.entries(stamped);
        let results: Vec<_> = entries
            .into_iter()
            .map(|entry| self.register_one(now, handle, entry, options))
            .collect();
        results.into_iter().collect()
    }

    fn register_one(
        &mut self,
        now: Instant,
        handle: HandleId,
        entry: Entry,
        options: &RegisterOptions,
    ) -> Result<()> {
        let (key, until) = (entry.key(), now.checked_add(options.ttl));
        let verdict = self.judge(handle, &entry, &options.instance)?;
        self.written
            .insert((handle, key.clone(), options.instance.clone()));
        match verdict {
            Ownership::Keep => self.refresh(&key, handle, until),
            Ownership::Write => self.put(key, entry, Lease { handle, until }),
        }
        Ok(())
    }

    fn judge(&self, handle: HandleId, wanted: &Entry, instance: &Instance) -> Result<Ownership> {
        let key = wanted.key();
        let Some(found) = self.nodes.get(&key) else {
            return Ok(Ownership::Write);
        };
        let ours = found.node.instance() == Some(instance.as_str());
        let first = !self
            .written
            .contains(&(handle, key.clone(), instance.clone()));
        let is_by_hand = self.records.get(&key).is_none_or(Option::is_none);
        let predecessor = first && found.node.address == wanted.node.address;
        match () {
            () if ours && found == wanted => Ok(Ownership::Keep),
            () if ours || predecessor || is_by_hand => Ok(Ownership::Write),
            () => Err(Error::IdTaken {
                id: key.id,
                holder: holder(found),
            }),
        }
    }

    /// Renews a lease. The expiry never moves to an earlier time, so no watcher has to be woken.
    fn refresh(&mut self, key: &Key, handle: HandleId, until: Option<Instant>) {
        let Some(lease) = self.records.get(key).copied() else {
            return;
        };
        let until = lease.map_or(until, |lease| Some(lease.until?.max(until?)));
        self.lease(key.clone(), Some(Lease { handle, until }));
    }

    /// Attaches another lease, or none, to a record.
    fn lease(&mut self, key: Key, lease: Option<Lease>) {
        self.forget_end(&key);
        self.ends.extend(
            lease
                .and_then(|lease| lease.until)
                .map(|until| (until, key.clone())),
        );
        self.records.insert(key, lease);
    }

    fn forget_end(&mut self, key: &Key) {
        if let Some(until) = self
            .records
            .get(key)
            .and_then(|lease| lease.as_ref()?.until)
        {
            self.ends.remove(&(until, key.clone()));
        }
    }

    fn remove(&mut self, key: &Key) {
        self.forget_end(key);
        self.records.remove(key);
        self.nodes.remove(key);
        self.skipped.remove(key);
    }

    pub(super) fn deregister(
        &mut self,
        handle: HandleId,
        service: &Service,
        options: &DeregisterOptions,
    ) -> Result<()> {
        let keys = service.nodes.iter().map(|node| Key {
            service: service.name.clone(),
            id: node.id.clone(),
        });
        let results: Vec<_> = keys
            .map(|key| self.deregister_one(handle, key, options))
            .collect();
        results.into_iter().collect()
    }

    fn deregister_one(
        &mut self,
        handle: HandleId,
        key: Key,
        options: &DeregisterOptions,
    ) -> Result<()> {
        let was_ours = options
            .instance
            .clone()
            .is_some_and(|instance| self.written.remove(&(handle, key.clone(), instance)));
        if !self.records.contains_key(&key) {
            return Ok(());
        }
        match self.nodes.get(&key) {
            Some(found) if !options.may_remove(&found.node.metadata) => {
                return Err(Error::IdTaken {
                    id: key.id,
                    holder: holder(found),
                });
            }
            None if !was_ours && !options.force => return Ok(()),
            _ => {}
        }
        self.writes += 2;
        self.remove(&key);
        self.notify(&[Change::Leave(key)]);
        Ok(())
    }

    fn put(&mut self, key: Key, entry: Entry, lease: Lease) {
        self.writes += 1;
        self.skipped.remove(&key);
        self.lease(key, Some(lease));
        self.nodes.insert(entry.clone());
        self.notify(&[Change::Put(entry)]);
    }

    /// Writes bytes without a lease, all at one instant.
    pub(super) fn put_raw(&mut self, puts: Vec<(Key, Option<Vec<u8>>)>) -> Vec<BadRecord> {
        let (mut changes, mut bad) = (Vec::new(), Vec::new());
        for (key, bytes) in puts {
            let decoded = bytes.map(|bytes| self.interner.decode(&key, &bytes));
            self.remove(&key);
            if decoded.is_some() {
                self.lease(key.clone(), None);
            }
            changes.push(match decoded {
                Some(Ok(entry)) => {
                    self.nodes.insert(entry.clone());
                    Change::Put(entry)
                }
                Some(Err(error)) => {
                    self.skipped.insert(Instant::now(), &key, (), &error);
                    bad.push(error);
                    Change::Lose(key)
                }
                None => Change::Lose(key),
            });
        }
        self.notify(&changes);
        bad
    }

    /// Revokes the lease of one record.
    pub(super) fn lose(&mut self, key: Key) {
        self.remove(&key);
        self.notify(&[Change::Lose(key)]);
    }

    pub(super) fn set_unreachable(&mut self, unreachable_now: bool) {
        if std::mem::replace(&mut self.unreachable, unreachable_now) == unreachable_now {
            return;
        }
        for broadcaster in self.handles.values() {
            match unreachable_now {
                true => broadcaster.fail(unreachable),
                false => broadcaster.reset(self.nodes.clone()),
            }
        }
    }

    pub(super) fn cut(&self) {
        self.handles.values().for_each(Broadcaster::force_reset);
    }

    fn notify(&self, changes: &[Change]) {
        for broadcaster in self.handles.values() {
            broadcaster.apply(changes.iter().cloned());
        }
    }
}

fn holder(entry: &Entry) -> String {
    format!(
        "{} (instance {})",
        entry.node.address,
        entry.node.instance().unwrap_or("unknown")
    )
}

fn unreachable() -> Error {
    Error::Unavailable {
        registry: NAME,
        what: "made unreachable by a test".to_owned(),
        source: None,
    }
}
