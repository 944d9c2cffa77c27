//! One HTTP/2 connection: dialled, driven and kept alive.
//!
//! A [`Dialer`] runs one connection from its first byte to its last. It reports all events, the end
//! included, in order through one [`EventSender`]. This module never knows which node the
//! connection serves, which node is picked, or what a request means.

mod calm;
mod cancel;
mod config;
pub(crate) mod connect;
mod connection;
mod dial;
mod driver;
mod event;
mod eyeballs;
mod frames;
mod handshake;
mod keepalive;
mod panic;
pub(crate) mod route;
#[cfg(test)]
mod tests;

pub(crate) use calm::EnhanceYourCalm;
pub(crate) use cancel::CancelledStream;
pub use config::{ConnectionConfig, Silence};
pub(crate) use connection::{Connection, Liveness};
pub(crate) use dial::{DialSlots, Dialer};
pub(crate) use driver::Driver;
pub(crate) use event::{ConnectionEvent, EventSender};
pub(crate) use frames::FrameCounts;
pub(crate) use handshake::handshake;
