//! Records registered by this process and the state of each. Pure: the watch and the registrations
//! update it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use waypost_core::record::Key;
use waypost_core::registry::Instance;

use crate::lease::LeaseRef;
use crate::rpc::KeyValue;
use crate::timing::Timing;
use crate::watch::{OwnKeyEvent, OwnKeysEvent};

#[derive(Debug, Default)]
pub(crate) struct Claims {
    timing: Timing,
    state: Mutex<ClaimsState>,
}

#[derive(Debug, Default)]
struct ClaimsState {
    claims: HashMap<Key, Claim>,
    /// Instances that have registered a key here before: only the first write may take over a
    /// record. Each is upheld by its heartbeats, and removed with its record without them.
    writers: HashMap<(Key, Instance), Writer>,
}

/// Instance that has registered a key.
#[derive(Debug)]
struct Writer {
    ttl: Duration,
    /// Time of its last call, whether or not it succeeded.
    last_call: Instant,
    /// True if its deregistration failed.
    is_leaving: bool,
}

/// Registration whose record this handle must remove, since other registrations keep its lease alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Abandoned {
    pub(crate) key: Key,
    pub(crate) instance: Instance,
    /// True if it was closed, and its deregistration failed. Else it was dropped: it has sent no
    /// heartbeat for its ttl.
    pub(crate) is_leaving: bool,
}

/// Record written by this process.
#[derive(Debug)]
struct Claim {
    instance: Instance,
    record: String,
    lease_ref: LeaseRef,
    lease: i64,
    /// Revision at which the record is known to be ours.
    revision: i64,
    /// Revision of the last change that the watch reported, by this process or another.
    seen: i64,
    watched: bool,
    stale: bool,
    /// Time at which the record was last known to be valid.
    renewed_at: Instant,
    /// True while a read of the record is in progress.
    reading: bool,
    verify_at: Instant,
    /// True while another writer's change is known and not yet repaired.
    overwritten: watch::Sender<bool>,
}

impl Claim {
    fn is_unchanged(&self) -> bool {
        self.seen <= self.revision && !self.stale && !self.reading
    }
}

/// Record that is valid, as far as is known, and the lease that it is attached to.
#[derive(Clone, Debug)]
pub(crate) struct Current {
    pub(crate) lease_ref: LeaseRef,
    pub(crate) lease: i64,
    pub(crate) renewed_at: Instant,
}

/// Record that was just written or read.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) instance: Instance,
    pub(crate) record: String,
    pub(crate) lease_ref: LeaseRef,
    pub(crate) lease: i64,
    pub(crate) revision: i64,
}

impl Claims {
    pub(crate) fn new(timing: Timing) -> Self {
        Self {
            timing,
            state: Mutex::default(),
        }
    }

    /// Returns the record's state if exactly this record is valid: unchanged since it was written,
    /// and watched.
    pub(crate) fn current(
        &self,
        now: Instant,
        key: &Key,
        instance: &Instance,
        record: &str,
        seconds: i64,
    ) -> Option<Current> {
        let state = self.lock();
        let claim = state
            .claims
            .get(key)
            .filter(|claim| claim.instance == *instance && claim.record == record)?;
        let has_its_lease =
            claim.lease_ref.id() == Some(claim.lease) && claim.lease_ref.seconds() == seconds;
        let is_unchanged = claim.is_unchanged() && claim.watched;
        let current = || Current {
            lease_ref: claim.lease_ref.clone(),
            lease: claim.lease,
            renewed_at: claim.renewed_at,
        };
        (has_its_lease && is_unchanged && now < claim.verify_at).then(current)
    }

    /// Records that the record is valid and its lease was renewed.
    pub(crate) fn mark_renewed(&self, now: Instant, key: &Key) {
        if let Some(claim) = self.lock().claims.get_mut(key) {
            claim.renewed_at = now;
        }
    }

    /// Returns the revision of an unchanged record of this instance whose content is to change.
    pub(crate) fn outdated(&self, key: &Key, instance: &Instance, record: &str) -> Option<i64> {
        let state = self.lock();
        let claim = state
            .claims
            .get(key)
            .filter(|claim| claim.instance == *instance && claim.record != record)?;
        claim.is_unchanged().then_some(claim.revision)
    }

