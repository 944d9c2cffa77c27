//! Hostile peers: a real TCP server that speaks HTTP/2 frames by itself and misbehaves in any way that a seed draws, and the randomised
//! [`trial`] of a client against several of them.

mod behavior;
mod connection;
mod frame;
mod server;
pub mod trial;

pub use behavior::{Behavior, Script};
pub use server::Server;
