//! Strategies, which choose one of the ready peers.
//!
//! The work is split between two rates: a [`Strategy`] builds a [`Picker`] whenever the ready set
//! changes; the picker picks, per attempt.

use std::any::Any;
use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::time::Instant;

use super::ReadySet;
use crate::peer::{AttemptObserver, PeerId};

/// Information about an attempt for the picker.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct PickContext<'a> {
    /// Full path of the method, `/package.Service/Method`.
    pub path: &'a str,
    /// Time of the pick.
    pub now: Instant,
    /// Affinity key of the caller, if any, for strategies that send equal keys to the same node.
    pub key: Option<&'a str>,
}

impl<'a> PickContext<'a> {
    /// Creates the context of an attempt at `now` to call the method at `path`.
    pub fn new(path: &'a str, now: Instant) -> Self {
        Self {
            path,
            now,
            key: None,
        }
    }

    /// Returns the context with an affinity key.
    #[must_use]
    pub fn with_key(self, key: Option<&'a str>) -> Self {
        Self { key, ..self }
    }
}

/// State that a strategy keeps for each peer across rebuilds, stored in the balancer.
pub(super) type PeerStates = HashMap<PeerId, Arc<dyn Any + Send + Sync>>;

/// Context of the build of a picker.
#[derive(Debug)]
pub struct BuildContext<'a> {
    now: Instant,
    old: PeerStates,
    states: &'a mut PeerStates,
}

impl<'a> BuildContext<'a> {
    pub(super) fn new(now: Instant, states: &'a mut PeerStates) -> Self {
        Self {
            now,
            old: std::mem::take(states),
            states,
        }
    }

    /// Returns the time of the build.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Returns the state that this balancer keeps for peer `index` of `ready`, created by `init`
    /// when the peer is new. The state survives every rebuild in which the strategy requests it,
    /// and is dropped when the peer leaves the ready set.
    ///
    /// A strategy that counts picks per node, and keeps the counts when the ready set changes:
    ///
    /// ```
    /// # use std::sync::{Arc, atomic::{AtomicU64, Ordering::Relaxed}};
    /// # use waypost_core::balance::{BuildContext, PickContext, Picker, ReadySet, Strategy};
    /// # #[derive(Debug)]
    /// # struct FewestPicks;
    /// struct Counts(Vec<Arc<AtomicU64>>);
    ///
    /// impl Strategy for FewestPicks {
    ///     # fn name(&self) -> &'static str { "fewest_picks" }
    ///     fn build(&self, ready: &ReadySet, context: &mut BuildContext<'_>) -> Box<dyn Picker> {
    ///         let count = |index| context.peer_state(ready, index, AtomicU64::default);
    ///         Box::new(Counts((0..ready.len()).map(count).collect()))
    ///     }
    /// }
    ///
    /// impl Picker for Counts {
    ///     fn pick(&self, _: &ReadySet, _: &PickContext<'_>) -> usize {
    ///         let picks = |&index: &usize| self.0[index].load(Relaxed);
    ///         let fewest = (0..self.0.len()).min_by_key(picks).unwrap_or_default();
    ///         self.0[fewest].fetch_add(1, Relaxed);
    ///         fewest
    ///     }
    /// }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use waypost_core::static_list::StaticRegistry;
    /// # let registry = StaticRegistry::new(["10.0.0.7:9001".parse()?, "10.0.0.8:9001".parse()?], "http");
    /// # let mut config = waypost_core::balance::Config::default();
    /// # config.strategy = Arc::new(FewestPicks);
    /// # let selector = waypost_core::balance::Selector::uncached(registry, config);
    /// # let mut addresses = Vec::new();
    /// # for _ in 0..4 {
    /// #     addresses.push(selector.select("greeter").await?.next().ok_or("no node")?.node().address.clone());
    /// # }
    /// # assert!(addresses[0] == addresses[2] && addresses[1] == addresses[3] && addresses[0] != addresses[1]);
    /// # Ok(()) }
    /// ```
    pub fn peer_state<T: Send + Sync + 'static>(
        &mut self,
        ready: &ReadySet,
        index: usize,
        init: impl FnOnce() -> T,
    ) -> Arc<T> {
        let id = ready.peer(index).id();
        let kept = self.states.get(id).cloned().or_else(|| self.old.remove(id));
        let state = kept
            .and_then(|state| state.downcast::<T>().ok())
            .unwrap_or_else(|| Arc::new(init()));
        self.states.insert(id.clone(), Arc::clone(&state) as _);
        state
    }
}

/// Factory of pickers, called whenever the ready set changes. For each balancer, one task at a time
/// calls it. It may be slow, but must not block. A panic is contained: peers are picked at random
/// until a later build succeeds.
///
/// A strategy that prefers the node with the largest weight:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use waypost_core::balance::{BuildContext, PickContext, Picker, ReadySet, Strategy};
/// # use waypost_core::balance::{Config, Selector};
/// # use waypost_core::memory::MemoryRegistry;
/// # use waypost_core::record::{Node, Service};
/// # use waypost_core::registry::{Instance, RegisterOptions, Registry};
/// # let registry = MemoryRegistry::new();
/// # let mut service = Service::new("greeter");
/// # service.nodes = ["small", "big", "medium"].iter().map(|id| Node::with_id("greeter", id, "127.0.0.1:9001")).collect();
/// # service.nodes[1].metadata.insert("weight", "3");
/// # service.nodes[2].metadata.insert("weight", "2");
/// # let ttl = std::time::Duration::from_secs(15);
/// # registry.register(&service, &RegisterOptions { ttl, instance: Instance::random() }).await?;
///
/// #[derive(Debug)]
/// struct Heaviest;
/// struct Fixed(usize);
///
/// impl Strategy for Heaviest {
///     fn name(&self) -> &'static str {
///         "heaviest"
///     }
///     fn build(&self, ready: &ReadySet, _: &mut BuildContext<'_>) -> Box<dyn Picker> {
///         let heaviest = (0..ready.len()).max_by_key(|&index| ready.weight(index));
///         Box::new(Fixed(heaviest.unwrap_or_default()))
///     }
/// }
///
/// impl Picker for Fixed {
///     fn pick(&self, _: &ReadySet, _: &PickContext<'_>) -> usize {
///         self.0
///     }
/// }
///
/// let mut config = Config::default();
/// config.strategy = Arc::new(Heaviest);
/// let selector = Selector::uncached(registry, config);
/// let selected = selector.select("greeter").await?.next().ok_or("no node")?;
/// assert_eq!(selected.node().id, "greeter-big");
/// # Ok(()) }
/// ```
pub trait Strategy: Debug + Send + Sync + 'static {
    /// Returns the name in logs and snapshots.
    fn name(&self) -> &'static str;

    /// Builds a picker for these peers; the set is never empty. State that must survive a change of
    /// the set is kept in [`BuildContext::peer_state`] or in the strategy.
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