    /// Marks the start of a read of the record, which ends with [`confirm`](Self::confirm) or
    /// [`remove`](Self::remove).
    ///
    /// Earlier changes and gaps of the watch are discarded: they may come from another history (a
    /// wiped or restored etcd) with higher revisions. Until the read ends, nothing is known of the
    /// record.
    pub(crate) fn begin_read(&self, key: &Key) {
        if let Some(claim) = self.lock().claims.get_mut(key) {
            (claim.stale, claim.seen, claim.reading) = (false, 0, true);
        }
    }

    /// Records that the record was written, or read and found current. Ends a read.
    pub(crate) fn confirm(&self, now: Instant, key: &Key, written: Written) {
        let Written {
            instance,
            record,
            lease_ref,
            lease,
            revision,
        } = written;
        let verify_at = now + self.timing.relist_in(&mut fastrand::Rng::new());
        let mut state = self.lock();
        let before = state.claims.remove(key);
        let (seen, watched, stale, overwritten) = before.map_or_else(
            || (0, false, false, watch::Sender::new(false)),
            |claim| (claim.seen, claim.watched, claim.stale, claim.overwritten),
        );
        let (renewed_at, reading) = (now, false);
        overwritten.send_replace(seen > revision);
        let claim = Claim {
            instance,
            record,
            lease_ref,
            lease,
            revision,
            seen,
            watched,
            stale,
            renewed_at,
            reading,
            verify_at,
            overwritten,
        };
        state.claims.insert(key.clone(), claim);
    }

    /// Removes the claim on a record. Returns true if there was one.
    pub(crate) fn remove(&self, key: &Key) -> bool {
        self.lock().claims.remove(key).is_some()
    }

    /// Returns the record of this instance and its revision, if it is unchanged, so that it can be
    /// changed without a read.
    pub(crate) fn unchanged(&self, key: &Key, instance: &Instance) -> Option<KeyValue> {
        let state = self.lock();
        let claim = state
            .claims
            .get(key)
            .filter(|claim| claim.instance == *instance && claim.is_unchanged())?;
        Some(KeyValue {
            mod_revision: claim.revision,
            value: claim.record.clone().into_bytes(),
            lease: claim.lease,
            ..KeyValue::default()
        })
    }

    /// Returns the lease that the record was written with.
    pub(crate) fn lease(&self, key: &Key) -> Option<i64> {
        self.lock().claims.get(key).map(|claim| claim.lease)
    }

    /// Returns the instance of this process that holds the key.
    pub(crate) fn holder(&self, key: &Key) -> Option<Instance> {
        self.lock()
            .claims
            .get(key)
            .map(|claim| claim.instance.clone())
    }

    /// Returns true if this instance has registered the key here before.
    pub(crate) fn has_written(&self, key: &Key, instance: &Instance) -> bool {
        self.lock()
            .writers
            .contains_key(&(key.clone(), instance.clone()))
    }

    /// Records that this instance has registered the key.
    pub(crate) fn mark_written(&self, now: Instant, key: &Key, instance: &Instance, ttl: Duration) {
        let writer = Writer {
            ttl,
            last_call: now,
            is_leaving: false,
        };
        self.lock()
            .writers
            .insert((key.clone(), instance.clone()), writer);
    }

    /// Records a call of an instance that has registered the key.
    pub(crate) fn mark_called(&self, now: Instant, key: &Key, instance: &Instance) {
        let mut state = self.lock();
        if let Some(writer) = state.writers.get_mut(&(key.clone(), instance.clone())) {
            (writer.last_call, writer.is_leaving) = (now, false);
        }
    }

    /// Records that the deregistration of this instance failed.
    pub(crate) fn mark_leaving(&self, key: &Key, instance: &Instance) {
        let mut state = self.lock();
        if let Some(writer) = state.writers.get_mut(&(key.clone(), instance.clone())) {
            writer.is_leaving = true;
        }
    }

