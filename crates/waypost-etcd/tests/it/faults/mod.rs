//! What etcd, the network and others do to registrations and pictures. After each fault everything must be well again by itself, and
//! meanwhile the client must never have lost sight of a node. What each has cost is reported; what takes minutes is left to
//! `cargo xtask etcd-faults`.

mod access;
mod cluster;
mod history;
mod keys;
mod members;
mod outages;
mod processes;
mod quorum;
