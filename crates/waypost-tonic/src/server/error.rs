//! Why a server did not start, or ended.

use std::io;

use waypost_core::registry;

/// What went wrong with a server. Trouble with the registry is never here: that is retried for ever, see
/// [`Running::registration`](super::Running::registration).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No registry was given. Give one with `.registry(..)`.
    #[error("server {service:?} has no registry; give it one with .registry(..)")]
    NoRegistry {
        /// The service's name.
        service: String,
    },
    /// The address cannot be listened on. Give another with `.bind(..)`, or port 0 for any.
    #[error("cannot listen on {address}")]
    Bind {
        /// What was asked for.
        address: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// There is no address that clients could call. The text says what to give.
    #[error("cannot advertise {address}: {why}")]
    Advertise {
        /// The address in question.
        address: String,
        /// Why not, and what to do.
        why: &'static str,
    },
    /// The record or the registration's settings are wrong.
    #[error("cannot register")]
    Registration(#[source] registry::Error),
    /// The descriptor set cannot be read.
    #[error("the descriptor set cannot be used")]
    Descriptor(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The process's signals cannot be listened to.
    #[error("cannot listen to signals")]
    Signals(#[source] io::Error),
    /// A hook failed before the server served.
    #[error("the {hook} hook failed")]
    Hook {
        /// `before_start` or `after_start`.
        hook: &'static str,
        /// What it said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// tonic gave up serving.
    #[error("serving ended")]
    Serve(#[source] tonic::transport::Error),
    /// The task that serves panicked: a defect.
    #[error("the serving task panicked")]
    Panicked,
}
