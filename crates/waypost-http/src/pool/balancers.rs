//! The balancers of one service, shared by channels of equal configuration, and the counts that
//! errors report.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::time::Instant;
use waypost_core::balance::{self, Balancer};
use waypost_core::peer::{Exclusion, LoadTable};

use super::peer::PooledPeer;

/// Number of unused balancers that are kept, so that a channel created for each call finds its
/// balancer again.
const UNUSED_KEPT: usize = 8;

/// Node counts of one balancer, kept current by the pool's task.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    /// Number of nodes that the filters exclude, by reason.
    pub(super) filtered: BTreeMap<Exclusion, usize>,
    /// Number of nodes that pass the filters.
    pub(crate) passing: usize,
    /// Number of these that are connected, or to be connected.
    pub(super) joined: usize,
    /// Number of the joined nodes that are not picked, by reason.
    pub(super) excluded: BTreeMap<Exclusion, usize>,
}

impl Counts {
    /// Returns the number of all nodes.
    pub(crate) fn known(&self) -> usize {
        self.passing + self.filtered.values().sum::<usize>()
    }

    /// Returns the number of nodes that are picked.
    pub(crate) fn ready(&self) -> usize {
        self.joined.saturating_sub(self.excluded.values().sum())
    }

    /// Returns the number of nodes that are not picked, by reason.
    pub(crate) fn by_reason(&self) -> BTreeMap<Exclusion, usize> {
        let mut reasons = self.filtered.clone();
        for (reason, count) in &self.excluded {
            *reasons.entry(*reason).or_default() += count;
        }
        *reasons.entry(Exclusion::OutsideSubset).or_default() +=
            self.passing.saturating_sub(self.joined);
        reasons.retain(|_, count| *count > 0);
        reasons
    }
}

/// Increments a count if `add` is true; decrements it otherwise.
pub(super) fn adjust(counts: &mut BTreeMap<Exclusion, usize>, reason: Exclusion, add: bool) {
    let count = counts.entry(reason).or_default();
    *count = if add {
        *count + 1
    } else {
        count.saturating_sub(1)
    };
}

/// Handle of a channel on a balancer.
#[derive(Clone, Debug)]
pub(crate) struct Joined {
    pub(crate) balancer: Arc<Balancer<PooledPeer>>,
    pub(super) counts: Arc<Mutex<Counts>>,
    _user: Arc<()>,
}

impl Joined {
    /// Returns the current node counts.
    pub(crate) fn counts(&self) -> Counts {
        lock(&self.counts).clone()
    }

    /// Returns true if any node passes the filters.
    pub(crate) fn knows_a_node(&self) -> bool {
        lock(&self.counts).passing > 0
    }
}

pub(super) fn lock(counts: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Balancer in the registry of the pool's task.
#[derive(Clone, Debug)]
pub(super) struct Registered {
    pub(super) id: u64,
    pub(super) balancer: Arc<Balancer<PooledPeer>>,
    pub(super) counts: Arc<Mutex<Counts>>,
    users: Weak<()>,
    unused_since: Option<Instant>,
}

/// The balancers of one service.
#[derive(Debug, Default)]
pub(super) struct Balancers {
    next: u64,
    all: Vec<Registered>,
}

impl Balancers {
    /// Returns the balancer that picks by `config`, and true if it is new.
    pub(super) fn join(&mut self, config: &balance::Config, loads: &LoadTable) -> (Joined, bool) {
        let known = self
            .all
            .iter_mut()
            .find(|known| known.balancer.config().is_same(config));
        let new = known.is_none();
        let registered = match known {
            Some(registered) => registered,
            None => {
                self.all.push(Registered {
                    id: self.next,
                    balancer: Arc::new(Balancer::new(config.clone(), loads.clone())),
                    counts: Arc::default(),
                    users: Weak::new(),
                    unused_since: None,
                });
                self.next += 1;
                let last = self.all.len() - 1;
                &mut self.all[last]
            }
        };
        let user = registered.users.upgrade().unwrap_or_default();
        (registered.users, registered.unused_since) = (Arc::downgrade(&user), None);
        let joined = Joined {
            balancer: Arc::clone(&registered.balancer),
            counts: Arc::clone(&registered.counts),
            _user: user,
        };
        (joined, new)
    }

    /// Removes unused balancers beyond a few, the longest unused first, and returns the remaining
    /// ones.
    pub(super) fn current(&mut self, now: Instant) -> &[Registered] {
        for registered in &mut self.all {
            let unused = registered.users.strong_count() == 0;
            registered.unused_since = unused.then(|| registered.unused_since.unwrap_or(now));
        }
        let mut unused: Vec<_> = self
            .all
            .iter()
            .filter_map(|known| Some((known.unused_since?, known.id)))
            .collect();
        unused.sort_unstable();
        let forget: Vec<_> = unused
            .iter()
            .rev()
            .skip(UNUSED_KEPT)
            .map(|(_, id)| *id)
            .collect();
        self.all.retain(|known| !forget.contains(&known.id));
        &self.all
    }

    /// Returns true if no channel uses any balancer.
    pub(super) fn is_unused(&self) -> bool {
        self.all.iter().all(|known| known.users.strong_count() == 0)
    }
}
