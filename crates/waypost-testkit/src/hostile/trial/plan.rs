//! All that a seed decides about a trial.

use std::fmt;
use std::time::Duration;

use crate::hostile::Behavior;

/// Whether the connector of a trial may panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Panics {
    /// In one trial of four, as its seed draws.
    Drawn,
    /// Never.
    Never,
}

/// Everything that was drawn for one trial.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// The behaviours that each server draws from, one list a server; a list with `Well` alone is a well server.
    pub servers: Vec<Vec<Behavior>>,
    /// Nodes that are known besides and that the channel does not use: an event costs more with them.
    pub unused_nodes: usize,
    /// Share of connection attempts whose connector panics, in percent.
    pub panics_percent: u8,
    /// Callers, each with one call at a time.
    pub callers: usize,
    /// How long the servers misbehave.
    pub hostility: Duration,
    /// Outages of the servers that were hostile, one after another once all are well and nothing else happens.
    pub outages: Vec<Duration>,
    /// Whether all run on one thread, where a connection may begin and end before anybody looks at it; otherwise on two, where tasks meet.
    pub one_thread: bool,
}

impl Plan {
    /// Draws a plan; the same seed gives the same one.
    pub fn draw(seed: u64, panics: Panics) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let well = (0..rng.usize(1..=3)).map(|_| vec![Behavior::Well]).collect::<Vec<_>>();
        let hostile = (0..rng.usize(1..=4)).map(|_| behaviors(&mut rng)).collect::<Vec<_>>();
        let unused_nodes = *rng.choice(&[0, 200, 2_000]).unwrap_or(&0);
        let panics_percent = *rng.choice(&[0, 0, 0, 30]).unwrap_or(&0);
        let outages = hostile.iter().map(|_| Duration::from_millis(rng.u64(50..300))).collect();
        Self {
            seed,
            servers: [well, hostile].concat(),
            unused_nodes,
            panics_percent: if panics == Panics::Drawn { panics_percent } else { 0 },
            callers: rng.usize(1..=4),
            hostility: Duration::from_millis(rng.u64(1_000..2_500)),
            outages,
            one_thread: rng.bool(),
        }
    }
}

/// One to three of the hostile behaviours, and sometimes a connection that is well.
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
        let server = |behaviors: &Vec<Behavior>| behaviors.iter().map(ToString::to_string).collect::<Vec<_>>().join("/");
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
            if self.one_thread { "one thread" } else { "two threads" }
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
        let plans: Vec<_> = (0..100).map(|seed| Plan::draw(seed, Panics::Drawn)).collect();
        let drawn: HashSet<_> = plans.iter().flat_map(|plan| plan.servers.concat()).map(|b| b.to_string()).collect();
        assert_eq!(drawn.len(), Behavior::ALL.len());
        assert!(plans.iter().any(|plan| plan.panics_percent > 0));
        assert!((0..100).all(|seed| Plan::draw(seed, Panics::Never).panics_percent == 0));
    }
}
