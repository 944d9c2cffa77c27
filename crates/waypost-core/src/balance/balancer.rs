//! One per service and channel configuration: it says who may be picked, and picks.

use std::fmt;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use serde::{Serialize, Serializer};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Filters, LeastRequest, PickContext, Picker, Strategy, subset};
use crate::peer::{Connection, Exclusion, Membership, Outcome, Peer};
use crate::record::Entry;

/// How one channel picks.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Which nodes may be used at all.
    pub filters: Filters,
    /// How one is chosen.
    pub strategy: Arc<dyn Strategy>,
    /// To how many nodes a client connects at most; of a larger service it takes its share. Default 100.
    pub max_peers: usize,
    /// What this client's share is drawn from. Default random.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { filters: Filters::default(), strategy: Arc::new(LeastRequest), max_peers: 100, seed: fastrand::u64(..) }
    }
}

/// Whether a node is picked, and if not, why: decided, never observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is among the ready.
    Picked,
    /// It is not, for this reason.
    Excluded(Exclusion),
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Picked => f.write_str("picked"),
            Self::Excluded(exclusion) => exclusion.fmt(f),
        }
    }
}

impl Serialize for Decision {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What can be picked: something that has a peer, such as its connections.
pub trait Pickable: Send + Sync + 'static {
    /// The peer.
    fn peer(&self) -> &Arc<Peer>;
}

/// One node on offer to a balancer, and what speaks against it.
#[derive(Debug)]
pub struct Candidate<P> {
    /// What is picked.
    pub item: Arc<P>,
    /// Why it cannot be picked now, whatever the channel; none if it can.
    pub hindrance: Option<Exclusion>,
}

/// One node as a channel sees it: plain data for views.
#[derive(Clone, Debug, Serialize)]
pub struct NodeView {
    /// The node's id.
    pub id: String,
    /// The node's address.
    pub address: String,
    /// The service's version.
    pub version: String,
    /// The registry's word.
    pub membership: Membership,
    /// The best of its connections.
    pub connection: Connection,
    /// Picked, or why not.
    pub decision: Decision,
    /// For how long membership and connection are as they are, in milliseconds.
    pub since_ms: u64,
    /// Calls in flight.
    pub in_flight: u32,
    /// Calls made.
    pub calls: u64,
    /// Calls that the node failed.
    pub failed: u64,
    /// The median wait for an answer, in microseconds; none below 20 calls.
    pub p50_us: Option<u64>,
    /// The last thing that went wrong with a connection.
    pub last_failure: Option<Arc<str>>,
}

struct Ready<P> {
    items: Vec<Arc<P>>,
    peers: Vec<Arc<Peer>>,
    picker: Option<Box<dyn Picker>>,
    all: Vec<(Arc<Peer>, Decision)>,
}

/// Picks among the ready peers of one service, by one channel's configuration.
pub struct Balancer<P> {
    config: Config,
    ready: ArcSwap<Ready<P>>,
    changed: watch::Sender<u64>,
}

impl<P> fmt::Debug for Balancer<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Balancer").field("config", &self.config).finish_non_exhaustive()
    }
}

impl<P: Pickable> Balancer<P> {
    /// A balancer with nobody to pick.
    pub fn new(config: Config) -> Self {
        let ready = Ready { items: Vec::new(), peers: Vec::new(), picker: None, all: Vec::new() };
        Self { config, ready: ArcSwap::from_pointee(ready), changed: watch::channel(0).0 }
    }

