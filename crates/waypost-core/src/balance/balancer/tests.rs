use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::*;
use crate::balance::testing::{Own, peers};
use crate::peer::AttemptEnd;

fn context<'a>() -> PickContext<'a> {
    PickContext::new("/a.B/C", Instant::now())
}

fn balancer(strategy: impl Strategy) -> (Balancer<Own>, LoadTable) {
    let loads = LoadTable::default();
    (
        Balancer::new(
            Config {
                strategy: Arc::new(strategy),
                ..Config::default()
            },
            loads.clone(),
        ),
        loads,
    )
}

fn finished(end: AttemptEnd, ms: u64) -> Finished {
    let now = Instant::now();
    let took = Duration::from_millis(ms);
    Finished {
        head_at: Some(now + took),
        ..Finished::new(now, now + took, end)
    }
}

#[test]
fn only_the_ready_are_picked_and_counted_until_the_pick_ends() {
    let (balancer, loads) = balancer(LeastRequest);
    assert!(balancer.pick(&context(), |_| true).is_none());
    let peers = peers(1, &loads);
    let stats = Arc::clone(&peers[0].0.0);
    balancer.publish(Instant::now(), peers).unwrap();
    let mut pick = balancer.pick(&context(), |_| true).unwrap();
    assert_eq!(stats.stats().in_flight(), 1);
    pick.finish(&finished(AttemptEnd::NodeFailed, 1));
    drop(balancer.pick(&context(), |_| true).unwrap());
    assert_eq!(
        (
            stats.stats().in_flight(),
            stats.stats().failed(),
            stats.stats().attempts()
        ),
        (0, 1, 1)
    );
}

#[test]
fn a_peer_that_may_not_be_used_again_is_passed_over() {
    let (balancer, loads) = balancer(LeastRequest);
    balancer.publish(Instant::now(), peers(3, &loads)).unwrap();
    let mut tried: Vec<Arc<Own>> = Vec::new();
    for _ in 0..3 {
        let pick = balancer
            .pick(&context(), |peer| {
                !tried.iter().any(|t| Arc::ptr_eq(t, peer))
            })
            .unwrap();
        tried.push(Arc::clone(pick.item()));
    }
    assert!(
        balancer
            .pick(&context(), |peer| !tried
                .iter()
                .any(|t| Arc::ptr_eq(t, peer)))
            .is_none()
    );
}

#[test]
fn a_change_of_the_ready_set_is_signalled_and_nothing_else() {
    let (balancer, loads) = balancer(LeastRequest);
    let mut changes = balancer.changes();
    let peers = peers(2, &loads);
    balancer.publish(Instant::now(), peers.clone()).unwrap();
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    balancer.publish(Instant::now(), peers).unwrap();
    assert!(!changes.has_changed().unwrap());
}

#[derive(Debug, Default)]
struct Panicking {
    builds: AtomicU32,
}

impl Strategy for Panicking {
    fn name(&self) -> &'static str {
        "panicking"
    }

    fn build(&self, _: &ReadySet, _: &mut BuildContext<'_>) -> Box<dyn Picker> {
        assert!(self.builds.fetch_add(1, Relaxed) > 0, "the first build");
        struct Panics;
        impl Picker for Panics {
            fn pick(&self, _: &ReadySet, _: &PickContext<'_>) -> usize {
                panic!("a pick")
            }
            fn observer(&self, _: usize) -> Option<Arc<dyn AttemptObserver>> {
                struct Observer;
                impl AttemptObserver for Observer {
                    fn finished(&self, _: &Finished) {
                        panic!("an observer")
                    }
                }
                Some(Arc::new(Observer))
            }
        }
        Box::new(Panics)
    }
}

#[test]
fn a_strategy_that_panics_loses_no_pick() {
    let (balancer, loads) = balancer(Panicking::default());
    let peers = peers(2, &loads);
    assert!(balancer.publish(Instant::now(), peers.clone()).is_err());
    balancer.pick(&context(), |_| true).unwrap();
    assert!(balancer.publish(Instant::now(), peers.clone()).is_ok());
    for _ in 0..10 {
        balancer
            .pick(&context(), |_| true)
            .unwrap()
            .finish(&finished(AttemptEnd::Answered, 1));
    }
    assert!(peers.iter().all(|(own, _)| own.0.stats().in_flight() == 0));
}

/// Peak EWMA as in Finagle, reduced to the parts that the traits must support: per-peer state,
/// failures as latency, load times cost.
#[derive(Debug)]
struct PeakEwma;

/// Cost of one peer in milliseconds, as the bits of an f32.
#[derive(Debug, Default)]
struct Cost(AtomicU32);

const PENALTY_MS: f32 = 5_000.0;
const DECAY: f32 = 10.0;

impl AttemptObserver for Cost {
    fn finished(&self, finished: &Finished) {
        let observed = match finished.end {
            AttemptEnd::LocalMistake | AttemptEnd::Cancelled => return,
            end if end.is_failure() => PENALTY_MS,
            _ => {
                finished
                    .first_byte()
                    .unwrap_or_else(|| finished.waited())
                    .as_secs_f32()
                    * 1_000.0
            }
        };
        let old = f32::from_bits(self.0.load(Relaxed));
        let weight = (-finished.waited().as_secs_f32() / DECAY).exp();
        let cost = if observed > old {
            observed
        } else {
            old * weight + observed * (1.0 - weight)
        };
        self.0.store(cost.to_bits(), Relaxed);
    }
}

