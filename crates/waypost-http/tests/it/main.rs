//! Integration tests of this crate in one binary: real h2 servers on a network in memory, in paused
//! time.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(
    clippy::disallowed_methods,
    reason = "the network's tasks end with the runtime of their test"
)]
mod absences;
mod budgets;
mod cancels;
mod capacity;
mod direct;
mod drops;
mod errors;
mod events;
mod fairness;
mod filters;
mod freezing;
mod hostile_peers;
mod hostility;
mod idle;
mod log;
mod logs;
mod many;
mod mistakes;
mod moves;
mod net;
mod outcomes;
mod panics;
mod pings;
mod raw;
mod refusals;
mod runtimes;
mod settings;
mod subscriptions;
mod subsets;
mod support;
mod waits;
