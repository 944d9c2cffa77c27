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
pub(crate) enum Trouble {
    /// Transport error: the connection failed or cannot be opened. Fail over to another member.
    #[error("{0}")]
    Link(String),
    /// The member responds but cannot serve now. Fail over to another member.
    #[error("{0}")]
    Busy(String),
    /// No response before the timeout.
    #[error("no response within {:?}", in_millis(*.0))]
    Silent(Duration),
    /// The auth token is invalid. Log in again.
    #[error("{0}")]
    Token(String),
    /// Permission denied, or authentication is required and no user is set.
    #[error("{0}")]
    Denied(String),
    /// Authentication is not enabled: no token is needed.
    #[error("{0}")]
    AuthIsOff(String),
    /// The requested revision is compacted, or in the future.
    #[error("{0}")]
    Compacted(String),
    /// The lease does not exist.
    #[error("{0}")]
    NoLease(String),
    /// A lease with this id exists.
    #[error("{0}")]
    LeaseExists(String),
    /// The member's store is full (`NOSPACE` alarm).
    #[error("{0}: compact and defragment it, then disarm its alarm")]
    Full(String),
    /// The request is invalid: a retry cannot succeed.
    #[error("{0}")]
    Wrong(String),
    /// The response is larger than the limit.
    #[error("{0}")]
    TooLong(String),
    /// The handle is closed.
    #[error("closed")]
    Closed,
}

/// Maximum length, in characters, of a message from outside.
const LONGEST_TEXT: usize = 200;

impl Trouble {
    pub(crate) fn of(status: &Status) -> Self {
        let message = status.message();
        let says = |part: &str| message.contains(part);
        let text = excerpt(message);
        match status.code() {
            Code::Unauthenticated if says("invalid auth token") => Self::Token(text),
            Code::InvalidArgument if says("user name is empty") || says("auth store is old") => {
                Self::Token(text)
            }
            Code::InvalidArgument if says("authentication failed") => Self::Denied(text),
            Code::PermissionDenied => Self::Denied(text),
            Code::FailedPrecondition if says("authentication is not enabled") => {
                Self::AuthIsOff(text)
            }
            Code::OutOfRange if says("compacted") || says("future revision") => {
                Self::Compacted(text)
            }
            Code::OutOfRange if says("too large lease TTL") => Self::Wrong(text),
            Code::OutOfRange if says("message length too large") => Self::TooLong(text),
            Code::NotFound if says("requested lease not found") => Self::NoLease(text),
            Code::FailedPrecondition if says("lease already exists") => Self::LeaseExists(text),
            Code::ResourceExhausted if says("database space exceeded") => Self::Full(text),
            Code::ResourceExhausted if says("larger than max") => Self::Wrong(text),
            Code::InvalidArgument if says("request is too large") => Self::Wrong(text),
            _ if says("etcdserver:") => Self::Busy(text),
            _ => Self::Link(with_causes(status)),
        }
    }

    /// Classifies the reason of a watch that etcd canceled.
    pub(crate) fn of_cancel(reason: &str) -> Self {
        let text = excerpt(reason);
        if reason.contains("auth token")
            || reason.contains("auth store is old")
            || reason.contains("user name is empty")
        {
            Self::Token(text)
        } else if reason.contains("permission denied") {
            Self::Denied(text)
        } else {
            Self::Busy(if text.is_empty() {
                "etcd canceled the watch without a reason".to_owned()
            } else {
                text
            })
        }
    }

    /// Returns true if another member may succeed.
    pub(crate) fn is_of_the_member(&self) -> bool {
        matches!(self, Self::Link(_) | Self::Busy(_) | Self::Silent(_))
    }

    /// Returns true if etcd denied the request. Waiting callers then get the error at once.
    pub(crate) fn is_a_no(&self) -> bool {
        matches!(self, Self::Denied(_) | Self::Wrong(_) | Self::Full(_))
    }

    /// Converts into the error that callers of the registry get.
    pub(crate) fn error(self, what: impl Into<String>) -> Error {
        let what = what.into();
        match self {
            Self::Closed => Error::Closed,
            Self::Silent(after) => Error::Timeout {
                registry: NAME,
                after,
            },
            Self::Denied(_) | Self::Token(_) => Error::Denied {
                registry: NAME,
                what,
                source: Some(self.into()),
            },
            Self::Wrong(why) => Error::invalid(what, why),
            other => Error::unavailable(NAME, what, other),
        }
    }
}

fn excerpt(text: &str) -> String {
    let text = text.strip_prefix("etcdserver: ").unwrap_or(text);
    match text.char_indices().nth(LONGEST_TEXT) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None if text.chars().any(char::is_control) => format!("{text:?}"),
        None => text.to_owned(),
    }
}

/// Returns the message with its causes: a status made of a transport error has the reason in its
/// causes.
fn with_causes(status: &Status) -> String {
    let mut text = excerpt(status.message());
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text = if text.is_empty() {
                said
            } else {
                format!("{text}: {said}")
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
    fn etcds_answers_are_known_by_name() {
        let table = [
            (
                Code::NotFound,
                "etcdserver: requested lease not found",
                "NoLease",
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
            (Code::OutOfRange, "etcdserver: too large lease TTL", "Wrong"),
            (
                Code::OutOfRange,
                "Error, decoded message length too large: found 5 bytes, the limit is: 4 bytes",
                "TooLong",
            ),
            (
                Code::ResourceExhausted,
                "etcdserver: mvcc: database space exceeded",
                "Full",
            ),
            (
                Code::ResourceExhausted,
                "grpc: received message larger than max (3 vs. 2)",
                "Wrong",
            ),
            (
                Code::InvalidArgument,
                "etcdserver: request is too large",
                "Wrong",
            ),
            (
                Code::InvalidArgument,
                "etcdserver: user name is empty",
                "Token",
            ),
            (
                Code::InvalidArgument,
                "etcdserver: revision of auth store is old",
                "Token",
            ),
            (
                Code::InvalidArgument,
                "etcdserver: authentication failed, invalid user ID or password",
                "Denied",
            ),
            (
                Code::FailedPrecondition,
                "etcdserver: authentication is not enabled",
                "AuthIsOff",
            ),
            (
                Code::Unauthenticated,
                "etcdserver: invalid auth token",
                "Token",
            ),
            (
                Code::PermissionDenied,
                "etcdserver: permission denied",
                "Denied",
            ),
            (Code::Unavailable, "etcdserver: no leader", "Busy"),
            (Code::Unavailable, "etcdserver: leader changed", "Busy"),
            (
                Code::Unavailable,
                "etcdserver: request timed out, possibly due to previous leader failure",
                "Busy",
            ),
            (
                Code::Unknown,
                "h2 protocol error: error reading a body from connection",
                "Link",
            ),
            (Code::Unavailable, "tcp connect error", "Link"),
            (Code::Cancelled, "operation was canceled", "Link"),
            (Code::InvalidArgument, "whatever", "Link"),
        ];
        for (code, message, kind) in table {
            let trouble = format!("{:?}", Trouble::of(&Status::new(code, message)));
            assert!(
                trouble.starts_with(kind),
                "{code:?} {message:?} is {trouble}"
            );
        }
    }

    #[test]
    fn a_text_from_outside_is_cut_and_escaped() {
        assert_eq!(excerpt("a\u{1b}[2Jb"), "\"a\\u{1b}[2Jb\"");
        assert!(excerpt(&"x".repeat(1_000)).len() < 210);
    }
}
