//! Cost of a fleet by its number of processes, and its recovery from faults: `cargo xtask
//! etcd-fleet`. Handles in a few processes stand for the processes of a fleet.

pub(crate) mod bare_process;
mod counters;
pub(crate) mod follower;
pub(crate) mod proof;
pub(crate) mod recovery;
pub(crate) mod rest;
