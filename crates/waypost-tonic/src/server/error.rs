//! Errors of a server.

use std::io;

use waypost_core::registrar::AdvertiseError;
use waypost_core::registry;

/// Error of a server's start or run. An outage of the registry is never one: it is retried forever,
/// see [`ServerHandle::registration`](super::ServerHandle::registration).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Address that cannot be listened on. Give another with `.bind(..)`, or port 0 for any.
    #[error("cannot listen on {address}")]
    Bind {
        /// Requested address.
        address: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// Address that clients could not reach. The text says what to give.
    #[error(transparent)]
    Advertise(#[from] AdvertiseError),
    /// TLS configuration that cannot be used: the source names the file.
    #[cfg(feature = "tls")]
    #[error("cannot serve TLS")]
    Tls(#[source] waypost_http::TlsError),
    /// Invalid record, or invalid configuration of the registration.
    #[error("cannot register")]
    Registration(#[source] registry::Error),
    /// Descriptor set that cannot be read.
    #[error("the descriptor set cannot be used")]
    Descriptor(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Signals of the process that cannot be listened to.
    #[error("cannot listen to signals")]
    Signals(#[source] io::Error),
    /// Hook of the start that failed.
    #[error("the {hook} hook failed")]
    Hook {
        /// Name of the hook: `before_start` or `after_start`.
        hook: &'static str,
        /// Error of the hook.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Error of tonic that ended serving.
    #[error("serving ended")]
    Serve(#[source] tonic::transport::Error),
    /// Panic of the serving task: a defect.
    #[error("the serving task panicked")]
    Panicked,
}
