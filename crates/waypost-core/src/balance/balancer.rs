//! Balancer, one per service and channel configuration: holds the ready set, and picks.

use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::time::Instant;

use super::strategy::PeerStates;
use super::{BuildContext, Filters, LeastRequest, PickContext, Picker, Random, ReadySet, Strategy};
use crate::panics::{Panicked, contain};
use crate::peer::{AttemptObserver, Finished, LoadTable, Peer};

static DEFAULT_STRATEGY: LazyLock<Arc<dyn Strategy>> = LazyLock::new(|| Arc::new(LeastRequest));

/// Load-balancing settings of a channel or selector: filters, strategy, maximum number of nodes. Channels of a client with an equal configuration share
/// one balancer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Conditions that a node must meet to be used at all.
    pub filters: Filters,
    /// Load-balancing strategy. Default [`LeastRequest`].
    pub strategy: Arc<dyn Strategy>,
    /// Maximum number of nodes to which a client connects. Of a larger service it connects to a
    /// subset. Default 100.
    pub max_peers: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            filters: Filters::default(),
            strategy: Arc::clone(&DEFAULT_STRATEGY),
            max_peers: 100,
        }
    }
}

impl Config {
    /// Returns true if both configurations pick alike: equal filters (predicates by identity), the
    /// same strategy object, the same limit.
    pub fn is_same(&self, other: &Self) -> bool {
        self.max_peers == other.max_peers
            && Arc::ptr_eq(&self.strategy, &other.strategy)
            && self.filters == other.filters
    }
}

/// Item that can be picked: it has a peer, as the connections of a node have.
pub trait Pickable: Send + Sync + 'static {
    /// Returns the peer of the item.
    fn peer(&self) -> &Arc<Peer>;
}

struct Ready<P> {
    items: Vec<Arc<P>>,
    set: ReadySet,
    picker: Box<dyn Picker>,
}

/// Balancer of the ready peers of one service, with one channel's configuration.
///
/// A transport publishes its ready connections, and picks one for each attempt:
///
/// ```
/// use std::sync::Arc;
/// use tokio::time::Instant;
/// use waypost_core::balance::{Balancer, Config, PickContext, Pickable};
/// use waypost_core::peer::{AttemptEnd, Finished, LoadTable, Peer};
/// # use waypost_core::record::{Node, Service};
/// # let mut service = Service::new("greeter");
/// # service.nodes.push(Node::with_id("greeter", "a", "10.0.0.7:9001"));
/// # let entry = service.entries().remove(0);
///
/// struct Connection(Arc<Peer>);
/// impl Pickable for Connection {
///     fn peer(&self) -> &Arc<Peer> {
///         &self.0
///     }
/// }
///
/// let (loads, now) = (LoadTable::default(), Instant::now());
/// let balancer = Balancer::new(Config::default(), loads.clone());
/// let connection = Arc::new(Connection(Arc::new(Peer::new(entry, &loads, now))));
/// balancer.publish(now, vec![(connection, now)])?;
///
/// let context = PickContext::new("/greeter.Greeter/Hello", now);
/// let mut pick = balancer.pick(&context, |_| true).ok_or("no ready peer")?;
/// assert_eq!(pick.item().peer().stats().in_flight(), 1);
/// pick.finish(&Finished::new(now, Instant::now(), AttemptEnd::Answered));
/// # assert_eq!(balancer.ready()[0].peer().stats().in_flight(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Balancer<P> {
    config: Config,
    loads: LoadTable,
    ready: ArcSwap<Ready<P>>,
    states: Mutex<PeerStates>,
    changed: watch::Sender<u64>,
}

