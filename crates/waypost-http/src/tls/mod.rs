//! TLS of both sides: rustls with the ring provider, passed explicitly, so that no process-wide
//! default applies.
//!
//! Certificates and keys are PEM, from files or as bytes. A file that has changed is read again by
//! the next handshake ([`reload`]); connections that are open keep what they were opened with. The
//! name that a server must prove comes from the configuration, never from a record of the registry.

mod client;
mod config;
mod explain;
mod pem;
mod reload;
mod server;

pub use client::TlsConnect;
pub use config::{ServerTlsConfig, TlsConfig, TlsIdentity};
pub use pem::{Pem, TlsError};
pub use server::{AcceptError, TlsAcceptor, TlsStream};
