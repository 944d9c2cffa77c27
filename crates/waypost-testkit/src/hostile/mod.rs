//! Hostile peers: a real TCP server that implements HTTP/2 frames itself and misbehaves in ways
//! that a seed draws, and the randomized [`trial`] of a client against several of them.

mod behavior;
mod connection;
mod counters;
mod frame;
mod server;
pub mod trial;

pub use behavior::{Behavior, Script};
pub use server::Server;
