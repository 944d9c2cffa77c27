//! The decision table: what follows a failed attempt.
//!
//! | how the attempt ended | then |
//! |---|---|
//! | not sent | an untried peer at once, else any: a move |
//! | not processed (`REFUSED_STREAM`, above the last id of a GOAWAY without error) | an untried peer at once: a move; none left: a retry |
//! | GOAWAY with an error code, above its last id | the same for the first connection that ended under the request; then stop |
//! | connection lost, idempotent | any peer: a move the first time, and each time it was dead before; then a retry |
//! | `UNAVAILABLE`, idempotent | a retry, after the server's pushback; stop if that outlasts the deadline |
//! | after response headers | never "not processed": an idempotent call may retry, any other stops |
//! | anything else | stop |
//!
//! A move is free and bounded; a retry is counted and needs the budget.

use std::fmt;
use std::time::Duration;

use super::policy::Pushback;
use super::state::{RetryContext, RetryState};

/// Maximum number of moves in one call; never more than there are peers either.
const MAX_MOVES: u32 = 5;
/// Connections that may end under one request, if a GOAWAY with an error code ended one of them: the request is the likely cause.
const MAX_CONNECTIONS_ENDED: u32 = 2;

/// How an attempt ended without a response for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AttemptFailure {
    /// Event that ended the attempt.
    pub(crate) cause: FailureCause,
    /// True once response headers were received: the server has processed the request (gRFC A6).
    pub(crate) committed: bool,
}

impl AttemptFailure {
    /// Creates the failure of an attempt that received no response headers.
    pub(crate) fn uncommitted(cause: FailureCause) -> Self {
        Self { cause, committed: false }
    }

    /// Creates the failure of an attempt that received response headers, and no data that its caller saw.
    pub(crate) fn committed(cause: FailureCause) -> Self {
        Self { cause, committed: true }
    }

    /// Returns true if the request may have ended its connection.
    pub(super) fn ended_connection(self) -> bool {
        matches!(self.cause, FailureCause::GoAwayError | FailureCause::Lost { stale: false })
    }

    /// The cause as it decides: headers prove that the request was processed, and that the connection was alive.
    fn effective(self) -> FailureCause {
        match self.cause {
            FailureCause::NotSent | FailureCause::Unprocessed if self.committed => FailureCause::Unavailable(Pushback::None),
            FailureCause::GoAwayError | FailureCause::Lost { .. } if self.committed => FailureCause::Lost { stale: false },
            cause => cause,
        }
    }
}

/// The event that ended an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureCause {
    /// The connection refused to open a stream: nothing was sent.
    NotSent,
    /// The node declared the request unprocessed: `REFUSED_STREAM`, or an id above the last one of a GOAWAY with `NO_ERROR`.
    Unprocessed,
    /// The node ended the connection by a GOAWAY with an error code, whose last id is below the stream's.
    GoAwayError,
    /// The connection ended, or did not answer a PING, while the request was outstanding.
    Lost {
        /// True if the connection was dead before the request was sent: it read nothing since, and had been silent or idle before.
        stale: bool,
    },
    /// The node reset the stream with another code.
    Reset,
    /// The node answered that it is unavailable.
    Unavailable(Pushback),
}

/// What follows a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RetryDecision {
    /// Another peer that this call has not tried, at once. If none is ready, ask again by
    /// [`RetryState::on_no_untried_peer`](super::RetryState::on_no_untried_peer).
    MoveToUntried,
    /// Any peer, untried ones first; a tried one after [`Policy::retry_delay`](super::policy::Policy::retry_delay).
    Move,
    /// As [`Move`](Self::Move), after this delay; counted, and paid by the budget.
    Retry(Duration),
    /// The failure, or the server's own response, goes to the caller.
    Stop(StopReason),
}