    /// Returns the registrations that were dropped, or whose deregistration failed. `slept` is the
    /// time for which this process did not run: no heartbeat was possible in it.
    pub(crate) fn abandoned(&self, now: Instant, slept: Duration) -> Vec<Abandoned> {
        let mut state = self.lock();
        let mut abandoned = Vec::new();
        for ((key, instance), writer) in &mut state.writers {
            writer.last_call += slept;
            let is_silent = now.saturating_duration_since(writer.last_call) >= writer.ttl;
            if is_silent || writer.is_leaving {
                abandoned.push(Abandoned {
                    key: key.clone(),
                    instance: instance.clone(),
                    is_leaving: writer.is_leaving,
                });
            }
        }
        abandoned
    }

    /// Forgets that this instance has registered the key.
    pub(crate) fn forget_writer(&self, key: &Key, instance: &Instance) {
        self.lock().writers.remove(&(key.clone(), instance.clone()));
    }

    /// Waits until another writer has changed or deleted the record of this instance. Returns at
    /// once if there is no such record.
    pub(crate) async fn overwritten(&self, key: &Key, instance: &Instance) {
        let overwritten = self
            .lock()
            .claims
            .get(key)
            .filter(|claim| claim.instance == *instance)
            .map(|claim| claim.overwritten.subscribe());
        if let Some(mut overwritten) = overwritten {
            // An error: the claim was removed.
            let _ = overwritten.wait_for(|overwritten| *overwritten).await;
        }
    }

    /// Applies an event of the watch.
    pub(crate) fn on_watch(&self, event: OwnKeysEvent) {
        let mut state = self.lock();
        let (key, key_event) = match event {
            OwnKeysEvent::AllUnwatched => {
                return state
                    .claims
                    .values_mut()
                    .for_each(|claim| claim.watched = false);
            }
            OwnKeysEvent::Key(key, key_event) => (key, key_event),
        };
        let Some(claim) = state.claims.get_mut(&key) else {
            return;
        };
        match key_event {
            OwnKeyEvent::Watched => claim.watched = true,
            OwnKeyEvent::Changed(revision) => {
                claim.seen = claim.seen.max(revision);
                if claim.seen > claim.revision && !claim.reading {
                    claim.overwritten.send_replace(true);
                }
            }
            OwnKeyEvent::Lost => (claim.watched, claim.stale) = (false, true),
            OwnKeyEvent::Stale => claim.stale = true,
        }
    }

    fn lock(&self) -> MutexGuard<'_, ClaimsState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::LeaseTable;

    /// After a wipe, revisions reported in the old history are higher than any in the new one. They
    /// must not count for ever.
    #[tokio::test(start_paused = true)]
    async fn watch_events_before_a_read_are_discarded() {
        let (claims, table, now) = (Claims::default(), LeaseTable::default(), Instant::now());
        let key = Key {
            service: "s".into(),
            id: "s-1".into(),
        };
        let (instance, lease_ref) = (Instance::from("ours"), table.assign(now, &key, 15).0);
        let lease = lease_ref.lease.mark_granted();
        let confirm = |revision| {
            let written = Written {
                instance: instance.clone(),
                record: "{}".into(),
                lease_ref: lease_ref.clone(),
                lease,
                revision,
            };
            claims.confirm(now, &key, written);
            claims.on_watch(OwnKeysEvent::Key(key.clone(), OwnKeyEvent::Watched));
            claims.on_watch(OwnKeysEvent::Key(
                key.clone(),
                OwnKeyEvent::Changed(revision),
            ));
        };
        let is_current = || claims.current(now, &key, &instance, "{}", 15).is_some();
        confirm(1_000);
        assert!(is_current());
        claims.begin_read(&key);
        assert!(
            !is_current(),
            "the read may fail, and earlier events are discarded"
        );
        confirm(4);
        assert!(is_current(), "each heartbeat would read it");
        claims.on_watch(OwnKeysEvent::Key(key.clone(), OwnKeyEvent::Changed(9)));
        assert!(!is_current());
    }
}
