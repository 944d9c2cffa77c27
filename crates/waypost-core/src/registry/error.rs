//! What can go wrong with a registry, by what the caller decides next.

use std::time::Duration;

use crate::record::{NameError, RecordError};

/// A result with a registry's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A time as texts show it: in whole milliseconds.
pub fn in_millis(time: Duration) -> Duration {
    Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

type Source = Box<dyn std::error::Error + Send + Sync>;

/// Trouble with a registry. It says nothing about nodes: whoever listens keeps what they have.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such service. Wait for it with a watch, or list what there is.
    #[error("service {service:?} is not registered")]
    NotFound {
        /// The name asked for.
        service: String,
    },
    /// Another live instance holds this id. Retried by the registrar; give one of the two another id.
    #[error("id {id:?} is held by another instance, {holder}")]
    IdTaken {
        /// The id both want.
        id: String,
        /// Who holds it: its address and instance.
        holder: String,
    },
    /// A name, option or URL is wrong. Trying again does not help.
    #[error("{what}: {why}")]
    Invalid {
        /// What is wrong, such as `registry URL` or `service name "a/b"`.
        what: String,
        /// Why, and what to do.
        why: String,
    },
    /// This backend cannot do that.
    #[error("the {registry} registry cannot {operation}")]
    Unsupported {
        /// The backend's name.
        registry: &'static str,
        /// What it was asked.
        operation: &'static str,
    },
    /// The registry cannot be reached, or answered with trouble. Try again with back-off.
    #[error("the {registry} registry is unavailable: {what}")]
    Unavailable {
        /// The backend's name.
        registry: &'static str,
        /// What was tried.
        what: String,
        /// Why it failed, where known.
        #[source]
        source: Option<Source>,
    },
    /// The registry refuses us. Check its credentials and permissions.
    #[error("the {registry} registry refused: {what}")]
    Denied {
        /// The backend's name.
        registry: &'static str,
        /// What was refused.
        what: String,
        /// Why, where known.
        #[source]
        source: Option<Source>,
    },
    /// No answer in time. Try again with back-off.
    #[error("the {registry} registry did not answer within {:?}", in_millis(*after))]
    Timeout {
        /// The backend's name.
        registry: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// The registry was closed by its owner.
    #[error("the registry is closed")]
    Closed,
}

impl Error {
    /// An [`Error::Unavailable`] with its cause.
    pub fn unavailable(registry: &'static str, what: impl Into<String>, source: impl Into<Source>) -> Self {
        Self::Unavailable { registry, what: what.into(), source: Some(source.into()) }
    }

    /// An [`Error::Invalid`].
    pub fn invalid(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Invalid { what: what.into(), why: why.into() }
    }

    /// Whether the same call may succeed later, without anybody changing the code.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::IdTaken { .. } | Self::Unavailable { .. } | Self::Denied { .. } | Self::Timeout { .. })
    }

    /// The error and its causes in one line, as logs and states show it.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

impl From<RecordError> for Error {
    fn from(error: RecordError) -> Self {
        Self::invalid(error.what(), error.why())
    }
}

impl From<NameError> for Error {
    fn from(error: NameError) -> Self {
        Self::invalid(error.what(), error.why())
    }
}
