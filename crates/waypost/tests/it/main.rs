//! Single binary for all integration tests of the façade.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[cfg(all(feature = "axum", feature = "etcd", target_os = "linux"))]
mod advertise;
mod connect;
#[cfg(all(feature = "local", feature = "tonic"))]
mod examples;
#[cfg(all(feature = "local", feature = "tonic", target_os = "linux"))]
mod first_service;
#[cfg(all(feature = "args", feature = "tonic"))]
mod kubernetes;
#[cfg(all(feature = "local", feature = "tonic", target_os = "linux"))]
mod leftovers;
#[cfg(all(
    feature = "args",
    feature = "etcd",
    feature = "local",
    feature = "tonic"
))]
mod names;
#[cfg(all(feature = "local", feature = "tonic"))]
mod statics;
