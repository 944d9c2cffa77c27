//! gRPC for Waypost: a [`Channel`] for tonic's generated stubs, a [`Server`] that registers itself,
//! and endpoints from protobuf descriptors.
//!
//! The channel adds gRPC's meaning of headers, trailers and status codes to the channel of
//! `waypost-http`. This crate never knows which registry it works with.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod channel;
mod client;
pub mod descriptor;
mod grpc;
pub mod server;
mod status;

pub use channel::{Channel, ResponseFuture, UnknownFilters};
pub use client::{BuildError, ChannelBuilder, Client, ClientBuilder};
pub use server::{Server, ServerHandle};
