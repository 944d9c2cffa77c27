//! Errors of a registry, grouped by the decision of the caller.

use std::time::Duration;

use crate::record::{NameError, RecordError};

/// Result with a registry's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Truncates `time` to whole milliseconds for error texts.
pub fn in_millis(time: Duration) -> Duration {
    Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

type Source = Box<dyn std::error::Error + Send + Sync>;

/// Error of a registry. An error carries no information about nodes: a watcher's client keeps the
/// nodes that it has.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Error for a service that is not registered. Wait for it with a watch, or list the services.
    #[error("service {service:?} is not registered")]
    NotFound {
        /// Requested name.
        service: String,
    },
    /// Error for an id that another live instance holds. The registrar retries; give one of the two
    /// another id.
    #[error("id {id:?} is held by another instance, {holder}")]
    IdTaken {
        /// Contested id.
        id: String,
        /// Address and instance of the holder.
        holder: String,
    },
    /// Error for an invalid name, option or URL. A retry does not help.
    #[error("{what}: {why}")]
    Invalid {
        /// Invalid part, such as `registry URL` or `service name "a/b"`.
        what: String,
        /// Reason and fix.
        why: String,
    },
    /// Error for an operation that the backend does not support.
    #[error("the {registry} registry cannot {operation}")]
    Unsupported {
        /// Name of the backend.
        registry: &'static str,
        /// Requested operation.
        operation: &'static str,
    },
    /// Error for a registry that cannot be reached or responds with an error. Retry with backoff.
    #[error("the {registry} registry is unavailable: {what}")]
    Unavailable {
        /// Name of the backend.
        registry: &'static str,
        /// Attempted operation.
        what: String,
        /// Cause, if known.
        #[source]
        source: Option<Source>,
    },
    /// Error for a request that the registry denies. Check the credentials and permissions.
    #[error("the {registry} registry refused: {what}")]
    Denied {
        /// Name of the backend.
        registry: &'static str,
        /// Denied operation.
        what: String,
        /// Cause, if known.
        #[source]
        source: Option<Source>,
    },
    /// Error for a request without a response within the timeout. Retry with backoff.
    #[error("the {registry} registry did not answer within {:?}", in_millis(*after))]
    Timeout {
        /// Name of the backend.
        registry: &'static str,
        /// Time waited.
        after: Duration,
    },
    /// Error for a registry that its owner closed.
    #[error("the registry is closed")]
    Closed,
}

impl Error {
    /// Creates an [`Error::Unavailable`] with its cause.
    pub fn unavailable(
        registry: &'static str,
        what: impl Into<String>,
        source: impl Into<Source>,
    ) -> Self {
        Self::Unavailable {
            registry,
            what: what.into(),
            source: Some(source.into()),
        }
    }

    /// Creates an [`Error::Invalid`].
    pub fn invalid(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Invalid {
            what: what.into(),
            why: why.into(),
        }
    }

    /// Returns true if a retry of the same call may succeed without a change of the code.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::IdTaken { .. }
                | Self::Unavailable { .. }
                | Self::Denied { .. }
                | Self::Timeout { .. }
        )
    }

    /// Returns the error and its causes in one line, for logs and states.
    pub fn chain(&self) -> String {
        chain(self)
    }
}

/// Returns an error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
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
