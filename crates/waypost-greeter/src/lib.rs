//! Services of Waypost's demo, examples and tests: messages, stubs and descriptor sets, generated
//! from `proto/` and committed.
//!
//! No build needs protoc. `WAYPOST_BLESS=1 cargo test -p waypost-greeter` regenerates the files;
//! without the variable, the same test fails if they are stale. This crate knows nothing of
//! registries and nodes.

/// Service `greeter.Greeter` of the demo. `Hello` has no side effects.
#[allow(
    missing_docs,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    reason = "generated"
)]
pub mod greeter {
    include!("greeter.rs");

    /// Compiled `proto/greeter.proto`, as a `google.protobuf.FileDescriptorSet`.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("greeter.bin");
}

/// Service `echo.Echo` for tests: a unary method, each kind of stream, and a unary method that
/// may be sent twice (`IdempotentEcho`).
#[allow(
    missing_docs,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    reason = "generated"
)]
pub mod echo {
    include!("echo.rs");

    /// Compiled `proto/echo.proto`, as a `google.protobuf.FileDescriptorSet`.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("echo.bin");
}
