//! One record of how an attempt ended, made in one place and read by everything that judges a node.

use std::time::Duration;

use tokio::time::Instant;

/// How an attempt on a node ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttemptEnd {
    /// The node answered, whatever the answer says of the caller's request.
    Answered,
    /// The node answered that it could not do its work, in its headers or its trailers.
    NodeFailed,
    /// The connection was lost or went silent before the answer was complete.
    Lost,
    /// The node never processed the request: it was not sent, or was refused unprocessed.
    Refused,
    /// The caller's deadline passed.
    Deadline,
    /// The caller dropped the call.
    Cancelled,
    /// The request could not be sent as the caller made it. It says nothing of the node.
    LocalMistake,
}

impl AttemptEnd {
    /// Whether it speaks against the node.
    pub fn is_failure(self) -> bool {
        matches!(self, Self::NodeFailed | Self::Lost | Self::Deadline)
    }
}

/// The load that a node reported of itself with an answer (ORCA, gRFC A51).
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct ReportedLoad {
    /// Utilization by the application's own measure, 0 to 1 and more.
    pub utilization: f64,
}

/// One attempt that has ended.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Finished {
    /// Time of the send.
    pub sent: Instant,
    /// Time of its end.
    pub at: Instant,
    /// Time of the response's headers, if they came.
    pub head_at: Option<Instant>,
    /// How it ended.
    pub end: AttemptEnd,
    /// Load that the node reported, if it did.
    pub load: Option<ReportedLoad>,
}

impl Finished {
    /// Creates the record of an attempt that was sent at `sent` and ended at `at`.
    pub fn new(sent: Instant, at: Instant, end: AttemptEnd) -> Self {
        Self { sent, at, head_at: None, end, load: None }
    }

    /// Returns the time from the send to the end.
    pub fn waited(&self) -> Duration {
        self.at.saturating_duration_since(self.sent)
    }

    /// Returns the time from the send to the response's headers, if they came.
    pub fn first_byte(&self) -> Option<Duration> {
        self.head_at.map(|at| at.saturating_duration_since(self.sent))
    }
}

/// What hears of every attempt that a picker's choice led to; given by [`Picker::observer`](crate::balance::Picker::observer).
///
/// Called once for each attempt, from many tasks at once, when the response has ended or was dropped. It must not block. A panic in it is
/// contained.
pub trait AttemptObserver: Send + Sync {
    /// Takes in how the attempt ended.
    fn finished(&self, finished: &Finished);
}