    /// Which of these nodes this channel uses: those that pass its filters, and of these its share.
    pub fn admit<'a>(&self, entries: impl Iterator<Item = &'a Entry>) -> Vec<Result<(), Exclusion>> {
        let entries: Vec<_> = entries.collect();
        let mut verdicts: Vec<_> = entries.iter().map(|entry| self.config.filters.check(entry)).collect();
        let passing: Vec<_> = (0..entries.len()).filter(|&i| verdicts[i].is_ok()).collect();
        if passing.len() > self.config.max_peers {
            let ids = passing.iter().map(|&i| entries[i].node.id.as_str());
            let share = subset::rendezvous(self.config.seed, ids, self.config.max_peers);
            for &i in &passing {
                verdicts[i] = Err(Exclusion::OutsideSubset);
            }
            for i in share {
                verdicts[passing[i]] = Ok(());
            }
        }
        verdicts
    }

    /// Publishes who may be picked now. Whoever waits is woken if the ready set is another than before.
    pub fn publish(&self, candidates: Vec<Candidate<P>>) {
        let decision = |candidate: &Candidate<P>| candidate.hindrance.map_or(Decision::Picked, Decision::Excluded);
        let all = candidates.iter().map(|candidate| (Arc::clone(candidate.item.peer()), decision(candidate))).collect();
        let items: Vec<_> =
            candidates.into_iter().filter(|candidate| candidate.hindrance.is_none()).map(|candidate| candidate.item).collect();
        let peers: Vec<_> = items.iter().map(|item| Arc::clone(item.peer())).collect();
        let old = self.ready.load();
        let same = old.peers.len() == peers.len() && old.peers.iter().zip(&peers).all(|(a, b)| Arc::ptr_eq(a, b));
        let picker = (!peers.is_empty()).then(|| self.config.strategy.build(&peers));
        self.ready.store(Arc::new(Ready { items, peers, picker, all }));
        if !same {
            self.changed.send_modify(|generation| *generation += 1);
        }
    }

    /// One of the ready peers that `usable` allows, counted as in flight from now on; none if there is none.
    pub fn pick(&self, context: &PickContext<'_>, mut usable: impl FnMut(&Arc<P>) -> bool) -> Option<Pick<P>> {
        let ready = self.ready.load();
        let picker = ready.picker.as_ref()?;
        let n = ready.items.len();
        let first = picker.pick(&ready.peers, context) % n;
        // The picker's choice is nearly always usable; where it is not, one more choice, then whoever comes next.
        let second = || picker.pick(&ready.peers, context) % n;
        let chosen = if usable(&ready.items[first]) {
            first
        } else {
            let start = second();
            (0..n).map(|i| (start + i) % n).find(|&i| usable(&ready.items[i]))?
        };
        Some(Pick::new(Arc::clone(&ready.items[chosen])))
    }

    /// How many may be picked now.
    pub fn ready_count(&self) -> usize {
        self.ready.load().items.len()
    }

    /// Resolves whenever the ready set has changed since the receiver last looked.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Every node it knows, with the decision and its reason.
    pub fn decisions(&self) -> Vec<(Arc<Peer>, Decision)> {
        self.loaded().all.clone()
    }

    /// Every node it knows, as plain data.
    pub fn view(&self, now: Instant) -> Vec<NodeView> {
        self.loaded().all.iter().map(|(peer, decision)| NodeView::of(peer, *decision, now)).collect()
    }

    fn loaded(&self) -> Guard<Arc<Ready<P>>> {
        self.ready.load()
    }
}

impl NodeView {
    fn of(peer: &Peer, decision: Decision, now: Instant) -> Self {
        let status = peer.status();
        let entry = peer.entry();
        let meters = peer.meters();
        Self {
            id: entry.node.id.clone(),
            address: entry.node.address.clone(),
            version: entry.head.version.clone(),
            membership: status.membership,
            connection: status.connection,
            decision,
            since_ms: u64::try_from(now.saturating_duration_since(status.since).as_millis()).unwrap_or(u64::MAX),
            in_flight: meters.in_flight(),
            calls: meters.calls(),
            failed: meters.failed(),
            p50_us: meters.p50().and_then(|p50| u64::try_from(p50.as_micros()).ok()),
            last_failure: status.last_failure,
        }
    }
}

/// A peer that was picked, in flight until this is dropped. Tell it how the attempt ended; untold, the caller went away.
#[derive(Debug)]
pub struct Pick<P: Pickable> {
    item: Arc<P>,
    outcome: Option<Outcome>,
}

impl<P: Pickable> Pick<P> {
    fn new(item: Arc<P>) -> Self {
        item.peer().meters().begin();
        Self { item, outcome: Some(Outcome::Cancelled) }
    }

    /// What was picked.
    pub fn item(&self) -> &Arc<P> {
        &self.item
    }

    /// Notes how the attempt ended.
    pub fn ended(&mut self, outcome: Outcome) {
        self.outcome = Some(outcome);
    }

