//! Single binary for all integration tests of this crate.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(
    clippy::disallowed_methods,
    reason = "a test's tasks end with its runtime"
)]

mod channel;
mod server;
mod support;
#[cfg(feature = "tls")]
mod tls;
