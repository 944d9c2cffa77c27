//! How one of the ready peers is chosen.
//!
//! Two tempos: a [`Strategy`] builds a [`Picker`] whenever the ready set changes; the picker picks, per attempt.

use std::any::Any;
use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::time::Instant;

use super::ReadySet;
use crate::peer::{AttemptObserver, PeerId};

/// What a picker may know of an attempt.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct PickContext<'a> {
    /// Full path of the method, `/package.Service/Method`.
    pub path: &'a str,
    /// The time of the pick.
    pub now: Instant,
    /// The caller's affinity key, if it gave one: for strategies that send equal keys to the same node.
    pub key: Option<&'a str>,
}

impl<'a> PickContext<'a> {
    /// An attempt at `now` to call the method at `path`.
    pub fn new(path: &'a str, now: Instant) -> Self {
        Self { path, now, key: None }
    }

    /// The same with an affinity key.
    #[must_use]
    pub fn with_key(self, key: Option<&'a str>) -> Self {
        Self { key, ..self }
    }
}

/// State that a strategy keeps for each peer across rebuilds, held by the balancer.
pub(super) type PeerStates = HashMap<PeerId, Arc<dyn Any + Send + Sync>>;

/// What a strategy may use while it builds a picker.
#[derive(Debug)]
pub struct BuildContext<'a> {
    now: Instant,
    old: PeerStates,
    states: &'a mut PeerStates,
}

impl<'a> BuildContext<'a> {
    pub(super) fn new(now: Instant, states: &'a mut PeerStates) -> Self {
        Self { now, old: std::mem::take(states), states }
    }

    /// The time of the build.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// The state that this balancer keeps for peer `index` of `ready`, made by `init` when the peer is new. It survives every rebuild in
    /// which the strategy asks for it, and is dropped when the peer leaves the ready set.
    pub fn peer_state<T: Send + Sync + 'static>(&mut self, ready: &ReadySet, index: usize, init: impl FnOnce() -> T) -> Arc<T> {
        let id = ready.peer(index).id();
        let kept = self.states.get(id).cloned().or_else(|| self.old.remove(id));
        let state = kept.and_then(|state| state.downcast::<T>().ok()).unwrap_or_else(|| Arc::new(init()));
        self.states.insert(id.clone(), Arc::clone(&state) as _);
        state
    }
}

/// Builds a picker whenever the ready set changes. Called by one task at a time for each balancer; it may take its time, but not block.
/// A panic is contained: peers are picked at random until a later build succeeds.
///
/// ```
/// use waypost_core::balance::{BuildContext, PickContext, Picker, ReadySet, Strategy};
///
/// /// The first that is ready.
/// #[derive(Debug)]
/// struct First;
///
/// impl Strategy for First {
///     fn name(&self) -> &'static str {
///         "first"
///     }
///
///     fn build(&self, _: &ReadySet, _: &mut BuildContext<'_>) -> Box<dyn Picker> {
///         Box::new(First)
///     }
/// }
///
/// impl Picker for First {
///     fn pick(&self, _: &ReadySet, _: &PickContext<'_>) -> usize {
///         0
///     }
/// }
/// ```
pub trait Strategy: Debug + Send + Sync + 'static {
    /// The name in logs and snapshots.
    fn name(&self) -> &'static str;

    /// Builds a picker over these peers, never none. What must survive a change of the set lives in [`BuildContext::peer_state`] or in the
    /// strategy.
    fn build(&self, ready: &ReadySet, context: &mut BuildContext<'_>) -> Box<dyn Picker>;
}

impl<S: Strategy + ?Sized> Strategy for Arc<S> {
    fn name(&self) -> &'static str {
        (**self).name()
    }

    fn build(&self, ready: &ReadySet, context: &mut BuildContext<'_>) -> Box<dyn Picker> {
        (**self).build(ready, context)
    }
}

