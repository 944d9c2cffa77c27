//! Classification of every error of etcd and of the connection to it. No other module matches
//! status codes or messages.
//!
//! Only the errors listed here have a meaning of their own. Any other error makes the connection
//! suspect, since a broken connection appears under four different codes.

use std::time::Duration;

use tonic::{Code, Status};
use waypost_core::registry::{Error, in_millis};

/// Name of the backend in errors.
pub(crate) const NAME: &str = "etcd";

/// Reason for the failure of a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EtcdError {
    /// Transport error: the connection failed or cannot be opened. Fail over to another member.
    #[error("{0}")]
    Transport(String),
    /// The member responds but cannot serve now. Fail over to another member.
    #[error("{0}")]
    Unavailable(String),
    /// No response before the timeout.
    #[error("no response within {:?}", in_millis(*.0))]
    Timeout(Duration),
    /// The auth token is invalid. Log in again.
    #[error("{0}")]
    InvalidToken(String),
    /// Permission denied, or authentication is required and no user is set.
    #[error("{0}")]
    Denied(String),
    /// Authentication is not enabled: no token is needed.
    #[error("{0}")]
    AuthDisabled(String),
    /// The requested revision is compacted, or in the future.
    #[error("{0}")]
    Compacted(String),
    /// The lease does not exist.
    #[error("{0}")]
    LeaseNotFound(String),
    /// A lease with this id exists.
    #[error("{0}")]
    LeaseExists(String),
    /// The member's store is full (`NOSPACE` alarm).
    #[error("{0}: compact and defragment it, then disarm its alarm")]
    NoSpace(String),
    /// The request is invalid: a retry cannot succeed.
    #[error("{0}")]
    Invalid(String),
    /// The response is larger than the limit.
    #[error("{0}")]
    TooLarge(String),
    /// The handle is closed.
    #[error("closed")]
    Closed,
}

/// Maximum length, in characters, of a message from outside.
const MAX_TEXT: usize = 200;

impl EtcdError {
    pub(crate) fn from_status(status: &Status) -> Self {
        let message = status.message();
        let has = |part: &str| message.contains(part);
        let text = excerpt(message);
        match status.code() {
            Code::Unauthenticated if has("invalid auth token") => Self::InvalidToken(text),
            Code::InvalidArgument if has("user name is empty") || has("auth store is old") => {
                Self::InvalidToken(text)
            }
            Code::InvalidArgument if has("authentication failed") => Self::Denied(text),
            Code::PermissionDenied => Self::Denied(text),
            Code::FailedPrecondition if has("authentication is not enabled") => {
                Self::AuthDisabled(text)
            }
            Code::OutOfRange if has("compacted") || has("future revision") => Self::Compacted(text),
            Code::OutOfRange if has("too large lease TTL") => Self::Invalid(text),
            Code::OutOfRange if has("message length too large") => Self::TooLarge(text),
            Code::NotFound if has("requested lease not found") => Self::LeaseNotFound(text),
            Code::FailedPrecondition if has("lease already exists") => Self::LeaseExists(text),
            Code::ResourceExhausted if has("database space exceeded") => Self::NoSpace(text),
            Code::ResourceExhausted if has("larger than max") => Self::Invalid(text),
            Code::InvalidArgument if has("request is too large") => Self::Invalid(text),
            _ if has("etcdserver:") => Self::Unavailable(text),
            _ => Self::Transport(with_sources(status)),
        }
    }

    /// Classifies the reason of a watch that etcd canceled.
    pub(crate) fn from_cancel_reason(reason: &str) -> Self {
        let text = excerpt(reason);
        if reason.contains("auth token")
            || reason.contains("auth store is old")
            || reason.contains("user name is empty")
        {
            Self::InvalidToken(text)
        } else if reason.contains("permission denied") {
            Self::Denied(text)
        } else {
            Self::Unavailable(if text.is_empty() {
                "etcd canceled the watch without a reason".to_owned()
            } else {
                text
            })
        }
    }

    /// Returns true if another member may succeed.
    pub(crate) fn should_fail_over(&self) -> bool {
        matches!(
            self,
            Self::Transport(_) | Self::Unavailable(_) | Self::Timeout(_)
        )
    }

    /// Returns true if etcd denied the request. Waiting callers then get the error at once.
    pub(crate) fn is_permanent(&self) -> bool {
        matches!(self, Self::Denied(_) | Self::Invalid(_) | Self::NoSpace(_))
    }

