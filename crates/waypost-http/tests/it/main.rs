//! One binary for all integration tests of this crate: real h2 servers on a network in memory, in paused time.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(clippy::disallowed_methods, reason = "the network's tasks end with the runtime of their test")]

mod absences;
mod budgets;
mod drops;
mod events;
mod hostile_peers;
mod hostility;
mod many;
mod moves;
mod net;
mod pings;
mod shares;
mod single;
mod subscriptions;
mod waits;