impl<P> fmt::Debug for Balancer<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Balancer")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl<P: Pickable> Balancer<P> {
    /// Creates a balancer without ready peers. The stats of peers published later must be in
    /// `loads`.
    pub fn new(config: Config, loads: LoadTable) -> Self {
        let ready = Ready {
            items: Vec::new(),
            set: ReadySet::default(),
            picker: Box::new(Random),
        };
        Self {
            config,
            loads,
            ready: ArcSwap::from_pointee(ready),
            states: Mutex::default(),
            changed: watch::channel(0).0,
        }
    }

    /// Returns the configuration of the balancer.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Publishes the ready peers, each with the time since which it has been ready. Calls that wait
    /// for a change are woken if the set differs from the previous one. Costs one build of the
    /// strategy.
    ///
    /// # Errors
    /// [`Panicked`] if the strategy panicked. The peers are then picked at random until a later
    /// call succeeds.
    pub fn publish(&self, now: Instant, ready: Vec<(Arc<P>, Instant)>) -> Result<(), Panicked> {
        let set = ReadySet::new(
            &self.loads,
            ready
                .iter()
                .map(|(item, since)| (Arc::clone(item.peer()), *since)),
        );
        let items: Vec<_> = ready.into_iter().map(|(item, _)| item).collect();
        let old = self.ready.load();
        let same = old.items.len() == items.len()
            && old.items.iter().zip(&items).all(|(a, b)| Arc::ptr_eq(a, b));
        let built = self.build(now, &set);
        let (picker, result) = match built {
            Ok(picker) => (picker, Ok(())),
            Err(panicked) => (Box::new(Random) as Box<dyn Picker>, Err(panicked)),
        };
        self.ready.store(Arc::new(Ready { items, set, picker }));
        if !same {
            self.changed.send_modify(|generation| *generation += 1);
        }
        result
    }

    fn build(&self, now: Instant, set: &ReadySet) -> Result<Box<dyn Picker>, Panicked> {
        if set.is_empty() {
            return Ok(Box::new(Random));
        }
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        contain(|| {
            self.config
                .strategy
                .build(set, &mut BuildContext::new(now, &mut states))
        })
    }

    /// Picks one of the ready peers that `usable` accepts, and counts it as in flight. Returns none
    /// if there is no such peer.
    pub fn pick(
        &self,
        context: &PickContext<'_>,
        mut usable: impl FnMut(&Arc<P>) -> bool,
    ) -> Option<Pick<P>> {
        let ready = self.ready.load();
        let n = ready.items.len();
        if n == 0 {
            return None;
        }
        // The picker's choice is nearly always usable. If it is not, the picker chooses once more,
        // and the first usable peer from there on is taken.
        let first = ready.choose(context);
        let chosen = if usable(&ready.items[first]) {
            first
        } else {
            let start = ready.choose(context);
            (0..n)
                .map(|i| (start + i) % n)
                .find(|&i| usable(&ready.items[i]))?
        };
        let observer = contain(|| ready.picker.observer(chosen)).ok().flatten();
        Some(Pick::new(Arc::clone(&ready.items[chosen]), observer))
    }

    /// Returns the number of ready peers.
    pub fn ready_count(&self) -> usize {
        self.ready.load().items.len()
    }

    /// Returns the ready peers.
    pub fn ready(&self) -> Vec<Arc<P>> {
        self.ready.load().items.clone()
    }

    /// Returns a receiver that is notified when the ready set changes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

impl<P> Ready<P> {
    fn choose(&self, context: &PickContext<'_>) -> usize {
        let n = self.items.len();
        contain(|| self.picker.pick(&self.set, context))
            .map_or_else(|_| fastrand::usize(..n), |index| index % n)
    }
}

/// Guard of a picked peer, which counts as in flight until the guard is finished or dropped. If it
/// is dropped without [`finish`](Pick::finish), the attempt counts as never sent.
pub struct Pick<P: Pickable> {
    item: Arc<P>,
    observer: Option<Arc<dyn AttemptObserver>>,
    in_flight: bool,
}

impl<P: Pickable> Pick<P> {
    fn new(item: Arc<P>, observer: Option<Arc<dyn AttemptObserver>>) -> Self {
        item.peer().stats().begin();
        Self {
            item,
            observer,
            in_flight: true,
        }
    }

    /// Returns the picked item.
    pub fn item(&self) -> &Arc<P> {
        &self.item
    }

    /// Ends the attempt, and notifies the stats and the picker's observer. Later calls have no
    /// effect.
    pub fn finish(&mut self, finished: &Finished) {
        if !std::mem::take(&mut self.in_flight) {
            return;
        }
        self.item.peer().stats().finish(finished);
        if let Some(observer) = self.observer.take()
            && let Err(panicked) = contain(|| observer.finished(finished))
        {
            tracing::warn!(%panicked, "attempt observer of the strategy panicked");
        }
    }
}

impl<P: Pickable> fmt::Debug for Pick<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pick")
            .field("peer", self.item.peer().id())
            .finish_non_exhaustive()
    }
}

impl<P: Pickable> Drop for Pick<P> {
    fn drop(&mut self) {
        if self.in_flight {
            self.item.peer().stats().abandon();
        }
    }
}

#[cfg(test)]
mod tests;