/// The reason why a failed attempt is the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StopReason {
    /// The method may not be sent twice, and a node may have processed the request.
    NotIdempotent,
    /// No other node would do better.
    Final,
    /// The body is no longer here in full.
    BodyNotReplayable,
    /// The deadline has passed.
    Deadline,
    /// The server said not to retry.
    PushbackNever,
    /// The server said to wait longer than the deadline allows.
    PushbackBeyondDeadline,
    /// The policy's maximum is reached.
    MaxAttempts,
    /// The budget of the service is used up.
    Budget,
    /// So many connections ended under this request, one of them by a GOAWAY with an error code.
    ConnectionsEnded(u32),
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::NotIdempotent => "the method is not idempotent",
            Self::Final => "the failure is final",
            Self::BodyNotReplayable => "the request body exceeds the replay buffer",
            Self::Deadline => "the deadline has passed",
            Self::PushbackNever => "the server forbids a retry",
            Self::PushbackBeyondDeadline => "the server asks to wait beyond the deadline",
            Self::MaxAttempts => "the maximum number of attempts is reached",
            Self::Budget => "the retry budget is exhausted",
            Self::ConnectionsEnded(n) => {
                return write!(
                    f,
                    "{n} connections ended under this request, and it may be the cause: check its size and content"
                );
            }
        };
        f.write_str(text)
    }
}

/// Returns what follows `failure`, by the table above. `withdraw` takes a retry from the budget, and is asked last.
pub(crate) fn next(
    failure: AttemptFailure,
    state: &RetryState,
    context: &RetryContext,
    withdraw: impl FnOnce() -> bool,
) -> RetryDecision {
    let cause = failure.effective();
    if let Some(reason) = obstacle(cause, state, context) {
        return RetryDecision::Stop(reason);
    }
    if let Some(decision) = free_move(cause, state, context) {
        return decision;
    }
    let delay = match cause {
        FailureCause::Unavailable(Pushback::After(delay)) => delay,
        _ => Duration::ZERO,
    };
    match () {
        () if state.attempts() >= state.max_attempts() => RetryDecision::Stop(StopReason::MaxAttempts),
        () if !withdraw() => RetryDecision::Stop(StopReason::Budget),
        () => RetryDecision::Retry(delay),
    }
}

/// The reason, if any, why nothing may follow.
fn obstacle(cause: FailureCause, state: &RetryState, context: &RetryContext) -> Option<StopReason> {
    use FailureCause::{GoAwayError, Lost, NotSent, Reset, Unavailable, Unprocessed};
    match cause {
        Reset => return Some(StopReason::Final),
        Lost { .. } | Unavailable(_) if !state.is_idempotent() => return Some(StopReason::NotIdempotent),
        Unavailable(Pushback::Never) => return Some(StopReason::PushbackNever),
        GoAwayError | Lost { .. } if state.suspected() => return Some(StopReason::ConnectionsEnded(state.connections_ended())),
        NotSent | Unprocessed | GoAwayError | Lost { .. } | Unavailable(_) => {}
    }
    match (context.remaining, cause) {
        _ if !context.replayable => Some(StopReason::BodyNotReplayable),
        (Some(Duration::ZERO), _) => Some(StopReason::Deadline),
        (Some(left), Unavailable(Pushback::After(delay))) if delay >= left => Some(StopReason::PushbackBeyondDeadline),
        _ => None,
    }
}

/// The move, if this failure has one and the call has one left.
fn free_move(cause: FailureCause, state: &RetryState, context: &RetryContext) -> Option<RetryDecision> {
    if state.moves() >= MAX_MOVES.min(context.peers.max(1)) {
        return None;
    }
    match cause {
        FailureCause::NotSent | FailureCause::Unprocessed | FailureCause::GoAwayError if context.untried => {
            Some(RetryDecision::MoveToUntried)
        }
        FailureCause::NotSent | FailureCause::Lost { stale: true } => Some(RetryDecision::Move),
        FailureCause::Lost { stale: false } if state.connections_ended() <= 1 => Some(RetryDecision::Move),
        _ => None,
    }
}

impl RetryState {
    /// Returns true if the request is the likely cause of the connections that ended under it.
    fn suspected(&self) -> bool {
        self.goaway_error() && self.connections_ended() >= MAX_CONNECTIONS_ENDED
    }
}

#[cfg(test)]
mod tests;
