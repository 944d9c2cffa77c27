//! Records registered by this process and the state of each. Pure: the watch and the registrations
//! update it.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use waypost_core::record::Key;
use waypost_core::registry::Instance;

use crate::lease::Held;
use crate::watch::{Own, OwnNews};

/// Interval between two reads of a record that its watch reports as unchanged; ± 20 %.
const VERIFY: Duration = Duration::from_secs(300);

#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    claims: HashMap<Key, Claim>,
    /// Instances that have registered a key here before: only the first write may take over a
    /// record.
    written: HashSet<(Key, Instance)>,
}

/// Record written by this process.
#[derive(Debug)]
struct Claim {
    instance: Instance,
    record: String,
    held: Held,
    lease: i64,
    /// Revision at which the record is known to be ours.
    revision: i64,
    /// Revision of the last change that the watch reported, by this process or another.
    seen: i64,
    watched: bool,
    doubtful: bool,
    /// Time at which the record was last known to be valid.
    kept_at: Instant,
    /// True while a read of the record is in progress.
    looking: bool,
    verify_at: Instant,
}

impl Claim {
    fn is_untouched(&self) -> bool {
        self.seen <= self.revision && !self.doubtful && !self.looking
    }
}

/// Record that is valid, as far as is known, and the lease that it is attached to.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    pub(crate) held: Held,
    pub(crate) lease: i64,
    pub(crate) kept_at: Instant,
}

/// Record that was just written or read.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) instance: Instance,
    pub(crate) record: String,
    pub(crate) held: Held,
    pub(crate) lease: i64,
    pub(crate) revision: i64,
}

impl Ledger {
    /// Returns the record's state if exactly this record is valid: unchanged since it was written,
    /// and watched.
    pub(crate) fn standing(
        &self,
        now: Instant,
        key: &Key,
        instance: &Instance,
        record: &str,
        seconds: i64,
    ) -> Option<Standing> {
        let state = self.lock();
        let claim = state
            .claims
            .get(key)
            .filter(|claim| claim.instance == *instance && claim.record == record)?;
        let on_its_lease = claim.held.id() == Some(claim.lease) && claim.held.seconds() == seconds;
        let untouched = claim.is_untouched() && claim.watched;
        let standing = || Standing {
            held: claim.held.clone(),
            lease: claim.lease,
            kept_at: claim.kept_at,
        };
        (on_its_lease && untouched && now < claim.verify_at).then(standing)
    }

    /// Records that the record is valid and its lease was renewed.
    pub(crate) fn kept(&self, now: Instant, key: &Key) {
        if let Some(claim) = self.lock().claims.get_mut(key) {
            claim.kept_at = now;
        }
    }

    /// Returns the revision of an unchanged record of this instance whose content is to change.
    pub(crate) fn outdated(&self, key: &Key, instance: &Instance, record: &str) -> Option<i64> {
        let state = self.lock();
        let claim = state
            .claims
            .get(key)
            .filter(|claim| claim.instance == *instance && claim.record != record)?;
        claim.is_untouched().then_some(claim.revision)
    }

    /// Marks the start of a read of the record, which ends with [`settle`](Self::settle) or
    /// [`drop_claim`](Self::drop_claim).
    ///
    /// Earlier doubts and changes are discarded: they may come from another history (a wiped or
    /// restored etcd) with higher revisions. Until the read ends, nothing is known of the record.
    pub(crate) fn look(&self, key: &Key) {
        if let Some(claim) = self.lock().claims.get_mut(key) {
            (claim.doubtful, claim.seen, claim.looking) = (false, 0, true);
        }
    }

    pub(crate) fn settle(&self, now: Instant, key: &Key, settled: Settled) {
        let Settled {
            instance,
            record,
            held,
            lease,
            revision,
        } = settled;
        let verify_at = now + VERIFY.mul_f64(0.8 + 0.4 * fastrand::f64());
        let mut state = self.lock();
        let before = state.claims.remove(key);
        let (seen, watched, doubtful) = before.map_or((0, false, false), |claim| {
            (claim.seen, claim.watched, claim.doubtful)
        });
        let (kept_at, looking) = (now, false);
        let claim = Claim {
            instance,
            record,
            held,
            lease,
            revision,
            seen,
            watched,
            doubtful,
            kept_at,
            looking,
            verify_at,
        };
        state.claims.insert(key.clone(), claim);
    }

    /// Removes the claim on a record. Returns true if there was one.
    pub(crate) fn drop_claim(&self, key: &Key) -> bool {
        self.lock().claims.remove(key).is_some()
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
            .written
            .contains(&(key.clone(), instance.clone()))
    }

    pub(crate) fn writes(&self, key: &Key, instance: &Instance) {
        self.lock().written.insert((key.clone(), instance.clone()));
    }

    pub(crate) fn unwrites(&self, key: &Key, instance: &Instance) {
        self.lock().written.remove(&(key.clone(), instance.clone()));
    }

    /// Applies an event of the watch.
    pub(crate) fn hear(&self, news: OwnNews) {
        let mut state = self.lock();
        let (key, own) = match news {
            OwnNews::NoneWatched => {
                return state
                    .claims
                    .values_mut()
                    .for_each(|claim| claim.watched = false);
            }
            OwnNews::Of(key, own) => (key, own),
        };
        let Some(claim) = state.claims.get_mut(&key) else {
            return;
        };
        match own {
            Own::Watched => claim.watched = true,
            Own::Changed(revision) => claim.seen = claim.seen.max(revision),
            Own::Lost => (claim.watched, claim.doubtful) = (false, true),
            Own::Doubtful => claim.doubtful = true,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::Slots;

    /// After a wipe, revisions reported in the old history are higher than any in the new one. They
    /// must not count for ever.
    #[tokio::test(start_paused = true)]
    async fn what_was_told_before_a_look_counts_no_more() {
        let (ledger, slots, now) = (Ledger::default(), Slots::default(), Instant::now());
        let key = Key {
            service: "s".into(),
            id: "s-1".into(),
        };
        let (instance, held) = (Instance::from("ours"), slots.hold(now, &key, 15).0);
        let lease = held.lease.grant_now();
        let settle = |revision| {
            let settled = Settled {
                instance: instance.clone(),
                record: "{}".into(),
                held: held.clone(),
                lease,
                revision,
            };
            ledger.settle(now, &key, settled);
            ledger.hear(OwnNews::Of(key.clone(), Own::Watched));
            ledger.hear(OwnNews::Of(key.clone(), Own::Changed(revision)));
        };
        let stands = || ledger.standing(now, &key, &instance, "{}", 15).is_some();
        settle(1_000);
        assert!(stands());
        ledger.look(&key);
        assert!(
            !stands(),
            "the look may fail, and what was told before it is forgotten"
        );
        settle(4);
        assert!(stands(), "each beat would read it");
        ledger.hear(OwnNews::Of(key.clone(), Own::Changed(9)));
        assert!(!stands());
    }
}