/// Picker of one ready set, called per attempt from many tasks at once. It uses no lock, no clock
/// and no I/O. A panic is contained: the attempt is picked at random.
///
/// A picker that sends the calls of one client with equal keys to the same node, by rendezvous hashing:
///
/// ```
/// # use std::sync::Arc;
/// # use tokio::time::Instant;
/// use std::hash::{BuildHasher, RandomState};
/// use waypost_core::balance::{PickContext, Picker, ReadySet};
/// # use waypost_core::peer::{LoadTable, Peer};
/// # use waypost_core::record::{Node, Service};
/// # let mut service = Service::new("greeter");
/// # service.nodes.push(Node::with_id("greeter", "a", "10.0.0.7:9001"));
/// # service.nodes.push(Node::with_id("greeter", "b", "10.0.0.8:9001"));
/// # let (loads, now) = (LoadTable::default(), Instant::now());
/// # let peers = service.entries().into_iter().map(|entry| (Arc::new(Peer::new(entry, &loads, now)), now));
/// # let ready = ReadySet::new(&loads, peers);
///
/// struct ByKey(RandomState);
///
/// impl Picker for ByKey {
///     fn pick(&self, ready: &ReadySet, context: &PickContext<'_>) -> usize {
///         let rank = |&index: &usize| self.0.hash_one((context.key, &ready.peer(index).id().id));
///         (0..ready.len()).max_by_key(rank).unwrap_or_default()
///     }
/// }
///
/// let picker = ByKey(RandomState::new());
/// let context = PickContext::new("/greeter.Greeter/Hello", now).with_key(Some("ann"));
/// assert_eq!(picker.pick(&ready, &context), picker.pick(&ready, &context));
/// ```
pub trait Picker: Send + Sync {
    /// Returns the index of one of `ready`, the same set for which the picker was built. An index
    /// out of range counts modulo the length.
    fn pick(&self, ready: &ReadySet, context: &PickContext<'_>) -> usize;

    /// Returns the observer of the attempt on peer `index`; none by default. Called once for each
    /// attempt, after its pick.
    fn observer(&self, index: usize) -> Option<Arc<dyn AttemptObserver>> {
        let _ = index;
        None
    }
}

/// Strategy that picks each peer with the same probability.
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

/// Strategy that picks the peers in turn. The position belongs to the strategy, not to the call,
/// and survives changes of the set.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use waypost_core::balance::{Config, RoundRobin, Selector};
/// # use waypost_core::static_list::StaticRegistry;
/// # let registry = StaticRegistry::new(["10.0.0.7:9001".parse()?, "10.0.0.8:9001".parse()?], "http");
///
/// let mut config = Config::default();
/// config.strategy = Arc::new(RoundRobin::default());
/// let selector = Selector::uncached(registry, config);
///
/// for expected in ["10.0.0.7:9001", "10.0.0.8:9001", "10.0.0.7:9001"] {
///     let selected = selector.select("greeter").await?.next().ok_or("no node")?;
///     assert_eq!(selected.node().address, expected);
/// }
/// # Ok(()) }
/// ```
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

/// Strategy that draws two distinct peers at random, and picks the one with fewer attempts in
/// flight. As in gRFC A48, but without replacement, so that a frozen node is picked only if it is
/// the last one. The default.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use waypost_core::balance::{Config, Selector};
/// # use waypost_core::static_list::StaticRegistry;
/// # let registry = StaticRegistry::new(["10.0.0.7:9001".parse()?, "10.0.0.8:9001".parse()?], "http");
///
/// let selector = Selector::uncached(registry, Config::default());
/// // The call to a selected node is in flight until `finish`, or until it is dropped.
/// let busy = selector.select("greeter").await?.next().ok_or("no node")?;
/// for _ in 0..10 {
///     let idle = selector.select("greeter").await?.next().ok_or("no node")?;
///     assert_ne!(idle.node().address, busy.node().address);
/// }
/// # Ok(()) }
/// ```
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
        let Some((a, b)) = two_of(ready.len()) else {
            return 0;
        };
        if ready.load(b) < ready.load(a) { b } else { a }
    }
}

/// Draws two distinct indices below `n`, each ordered pair with the same probability. Returns none
/// if `n` is below two.
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
            // The mean is 2 000, the standard deviation 40. The bounds are six deviations, with a
            // fixed seed.
            let counts = shares(strategy, &ready, 10_000);
            assert!(
                counts.iter().all(|n| (1_760..2_240).contains(n)),
                "{}: {counts:?}",
                strategy.name()
            );
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
