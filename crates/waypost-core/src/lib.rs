//! The words of Waypost, the contract of a registry, and the logic of both sides of it.
//!
//! The rooms, each importing only those before it: [`record`] (words and go-micro's JSON), [`panics`] (containment of users' code), [`registry`]
//! (the contract, its events, the erased handle), [`backoff`], [`memory`] and [`fixed`] (two registries without a server), [`registrar`] (keeps one
//! registration true), [`directory`] (the client's view), [`peer`] (what a client knows of one node that it uses), [`balance`] (which node is
//! picked).
//!
//! This crate never knows sockets, HTTP, etcd, tonic, the environment, or the wall clock: time and chance are arguments, and drivers
//! use tokio's clock, which a test can pause.

pub mod backoff;
pub mod balance;
pub mod directory;
pub mod fixed;
pub mod memory;
pub mod panics;
pub mod peer;
pub mod record;
pub mod registrar;
pub mod registry;