    /// Converts into the error that callers of the registry get.
    pub(crate) fn into_registry_error(self, what: impl Into<String>) -> Error {
        let what = what.into();
        match self {
            Self::Closed => Error::Closed,
            Self::Timeout(after) => Error::Timeout {
                registry: NAME,
                after,
            },
            Self::Denied(_) | Self::InvalidToken(_) => Error::Denied {
                registry: NAME,
                what,
                source: Some(self.into()),
            },
            Self::Invalid(why) => Error::invalid(what, why),
            other => Error::unavailable(NAME, what, other),
        }
    }
}

fn excerpt(text: &str) -> String {
    let text = text.strip_prefix("etcdserver: ").unwrap_or(text);
    match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None if text.chars().any(char::is_control) => format!("{text:?}"),
        None => text.to_owned(),
    }
}

/// Returns the message with its causes: a status made of a transport error has the reason in its
/// causes.
fn with_sources(status: &Status) -> String {
    let mut text = excerpt(status.message());
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let reason = error.to_string();
        if !text.contains(&reason) {
            text = if text.is_empty() {
                reason
            } else {
                format!("{text}: {reason}")
            };
        }
        cause = error.source();
    }
    if text.is_empty() {
        format!("{:?}", status.code())
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etcd_errors_are_classified_by_code_and_message() {
        let table = [
            (
                Code::NotFound,
                "etcdserver: requested lease not found",
                "LeaseNotFound",
            ),
            (
                Code::FailedPrecondition,
                "etcdserver: lease already exists",
                "LeaseExists",
            ),
            (
                Code::OutOfRange,
                "etcdserver: mvcc: required revision has been compacted",
                "Compacted",
            ),
            (
                Code::OutOfRange,
                "etcdserver: mvcc: required revision is a future revision",
                "Compacted",
            ),
            (
                Code::OutOfRange,
                "etcdserver: too large lease TTL",
                "Invalid",
            ),
            (
                Code::OutOfRange,
                "Error, decoded message length too large: found 5 bytes, the limit is: 4 bytes",
                "TooLarge",
            ),
            (
                Code::ResourceExhausted,
                "etcdserver: mvcc: database space exceeded",
                "NoSpace",
            ),
            (
                Code::ResourceExhausted,
                "grpc: received message larger than max (3 vs. 2)",
                "Invalid",
            ),
            (
                Code::InvalidArgument,
                "etcdserver: request is too large",
                "Invalid",
            ),
            (
                Code::InvalidArgument,
                "etcdserver: user name is empty",
                "InvalidToken",
            ),
            (
                Code::InvalidArgument,
                "etcdserver: revision of auth store is old",
                "InvalidToken",
            ),
            (
                Code::InvalidArgument,
                "etcdserver: authentication failed, invalid user ID or password",
                "Denied",
            ),
            (
                Code::FailedPrecondition,
                "etcdserver: authentication is not enabled",
                "AuthDisabled",
            ),
            (
                Code::Unauthenticated,
                "etcdserver: invalid auth token",
                "InvalidToken",
            ),
            (
                Code::PermissionDenied,
                "etcdserver: permission denied",
                "Denied",
            ),
            (Code::Unavailable, "etcdserver: no leader", "Unavailable"),
            (
                Code::Unavailable,
                "etcdserver: leader changed",
                "Unavailable",
            ),
            (
                Code::Unavailable,
                "etcdserver: request timed out, possibly due to previous leader failure",
                "Unavailable",
            ),
            (
                Code::Unknown,
                "h2 protocol error: error reading a body from connection",
                "Transport",
            ),
            (Code::Unavailable, "tcp connect error", "Transport"),
            (Code::Cancelled, "operation was canceled", "Transport"),
            (Code::InvalidArgument, "whatever", "Transport"),
        ];
        for (code, message, kind) in table {
            let error = format!("{:?}", EtcdError::from_status(&Status::new(code, message)));
            assert!(error.starts_with(kind), "{code:?} {message:?} is {error}");
        }
    }

    #[test]
    fn a_message_from_outside_is_truncated_and_escaped() {
        assert_eq!(excerpt("a\u{1b}[2Jb"), "\"a\\u{1b}[2Jb\"");
        assert!(excerpt(&"x".repeat(1_000)).len() < 210);
    }
}