/// Picks, per attempt, from many tasks at once: no lock, no clock, no I/O. A panic is contained: the attempt is picked at random.
pub trait Picker: Send + Sync {
    /// The index of one of `ready`, the very set the picker was built for; one out of range counts modulo its length.
    fn pick(&self, ready: &ReadySet, context: &PickContext<'_>) -> usize;

    /// What hears how the attempt on peer `index` ends; none by default. Asked once for each attempt, after its pick.
    fn observer(&self, index: usize) -> Option<Arc<dyn AttemptObserver>> {
        let _ = index;
        None
    }
}

/// Each peer with the same chance.
#[derive(Clone, Copy, Debug, Default)]
pub struct Random;

impl Strategy for Random {
    fn name(&self) -> &'static str {
        "random"
    }

    fn build(&self, _: &ReadySet, _: &mut BuildContext<'_>) -> Box<dyn Picker> {
        Box::new(Self)
    }
}

impl Picker for Random {
    fn pick(&self, ready: &ReadySet, _: &PickContext<'_>) -> usize {
        fastrand::usize(..ready.len())
    }
}

/// One after the other. The turn belongs to the strategy, not to the call, and survives changes of the set.
#[derive(Clone, Debug, Default)]
pub struct RoundRobin(Arc<AtomicUsize>);

impl Strategy for RoundRobin {
    fn name(&self) -> &'static str {
        "round_robin"
    }

    fn build(&self, _: &ReadySet, _: &mut BuildContext<'_>) -> Box<dyn Picker> {
        Box::new(self.clone())
    }
}

impl Picker for RoundRobin {
    fn pick(&self, ready: &ReadySet, _: &PickContext<'_>) -> usize {
        self.0.fetch_add(1, Relaxed) % ready.len()
    }
}

/// Two distinct peers at random, and of these the one with fewer attempts in flight (gRFC A48, but without replacement, so that a frozen
/// node is picked only when it is the last). The default.
#[derive(Clone, Copy, Debug, Default)]
pub struct LeastRequest;

impl Strategy for LeastRequest {
    fn name(&self) -> &'static str {
        "least_request"
    }

    fn build(&self, _: &ReadySet, _: &mut BuildContext<'_>) -> Box<dyn Picker> {
        Box::new(Self)
    }
}

impl Picker for LeastRequest {
    fn pick(&self, ready: &ReadySet, _: &PickContext<'_>) -> usize {
        let Some((a, b)) = two_of(ready.len()) else { return 0 };
        if ready.load(b) < ready.load(a) { b } else { a }
    }
}

/// Two distinct indices below `n`, each ordered pair with the same chance; none for fewer than two.
fn two_of(n: usize) -> Option<(usize, usize)> {
    if n < 2 {
        return None;
    }
    let a = fastrand::usize(..n);
    let b = fastrand::usize(..n - 1);
    Some((a, if b >= a { b + 1 } else { b }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::testing::ready_set;

    fn shares(strategy: &dyn Strategy, ready: &ReadySet, picks: usize) -> Vec<usize> {
        let now = Instant::now();
        let picker = strategy.build(ready, &mut BuildContext::new(now, &mut PeerStates::new()));
        let mut counts = vec![0; ready.len()];
        for _ in 0..picks {
            counts[picker.pick(ready, &PickContext::new("/a.B/C", now))] += 1;
        }
        counts
    }

    #[test]
    fn random_and_least_request_share_evenly_when_idle() {
        fastrand::seed(42);
        let ready = ready_set(5);
        for strategy in [&Random as &dyn Strategy, &LeastRequest] {
            // Mean 2 000, standard deviation 40: six of them, with a fixed seed.
            let counts = shares(strategy, &ready, 10_000);
            assert!(counts.iter().all(|n| (1_760..2_240).contains(n)), "{}: {counts:?}", strategy.name());
        }
    }

    #[test]
    fn round_robin_is_exact_and_survives_a_rebuild() {
        let ready = ready_set(3);
        let strategy = RoundRobin::default();
        assert_eq!(shares(&strategy, &ready, 4), [2, 1, 1]);
        assert_eq!(shares(&strategy, &ready, 2), [0, 1, 1]);
    }

    #[test]
    fn least_request_never_picks_the_busiest_of_several() {
        let ready = ready_set(4);
        ready.peer(2).stats().begin();
        assert_eq!(shares(&LeastRequest, &ready, 1_000)[2], 0);
        assert_eq!(shares(&LeastRequest, &ready_set(1), 3), [3]);
    }
}
