//! gRPC for Waypost: a [`Channel`] for tonic's generated stubs, a [`Server`] that registers itself, and what a server says of its methods.
//!
//! The channel is a face on `waypost-http`'s sender, with gRPC's meaning of headers, trailers and status codes. This crate never knows
//! which registry it works with.

mod channel;
mod client;
pub mod describe;
mod grpc;
pub mod server;
mod status;

pub use channel::{Channel, ResponseFuture};
pub use client::{BuildError, ChannelBuilder, Client, ClientBuilder};
pub use server::{Running, Server};
