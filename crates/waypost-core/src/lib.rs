//! The words of Waypost, the promise a registry keeps, and the brain on both sides of it.
//!
//! The rooms, each importing only those before it: [`record`] (words and go-micro's JSON), [`registry`] (the promise, its events, the
//! erased handle), [`backoff`], [`memory`] and [`fixed`] (two registries without a server), [`registrar`] (keeps one registration true),
//! [`directory`] (the client's picture), [`peer`] (what a client knows of one node), [`balance`] (who is picked), [`attempt`] (what may
//! be tried again).
//!
//! This crate never knows sockets, HTTP, etcd, tonic, the environment, or the wall clock: time and chance are arguments, and drivers
//! use tokio's clock, which a test can pause.

pub mod attempt;
pub mod backoff;
pub mod balance;
pub mod directory;
pub mod fixed;
pub mod memory;
pub mod peer;
pub mod record;
pub mod registrar;
pub mod registry;
