//! The services of Waypost's demo, examples and tests: messages, stubs and descriptor sets, generated from `proto/` and committed.
//!
//! Nobody's build needs protoc: `WAYPOST_BLESS=1 cargo test -p waypost-greeter` writes the generated files anew, and without the variable the
//! same test fails if they are stale. This crate knows nothing of registries and nodes.

/// `greeter.Greeter`, the demo's service: `Hello` has no side effects.
#[allow(missing_docs, unused_qualifications, clippy::all, clippy::pedantic, reason = "generated")]
pub mod greeter {
    include!("greeter.rs");

    /// The compiled `proto/greeter.proto`, as a `google.protobuf.FileDescriptorSet`.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("greeter.bin");
}

/// `parrot.Parrot`, for tests: a unary method, each kind of stream, and a unary method that may be sent twice (`Look`).
#[allow(missing_docs, unused_qualifications, clippy::all, clippy::pedantic, reason = "generated")]
pub mod parrot {
    include!("parrot.rs");

    /// The compiled `proto/parrot.proto`, as a `google.protobuf.FileDescriptorSet`.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("parrot.bin");
}
