//! Types of Waypost's records, the contract of a registry, and the logic of the server and client
//! sides.
//!
//! Modules, each of which imports only those before it: [`record`] (record types and go-micro's
//! JSON), [`panics`] (containment of users' code), [`registry`] (the contract, its events, the
//! type-erased handle), [`backoff`], [`memory`] and [`static_list`] (two registries without a server),
//! [`registrar`] (keeps one registration alive), [`directory`] (the client's view), [`peer`] (state
//! of one node that a client uses), [`balance`] (selection of a node).
//!
//! This crate does not depend on sockets, HTTP, etcd, tonic, the environment, or the wall clock.
//! Time and randomness are arguments. Tasks use tokio's clock, which a test can pause.

pub mod backoff;
pub mod balance;
pub mod directory;
pub mod memory;
pub mod panics;
pub mod peer;
pub mod record;
pub mod registrar;
pub mod registry;
pub mod static_list;
