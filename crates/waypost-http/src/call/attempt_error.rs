//! Failure of an attempt: its end without a response for the caller.

use std::fmt;
use std::sync::Arc;

use h2::Reason;
use http::Response;
use waypost_core::peer::AttemptEnd;

use super::response::ResponseBody;
use crate::conn::Connection;
use crate::error::{BodyError, FailureKind, StreamError};
use crate::protocol::BoxError;
use crate::request_error::RequestError;
use crate::retry::{AttemptFailure, FailureCause, Pushback};

/// Failure of an attempt. Its text is the end of the attempt in the call's history.
#[derive(Debug)]
pub(super) enum AttemptError {
    /// The caller's deadline passed.
    Deadline,
    /// The caller's request cannot be sent: no node is at fault.
    Request(RequestError),
    /// The node reset the stream with a code other than `REFUSED_STREAM`.
    Reset(StreamError),
    /// The node responded that it is unavailable.
    Unavailable(Pushback, Box<Response<ResponseBody>>),
    /// The attempt ended without a response, or with a part of one that the caller has not seen.
    NoResponse {
        failure: AttemptFailure,
        text: String,
        source: Option<StreamError>,
    },
}

impl AttemptError {
    /// Creates the error of an attempt of which nothing was sent.
    pub(super) fn not_sent(text: String) -> Self {
        Self::no_response(FailureCause::NotSent, text)
    }

    /// Creates the error of an attempt on a connection that acknowledges no PING.
    pub(super) fn unresponsive() -> Self {
        let lost = FailureCause::Lost { stale: false };
        Self::no_response(lost, "the node answers no PING".to_owned())
    }

    fn no_response(cause: FailureCause, text: String) -> Self {
        Self::NoResponse {
            failure: AttemptFailure::uncommitted(cause),
            text,
            source: None,
        }
    }

    /// Creates the error of a stream that ended. The end reason of the connection, if there is one,
    /// is more precise than the stream's error.
    pub(super) fn of_stream(error: StreamError, connection: Option<&Arc<Connection>>) -> Self {
        let cause = classify_error(error.h2());
        let text = match cause {
            FailureCause::Reset => return Self::Reset(error),
            FailureCause::Unprocessed => format!("not processed: {error}"),
            FailureCause::GoAwayError => format!("the node closed the connection: {error}"),
            _ => match connection.and_then(|connection| connection.end_reason()) {
                Some(reason) => format!("connection lost: {reason}"),
                None => format!("connection lost: {error}"),
            },
        };
        Self::NoResponse {
            failure: AttemptFailure::uncommitted(cause),
            text,
            source: Some(error),
        }
    }

    /// Creates the error of a response that ended before the caller has read any of it.
    pub(super) fn of_body(error: BodyError, connection: Option<&Arc<Connection>>) -> Self {
        match error {
            BodyError::Deadline => Self::Deadline,
            BodyError::Request(error) => Self::Request(error),
            BodyError::Broken(error) => Self::of_stream(error, connection),
        }
    }

    /// Marks the connection as dead before the request was sent.
    pub(super) fn mark_stale(&mut self) {
        if let Self::NoResponse { failure, .. } = self
            && let FailureCause::Lost { stale } = &mut failure.cause
        {
            *stale = true;
        }
    }

    /// Marks the request as processed: response headers were received. They also prove that the
    /// connection was alive.
    pub(super) fn mark_committed(&mut self) {
        if let Self::NoResponse { failure, .. } = self {
            *failure = AttemptFailure::committed(FailureCause::Lost { stale: false });
        }
    }

    /// Returns the failure that the retry decision is made on; none if no other attempt may follow.
    pub(super) fn failure(&self) -> Option<AttemptFailure> {
        match self {
            Self::Deadline | Self::Request(_) | Self::Reset(_) => None,
            Self::Unavailable(pushback, _) => Some(AttemptFailure::uncommitted(
                FailureCause::Unavailable(*pushback),
            )),
            Self::NoResponse { failure, .. } => Some(*failure),
        }
    }

    /// Returns true if a node is at fault: the attempt belongs in the history.
    pub(super) fn is_of_node(&self) -> bool {
        !matches!(self, Self::Deadline | Self::Request(_))
    }

    /// Returns true if the stream has ended by itself, so that it need not be reset.
    pub(super) fn is_stream_ended(&self) -> bool {
        matches!(
            self,
            Self::Reset(_)
                | Self::NoResponse {
                    source: Some(_),
                    ..
                }
        )
    }

    /// Returns the end of the attempt, for the statistics of its peer.
    pub(super) fn end(&self) -> AttemptEnd {
        match self {
            Self::Deadline => AttemptEnd::Deadline,
            Self::Request(_) => AttemptEnd::LocalMistake,
            Self::Reset(_) | Self::Unavailable(..) => AttemptEnd::NodeFailed,
            Self::NoResponse { failure, .. } => match failure.cause {
                FailureCause::NotSent | FailureCause::Unprocessed => AttemptEnd::Refused,
                _ => AttemptEnd::Lost,
            },
        }
    }

    /// Returns the kind of the call's failure, if no other attempt follows.
    pub(super) fn kind(&self) -> FailureKind {
        match self {
            Self::Deadline => FailureKind::Deadline,
            Self::Request(_) => FailureKind::Request,
            Self::Reset(error) => FailureKind::Reset(error.reset_code().unwrap_or_default()),
            Self::Unavailable(..) | Self::NoResponse { .. } => FailureKind::NoAnswer,
        }
    }

    /// Converts the error into the source of the call's error.
    pub(super) fn into_source(self) -> Option<BoxError> {
        match self {
            Self::Deadline | Self::Unavailable(..) => None,
            Self::Request(error) => Some(error.into()),
            Self::Reset(error) => Some(error.into()),
            Self::NoResponse { source, .. } => source.map(Into::into),
        }
    }
}

impl fmt::Display for AttemptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deadline => f.write_str("deadline exceeded"),
            Self::Request(error) => error.fmt(f),
            Self::Reset(error) => write!(f, "the node reset the call: {error}"),
            Self::Unavailable(..) => f.write_str("the node reports that it is unavailable"),
            Self::NoResponse { text, .. } => f.write_str(text),
        }
    }
}

/// Classifies the end of a stream (RFC 9113, 6.8 and 8.7).
fn classify_error(error: &h2::Error) -> FailureCause {
    if !error.is_remote() {
        return FailureCause::Lost { stale: false };
    }
    match (error.is_go_away(), error.reason()) {
        (true, Some(Reason::NO_ERROR)) => FailureCause::Unprocessed,
        (true, _) => FailureCause::GoAwayError,
        (false, Some(Reason::REFUSED_STREAM)) if error.is_reset() => FailureCause::Unprocessed,
        (false, Some(_)) if error.is_reset() => FailureCause::Reset,
        _ => FailureCause::Lost { stale: false },
    }
}
