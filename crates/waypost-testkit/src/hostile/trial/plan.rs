//! Plan of a trial: all choices that its seed determines.

use std::fmt;
use std::time::Duration;

use crate::hostile::Behavior;

/// Permission for the connector of a trial to panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Panics {
    /// Panics in one trial of four, as the seed draws.
    Drawn,
    /// No panics.
    Never,
}

/// Random choices of one trial.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Plan {
    /// Seed of all choices.
    pub seed: u64,
    /// Behaviors that each server draws from, one list per server; a list with only `Well` is a
    /// well server.
    pub servers: Vec<Vec<Behavior>>,
    /// Number of known nodes that the channel does not use; they make each event more expensive.
    pub unused_nodes: usize,
    /// Share of connection attempts whose connector panics, in percent.
    pub panics_percent: u8,
    /// Number of callers, each with one call at a time.
    pub callers: usize,
    /// Time for which the servers misbehave.
    pub hostility: Duration,
    /// Outages of the formerly hostile servers, one after another, once all are well and nothing
    /// else happens.
    pub outages: Vec<Duration>,
    /// True if everything runs on one thread, where a connection may open and close before another
    /// task observes it; otherwise there are two threads, so that tasks run in parallel.
    pub one_thread: bool,
}

impl Plan {
    /// Draws a plan; the same seed gives the same plan.
    pub fn draw(seed: u64, panics: Panics) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let well = (0..rng.usize(1..=3))
            .map(|_| vec![Behavior::Well])
            .collect::<Vec<_>>();
        let hostile = (0..rng.usize(1..=4))
            .map(|_| behaviors(&mut rng))
            .collect::<Vec<_>>();
        let unused_nodes = *rng.choice(&[0, 200, 2_000]).unwrap_or(&0);
        let panics_percent = *rng.choice(&[0, 0, 0, 30]).unwrap_or(&0);
        let outages = hostile
            .iter()
            .map(|_| Duration::from_millis(rng.u64(50..300)))
            .collect();
        Self {
            seed,
            servers: [well, hostile].concat(),
            unused_nodes,
            panics_percent: if panics == Panics::Drawn {
                panics_percent
            } else {
                0
            },
            callers: rng.usize(1..=4),
            hostility: Duration::from_millis(rng.u64(1_000..2_500)),
            outages,
            one_thread: rng.bool(),
        }
    }
}

/// Draws one to three of the hostile behaviors, and sometimes the well one too.
fn behaviors(rng: &mut fastrand::Rng) -> Vec<Behavior> {
    let hostile = &Behavior::ALL[1..];
    let mut drawn = rng.choose_multiple(hostile.iter().copied(), rng.clone().usize(1..=3));
    if rng.bool() {
        drawn.push(Behavior::Well);
    }
    drawn
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let server = |behaviors: &Vec<Behavior>| {
            behaviors
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("/")
        };
        let servers: Vec<_> = self.servers.iter().map(server).collect();
        write!(
            f,
            "seed {}: servers [{}], {} unused nodes, {} % of dials panic, {} callers, hostile for {:?}, then down for {:?}, {}",
            self.seed,
            servers.join(", "),
            self.unused_nodes,
            self.panics_percent,
            self.callers,
            self.hostility,
            self.outages,
            if self.one_thread {
                "one thread"
            } else {
                "two threads"
            }
        )
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_seed_decides_everything() {
        assert_eq!(Plan::draw(5, Panics::Drawn), Plan::draw(5, Panics::Drawn));
        assert_ne!(Plan::draw(5, Panics::Drawn), Plan::draw(6, Panics::Drawn));
    }

    #[test]
    fn a_hundred_seeds_draw_every_behavior_and_panic_only_if_allowed() {
        let plans: Vec<_> = (0..100)
            .map(|seed| Plan::draw(seed, Panics::Drawn))
            .collect();
        let drawn: HashSet<_> = plans
            .iter()
            .flat_map(|plan| plan.servers.concat())
            .map(|b| b.to_string())
            .collect();
        assert_eq!(drawn.len(), Behavior::ALL.len());
        assert!(plans.iter().any(|plan| plan.panics_percent > 0));
        assert!((0..100).all(|seed| Plan::draw(seed, Panics::Never).panics_percent == 0));
    }
}
