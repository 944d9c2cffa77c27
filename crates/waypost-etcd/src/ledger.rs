//! What this process has registered, and what it knows of how that stands. Pure; the watch and the registrations write into it.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use waypost_core::record::Key;
use waypost_core::registry::Instance;

use crate::lease::Held;
use crate::watch::{Own, OwnNews};

/// Between two reads of a record that its watch says is untouched; ± 20 %.
const VERIFY: Duration = Duration::from_secs(300);

#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    claims: HashMap<Key, Claim>,
    /// Who has registered what here before: only a first write may take over.
    written: HashSet<(Key, Instance)>,
}

/// A record that we wrote.
#[derive(Debug)]
struct Claim {
    instance: Instance,
    record: String,
    held: Held,
    lease: i64,
    /// Where we know it to be ours.
    revision: i64,
    /// The last change that the watch has told, ours or another's.
    seen: i64,
    watched: bool,
    doubtful: bool,
    /// When it was last known to stand.
    kept_at: Instant,
    /// Somebody has begun to look at it, and has not ended.
    looking: bool,
    verify_at: Instant,
}

impl Claim {
    fn is_untouched(&self) -> bool {
        self.seen <= self.revision && !self.doubtful && !self.looking
    }
}

/// A record that stands, as far as is known, on this lease.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    pub(crate) held: Held,
    pub(crate) lease: i64,
    pub(crate) kept_at: Instant,
}

/// A record that was just written or read.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) instance: Instance,
    pub(crate) record: String,
    pub(crate) held: Held,
    pub(crate) lease: i64,
    pub(crate) revision: i64,
}

impl Ledger {
    /// Whether this very record stands: nothing has touched it since we wrote it, and we would know.
    pub(crate) fn standing(&self, now: Instant, key: &Key, instance: &Instance, record: &str, seconds: i64) -> Option<Standing> {
        let state = self.lock();
        let claim = state.claims.get(key).filter(|claim| claim.instance == *instance && claim.record == record)?;
        let on_its_lease = claim.held.id() == Some(claim.lease) && claim.held.seconds() == seconds;
        let untouched = claim.is_untouched() && claim.watched;
        let standing = || Standing { held: claim.held.clone(), lease: claim.lease, kept_at: claim.kept_at };
        (on_its_lease && untouched && now < claim.verify_at).then(standing)
    }

    /// It stands, and its lease was kept alive.
    pub(crate) fn kept(&self, now: Instant, key: &Key) {
        if let Some(claim) = self.lock().claims.get_mut(key) {
            claim.kept_at = now;
        }
    }

    /// The revision of a record of this instance that is untouched, and is to say something else.
    pub(crate) fn outdated(&self, key: &Key, instance: &Instance, record: &str) -> Option<i64> {
        let state = self.lock();
        let claim = state.claims.get(key).filter(|claim| claim.instance == *instance && claim.record != record)?;
        claim.is_untouched().then_some(claim.revision)
    }

    /// What follows looks at the record itself, and then [settles](Self::settle) it, or lets go of it. Doubts raised and changes told
    /// before count no more then: they may be of another history, whose revisions were higher. Until then nothing is known of it.
    pub(crate) fn look(&self, key: &Key) {
        if let Some(claim) = self.lock().claims.get_mut(key) {
            (claim.doubtful, claim.seen, claim.looking) = (false, 0, true);
        }
    }

    pub(crate) fn settle(&self, now: Instant, key: &Key, settled: Settled) {
        let Settled { instance, record, held, lease, revision } = settled;
        let verify_at = now + VERIFY.mul_f64(0.8 + 0.4 * fastrand::f64());
        let mut state = self.lock();
        let before = state.claims.remove(key);
        let (seen, watched, doubtful) = before.map_or((0, false, false), |claim| (claim.seen, claim.watched, claim.doubtful));
        let (kept_at, looking) = (now, false);
        let claim = Claim { instance, record, held, lease, revision, seen, watched, doubtful, kept_at, looking, verify_at };
        state.claims.insert(key.clone(), claim);
    }

    /// It is ours no more; whether it was.
    pub(crate) fn drop_claim(&self, key: &Key) -> bool {
        self.lock().claims.remove(key).is_some()
    }

    /// The lease on which we wrote it.
    pub(crate) fn lease(&self, key: &Key) -> Option<i64> {
        self.lock().claims.get(key).map(|claim| claim.lease)
    }

    /// Whose registration holds it here.
    pub(crate) fn holder(&self, key: &Key) -> Option<Instance> {
        self.lock().claims.get(key).map(|claim| claim.instance.clone())
    }

    /// Whether this instance has registered it here before.
    pub(crate) fn has_written(&self, key: &Key, instance: &Instance) -> bool {
        self.lock().written.contains(&(key.clone(), instance.clone()))
    }

    pub(crate) fn writes(&self, key: &Key, instance: &Instance) {
        self.lock().written.insert((key.clone(), instance.clone()));
    }

    pub(crate) fn unwrites(&self, key: &Key, instance: &Instance) {
        self.lock().written.remove(&(key.clone(), instance.clone()));
    }

    /// Takes what the watch says.
    pub(crate) fn hear(&self, news: OwnNews) {
        let mut state = self.lock();
        let (key, own) = match news {
            OwnNews::NoneWatched => return state.claims.values_mut().for_each(|claim| claim.watched = false),
            OwnNews::Of(key, own) => (key, own),
        };
        let Some(claim) = state.claims.get_mut(&key) else { return };
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

    /// After a wipe, what the watch told of the old history is higher than anything in the new one: it must not count for ever.
    #[tokio::test(start_paused = true)]
    async fn what_was_told_before_a_look_counts_no_more() {
        let (ledger, slots, now) = (Ledger::default(), Slots::default(), Instant::now());
        let key = Key { service: "s".into(), id: "s-1".into() };
        let (instance, held) = (Instance::from("ours"), slots.hold(now, &key, 15).0);
        let lease = held.lease.grant_now();
        let settle = |revision| {
            let settled = Settled { instance: instance.clone(), record: "{}".into(), held: held.clone(), lease, revision };
            ledger.settle(now, &key, settled);
            ledger.hear(OwnNews::Of(key.clone(), Own::Watched));
            ledger.hear(OwnNews::Of(key.clone(), Own::Changed(revision)));
        };
        let stands = || ledger.standing(now, &key, &instance, "{}", 15).is_some();
        settle(1_000);
        assert!(stands());
        ledger.look(&key);
        assert!(!stands(), "the look may fail, and what was told before it is forgotten");
        settle(4);
        assert!(stands(), "each beat would read it");
        ledger.hear(OwnNews::Of(key.clone(), Own::Changed(9)));
        assert!(!stands());
    }
}