impl Strategy for PeakEwma {
    fn name(&self) -> &'static str {
        "peak_ewma"
    }

    fn build(&self, ready: &ReadySet, context: &mut BuildContext<'_>) -> Box<dyn Picker> {
        let costs = (0..ready.len())
            .map(|i| context.peer_state(ready, i, Cost::default))
            .collect();
        struct Costs(Vec<Arc<Cost>>);
        impl Picker for Costs {
            fn pick(&self, ready: &ReadySet, _: &PickContext<'_>) -> usize {
                let score = |i: usize| {
                    f32::from_bits(self.0[i].0.load(Relaxed)) * (ready.load(i) + 1) as f32
                };
                (0..ready.len())
                    .min_by(|&a, &b| score(a).total_cmp(&score(b)))
                    .unwrap_or(0)
            }
            fn observer(&self, index: usize) -> Option<Arc<dyn AttemptObserver>> {
                Some(Arc::clone(&self.0[index]) as _)
            }
        }
        Box::new(Costs(costs))
    }
}

#[test]
fn peak_ewma_can_be_written_and_its_costs_survive_a_rebuild() {
    let (balancer, loads) = balancer(PeakEwma);
    let peers = peers(3, &loads);
    balancer
        .publish(Instant::now(), peers[..2].to_vec())
        .unwrap();
    let on = |wanted: usize| {
        let peer = Arc::clone(&peers[wanted].0);
        balancer
            .pick(&context(), move |own| Arc::ptr_eq(own, &peer))
            .unwrap()
    };
    on(0).finish(&finished(AttemptEnd::Answered, 80));
    on(1).finish(&finished(AttemptEnd::Answered, 20));
    on(2 - 1).finish(&finished(AttemptEnd::LocalMistake, 0));
    balancer
        .publish(Instant::now(), peers[..2].to_vec())
        .unwrap();
    let picked = || {
        let pick = balancer.pick(&context(), |_| true).unwrap();
        peers
            .iter()
            .position(|(own, _)| Arc::ptr_eq(own, pick.item()))
            .unwrap()
    };
    assert_eq!(
        picked(),
        1,
        "the faster one, across the rebuild; the caller's mistake does not count"
    );
    on(1).finish(&finished(AttemptEnd::NodeFailed, 1));
    assert_eq!(picked(), 0, "a fast failure costs");
    balancer
        .publish(Instant::now(), peers[1..].to_vec())
        .unwrap();
    balancer
        .publish(Instant::now(), peers[..2].to_vec())
        .unwrap();
    assert_eq!(
        picked(),
        0,
        "a peer that left and came back begins again; the other's failure is still known"
    );
}

/// Static stride scheduling over weights (gRFC A58), reduced to the parts that the traits must
/// support.
#[derive(Debug, Default)]
struct Weighted(Arc<AtomicU64>);

impl Strategy for Weighted {
    fn name(&self) -> &'static str {
        "weighted"
    }

    fn build(&self, ready: &ReadySet, _: &mut BuildContext<'_>) -> Box<dyn Picker> {
        let max = (0..ready.len()).map(|i| ready.weight(i)).max().unwrap_or(1);
        let weights = (0..ready.len())
            .map(|i| u64::from(ready.weight(i)) * 65_535 / u64::from(max))
            .collect();
        struct Stride(Vec<u64>, Arc<AtomicU64>);
        impl Picker for Stride {
            fn pick(&self, ready: &ReadySet, _: &PickContext<'_>) -> usize {
                loop {
                    let sequence = self.1.fetch_add(1, Relaxed);
                    let (index, round) = (
                        (sequence % ready.len() as u64) as usize,
                        sequence / ready.len() as u64,
                    );
                    let weight = self.0[index];
                    if (weight * round + weight / 2) % 65_535 >= 65_535 - weight {
                        return index;
                    }
                }
            }
        }
        Box::new(Stride(weights, Arc::clone(&self.0)))
    }
}

#[test]
fn a_weighted_strategy_can_be_written() {
    let loads = LoadTable::default();
    let mut entries = crate::balance::testing::entries(3);
    for (entry, weight) in entries.iter_mut().zip(["1", "2", "5"]) {
        Arc::make_mut(&mut entry.node)
            .metadata
            .insert(crate::record::keys::WEIGHT, weight);
    }
    let now = Instant::now();
    let peers: Vec<_> = entries
        .into_iter()
        .map(|entry| (Arc::new(Own(Arc::new(Peer::new(entry, &loads, now)))), now))
        .collect();
    let balancer = Balancer::new(
        Config {
            strategy: Arc::new(Weighted::default()),
            ..Config::default()
        },
        loads,
    );
    balancer.publish(now, peers.clone()).unwrap();
    let mut counts = [0; 3];
    for _ in 0..800 {
        let mut pick = balancer.pick(&context(), |_| true).unwrap();
        counts[peers
            .iter()
            .position(|(own, _)| Arc::ptr_eq(own, pick.item()))
            .unwrap()] += 1;
        pick.finish(&finished(AttemptEnd::Answered, 1));
    }
    let near = |count: i32, share: i32| (count - share).abs() <= 2;
    assert!(
        near(counts[0], 100) && near(counts[1], 200) && near(counts[2], 500),
        "{counts:?}"
    );
}
