//! Effects of faults of etcd, of the network and of other clients on registrations and snapshots.
//! After each fault all must recover without intervention, and meanwhile no node may be missing
//! from the client's snapshots. The figures of each fault are reported. Tests that take minutes run
//! in `cargo xtask etcd-faults`.

mod access;
mod cluster;
mod history;
mod keys;
mod members;
mod outages;
mod processes;
mod quorum;
