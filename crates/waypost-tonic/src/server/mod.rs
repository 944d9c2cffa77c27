//! Server that registers itself, and leaves the registry before it stops: of tonic's services, and
//! of an axum router.
//!
//! [`Server::builder`] sets what is served and where it is registered. [`ServerBuilder::serve`] runs the
//! server until SIGTERM or Ctrl-C; [`ServerBuilder::start`] returns a [`ServerHandle`] instead. A graceful
//! stop always has the same order: leave the registry, serve for the drain delay, stop accepting,
//! finish the calls in flight within the drain timeout, abort the others. This module knows tonic's
//! transport and the registrar, and never a balancer or a backend.

mod accept_log;
mod builder;
mod connection;
mod deadline;
mod error;
mod handle;
mod health;
mod hooks;
mod launch;
mod layers;
mod listen;
#[cfg(feature = "axum")]
mod router;
mod run;
mod signals;
#[cfg(feature = "tls")]
mod tls;

pub use builder::{Server, ServerBuilder};
pub use error::Error;
pub use handle::ServerHandle;
pub use health::REGISTRATION;
pub use layers::InnerService;
pub use listen::listen;
