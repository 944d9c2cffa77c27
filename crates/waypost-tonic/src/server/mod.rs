//! A tonic server that registers itself, and leaves before it stops.
//!
//! [`Server::builder`] says what is served and where it is registered; [`Builder::serve`] runs it until SIGTERM or Ctrl-C;
//! [`Builder::start`] gives a [`Running`] to hold instead. The order of an end is always the same: leave the registry, serve on for the
//! drain delay, stop to accept, finish what is in flight within the drain limit, cut what is left. This room knows tonic's transport
//! and the registrar, and never a balancer or a backend.

mod accept_log;
mod address;
mod builder;
mod connection;
mod deadline;
mod error;
mod health;
mod hooks;
mod launch;
mod run;
mod running;
mod signals;

pub use builder::{Builder, Server};
pub use error::Error;
pub use health::REGISTRATION;
pub use running::Running;
