//! How one of the ready peers is chosen.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::peer::Peer;

/// What a picker may know of a call.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct PickContext<'a> {
    /// The full path of the method, `/package.Service/Method`.
    pub path: &'a str,
}

impl<'a> PickContext<'a> {
    /// A call of the method at `path`.
    pub fn new(path: &'a str) -> Self {
        Self { path }
    }
}

/// Builds a picker whenever the ready set changes. Called by one task at a time; may take its time, but not block.
pub trait Strategy: Debug + Send + Sync + 'static {
    /// What it is called in logs and views.
    fn name(&self) -> &'static str;

    /// A picker over these peers, never empty. What must outlive a change of the set lives in the peers or in the strategy.
    fn build(&self, ready: &[Arc<Peer>]) -> Box<dyn Picker>;
}

impl<S: Strategy + ?Sized> Strategy for Arc<S> {
    fn name(&self) -> &'static str {
        (**self).name()
    }

    fn build(&self, ready: &[Arc<Peer>]) -> Box<dyn Picker> {
        (**self).build(ready)
    }
}

/// Picks, per attempt, from many tasks at once: no lock, no clock, no I/O.
pub trait Picker: Send + Sync {
    /// The index of one of `ready`, the very slice the picker was built for; one out of range counts modulo its length.
    fn pick(&self, ready: &[Arc<Peer>], context: &PickContext<'_>) -> usize;
}

/// Each peer with the same chance.
#[derive(Clone, Copy, Debug, Default)]
pub struct Random;

impl Strategy for Random {
    fn name(&self) -> &'static str {
        "random"
    }

    fn build(&self, _: &[Arc<Peer>]) -> Box<dyn Picker> {
        Box::new(Self)
    }
}

impl Picker for Random {
    fn pick(&self, ready: &[Arc<Peer>], _: &PickContext<'_>) -> usize {
        fastrand::usize(..ready.len())
    }
}

/// One after the other. The turn belongs to the service, not to the call, and outlives changes of the set.
#[derive(Clone, Debug, Default)]
pub struct RoundRobin(Arc<AtomicUsize>);

impl Strategy for RoundRobin {
    fn name(&self) -> &'static str {
        "round_robin"
    }

    fn build(&self, _: &[Arc<Peer>]) -> Box<dyn Picker> {
        Box::new(self.clone())
    }
}

impl Picker for RoundRobin {
    fn pick(&self, ready: &[Arc<Peer>], _: &PickContext<'_>) -> usize {
        self.0.fetch_add(1, Relaxed) % ready.len()
    }
}

/// Two distinct peers at random, and of these the one with fewer calls in flight (gRFC A48, but without replacement, so that a frozen node
/// is picked only when it is the last). The default.
#[derive(Clone, Copy, Debug, Default)]
pub struct LeastRequest;

impl Strategy for LeastRequest {
    fn name(&self) -> &'static str {
        "least_request"
    }

    fn build(&self, _: &[Arc<Peer>]) -> Box<dyn Picker> {
        Box::new(Self)
    }
}

impl Picker for LeastRequest {
    fn pick(&self, ready: &[Arc<Peer>], _: &PickContext<'_>) -> usize {
        let Some((a, b)) = two_of(ready.len()) else { return 0 };
        let load = |i: usize| ready[i].meters().in_flight();
        if load(b) < load(a) { b } else { a }
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
    use crate::record::{Node, Service};

    fn peers(n: usize) -> Vec<Arc<Peer>> {
        let now = tokio::time::Instant::now();
        let mut service = Service::new("greeter");
        for i in 0..n {
            service.nodes.push(Node::with_id("greeter", &i.to_string(), "127.0.0.1:1"));
        }
        service.entries().into_iter().map(|entry| Arc::new(Peer::new(entry, now))).collect()
    }

    fn shares(strategy: &dyn Strategy, peers: &[Arc<Peer>], picks: usize) -> Vec<usize> {
        let picker = strategy.build(peers);
        let mut counts = vec![0; peers.len()];
        for _ in 0..picks {
            counts[picker.pick(peers, &PickContext::new("/a.B/C"))] += 1;
        }
        counts
    }

    #[test]
    fn random_and_least_request_share_evenly_when_idle() {
        fastrand::seed(42);
        let peers = peers(5);
        for strategy in [&Random as &dyn Strategy, &LeastRequest] {
            // Mean 2 000, standard deviation 40: six of them, with a fixed seed.
            let counts = shares(strategy, &peers, 10_000);
            assert!(counts.iter().all(|n| (1_760..2_240).contains(n)), "{}: {counts:?}", strategy.name());
        }
    }

    #[test]
    fn round_robin_is_exact_and_outlives_a_rebuild() {
        let peers = peers(3);
        let strategy = RoundRobin::default();
        assert_eq!(shares(&strategy, &peers, 4), [2, 1, 1]);
        assert_eq!(shares(&strategy, &peers, 2), [0, 1, 1]);
    }

    #[test]
    fn least_request_never_picks_the_busiest_of_several() {
        let peers = peers(4);
        peers[2].meters().begin();
        assert_eq!(shares(&LeastRequest, &peers, 1_000)[2], 0);
        assert_eq!(shares(&LeastRequest, &peers[2..3], 3), [3]);
    }
}