    /// Leaves it in flight: somebody else will end it.
    pub(super) fn leave_in_flight(mut self) {
        self.outcome = None;
    }
}

impl<P: Pickable> Drop for Pick<P> {
    fn drop(&mut self) {
        if let Some(outcome) = self.outcome {
            self.item.peer().meters().end(outcome);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::Filter;
    use crate::record::{Node, Service};

    struct Own(Arc<Peer>);

    impl Pickable for Own {
        fn peer(&self) -> &Arc<Peer> {
            &self.0
        }
    }

    fn entries(n: usize) -> Vec<Entry> {
        let mut service = Service::new("greeter");
        for i in 0..n {
            let mut node = Node::with_id("greeter", &i.to_string(), "127.0.0.1:1");
            node.metadata.insert("zone", if i % 2 == 0 { "even" } else { "odd" });
            service.nodes.push(node);
        }
        service.entries()
    }

    fn candidates(entries: &[Entry], hindered: &[usize]) -> Vec<Candidate<Own>> {
        let peer = |entry: &Entry| Arc::new(Own(Arc::new(Peer::new(entry.clone(), Instant::now()))));
        let hindrance = |i| hindered.contains(&i).then_some(Exclusion::NotConnected);
        entries.iter().enumerate().map(|(i, entry)| Candidate { item: peer(entry), hindrance: hindrance(i) }).collect()
    }

    #[test]
    fn filters_come_before_the_share() {
        let config = Config {
            filters: Filters::default().and(Filter::Label("zone".into(), "even".into())),
            max_peers: 3,
            seed: 1,
            ..Config::default()
        };
        let verdicts = Balancer::<Own>::new(config).admit(entries(10).iter());
        let count = |verdict| verdicts.iter().filter(|v| **v == verdict).count();
        assert_eq!((count(Ok(())), count(Err(Exclusion::Label)), count(Err(Exclusion::OutsideSubset))), (3, 5, 2));
    }

    #[test]
    fn only_the_ready_are_picked_and_counted_until_the_pick_ends() {
        let balancer = Balancer::new(Config::default());
        let context = PickContext::new("/a.B/C");
        assert!(balancer.pick(&context, |_| true).is_none());
        let candidates = candidates(&entries(3), &[0, 2]);
        let ready = Arc::clone(candidates[1].item.peer());
        balancer.publish(candidates);
        let mut pick = balancer.pick(&context, |_| true).unwrap();
        assert!(Arc::ptr_eq(pick.item().peer(), &ready));
        assert_eq!(ready.meters().in_flight(), 1);
        pick.ended(Outcome::Failed);
        drop(pick);
        assert_eq!((ready.meters().in_flight(), ready.meters().failed()), (0, 1));
        let reasons: Vec<_> = balancer.decisions().iter().map(|(_, decision)| decision.to_string()).collect();
        assert_eq!(reasons, ["not_connected", "picked", "not_connected"]);
    }

    #[test]
    fn a_peer_that_may_not_be_used_again_is_passed_over() {
        let balancer = Balancer::new(Config::default());
        balancer.publish(candidates(&entries(3), &[]));
        let context = PickContext::default();
        let mut tried: Vec<Arc<Own>> = Vec::new();
        for _ in 0..3 {
            let pick = balancer.pick(&context, |peer| !tried.iter().any(|t| Arc::ptr_eq(t, peer))).unwrap();
            tried.push(Arc::clone(pick.item()));
        }
        assert!(balancer.pick(&context, |peer| !tried.iter().any(|t| Arc::ptr_eq(t, peer))).is_none());
    }

    #[test]
    fn waiters_are_woken_only_by_another_ready_set() {
        let balancer = Balancer::new(Config::default());
        let mut changes = balancer.changes();
        changes.mark_unchanged();
        let again = |all: &[Candidate<Own>]| -> Vec<_> {
            all.iter().map(|one| Candidate { item: Arc::clone(&one.item), hindrance: one.hindrance }).collect()
        };
        let entries = candidates(&entries(2), &[1]);
        balancer.publish(again(&entries));
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        balancer.publish(entries);
        assert!(!changes.has_changed().unwrap());
    }
}
