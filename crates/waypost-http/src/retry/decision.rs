//! Decision table for failed attempts.
//!
//! | end of the attempt | decision |
//! |---|---|
//! | not sent | an untried peer at once, else any peer: a move |
//! | not processed | an untried peer at once: a move; none left: a retry |
//! | GOAWAY with an error code | as not processed, for the first connection it ends; then stop |
//! | connection lost, idempotent | any peer: a move the first time and if stale; then a retry |
//! | `UNAVAILABLE`, idempotent | a retry after the pushback; stop if beyond the deadline |
//! | after response headers | never "not processed": an idempotent call may retry, others stop |
//! | anything else | stop |
//!
//! *Not processed*: reset by `REFUSED_STREAM`, or above the last id of a GOAWAY without error. The
//! GOAWAY with an error code has a last id below the request's stream, too. *Stale*: the connection
//! was dead before the request was sent.
//!
//! A move is free and bounded; a retry is counted and needs the budget.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use super::budget::Budget;
use super::policy::Pushback;
use super::state::{RetryContext, RetryState};

/// Maximum number of moves in one call; the number of peers is a further limit.
const MAX_MOVES: u32 = 5;
/// Maximum number of connections that may end under one request, if a GOAWAY with an error code
/// ended one of them: the request is the likely cause.
const MAX_CONNECTIONS_ENDED: u32 = 2;

/// Failure of an attempt: its end without a response for the caller.
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
        Self {
            cause,
            committed: false,
        }
    }

    /// Creates the failure of an attempt that received response headers, but no data that the
    /// caller has read.
    pub(crate) fn committed(cause: FailureCause) -> Self {
        Self {
            cause,
            committed: true,
        }
    }

    /// Returns true if the request may have ended its connection.
    pub(super) fn ended_connection(self) -> bool {
        matches!(
            self.cause,
            FailureCause::GoAwayError | FailureCause::Lost { stale: false }
        )
    }

    /// Returns the cause that the decision uses: headers prove that the request was processed, and
    /// that the connection was alive.
    fn effective(self) -> FailureCause {
        match self.cause {
            FailureCause::NotSent | FailureCause::Unprocessed if self.committed => {
                FailureCause::Unavailable(Pushback::None)
            }
            FailureCause::GoAwayError | FailureCause::Lost { .. } if self.committed => {
                FailureCause::Lost { stale: false }
            }
            cause => cause,
        }
    }
}

/// Event that ended an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureCause {
    /// The connection refused to open a stream: nothing was sent.
    NotSent,
    /// The node declared the request unprocessed: `REFUSED_STREAM`, or an id above the last one of
    /// a GOAWAY with `NO_ERROR`.
    Unprocessed,
    /// The node ended the connection by a GOAWAY with an error code, whose last id is below the
    /// stream's.
    GoAwayError,
    /// The connection ended, or a PING on it was not acknowledged, while the request was
    /// outstanding.
    Lost {
        /// True if the connection was dead before the request was sent: nothing has been read
        /// since, and it had been silent or idle before.
        stale: bool,
    },
    /// The node reset the stream with another code.
    Reset,
    /// The node responded that it is unavailable.
    Unavailable(Pushback),
}

/// Decision after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RetryDecision {
    /// Another peer that this call has not tried, at once. If none is ready, decide again by
    /// [`RetryState::on_no_untried_peer`](super::RetryState::on_no_untried_peer).
    MoveToUntried,
    /// Any peer, untried ones first; a tried one after
    /// [`Policy::retry_delay`](super::policy::Policy).
    Move,
    /// As [`Move`](Self::Move), after this delay; counted as an attempt, and taken from the budget.
    Retry(Duration),
    /// The failure, or the server's own response, is returned to the caller.
    Stop(StopReason),
}

/// Reason why no attempt follows a failed one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StopReason {
    /// The method may not be sent twice, and a node may have processed the request.
    NotIdempotent,
    /// No other node would succeed.
    Final,
    /// The body is not buffered in full.
    BodyNotReplayable,
    /// The deadline has passed.
    Deadline,
    /// The server forbade a retry.
    PushbackNever,
    /// The server's pushback exceeds the deadline.
    PushbackBeyondDeadline,
    /// The policy's maximum is reached.
    MaxAttempts,
    /// The budget of the service is exhausted.
    Budget,
    /// Several connections (their number) ended under this request, one of them by a GOAWAY with an
    /// error code.
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

impl RetryState {
    /// Decides what follows a failed attempt, and counts the decision.
    pub(crate) fn on_failure(
        &mut self,
        failure: AttemptFailure,
        context: &RetryContext,
        budget: &Budget,
        now: Instant,
    ) -> RetryDecision {
        self.connections_ended += u32::from(failure.ended_connection());
        self.goaway_error |= failure.cause == FailureCause::GoAwayError;
        self.decide(failure, context, budget, now)
    }

    /// Decides again after [`RetryDecision::MoveToUntried`] found no peer. The move that was not
    /// made is not counted.
    pub(crate) fn on_no_untried_peer(
        &mut self,
        failure: AttemptFailure,
        context: &RetryContext,
        budget: &Budget,
        now: Instant,
    ) -> RetryDecision {
        self.moves = self.moves.saturating_sub(1);
        self.decide(
            failure,
            &RetryContext {
                untried: false,
                ..*context
            },
            budget,
            now,
        )
    }

    fn decide(
        &mut self,
        failure: AttemptFailure,
        context: &RetryContext,
        budget: &Budget,
        now: Instant,
    ) -> RetryDecision {
        let decision = next(failure, self, context, || budget.withdraw(now));
        match decision {
            RetryDecision::MoveToUntried | RetryDecision::Move => self.moves += 1,
            RetryDecision::Retry(_) => self.attempts += 1,
            RetryDecision::Stop(_) => {}
        }
        decision
    }
}

/// Returns the decision after `failure`, by the table above. `withdraw` takes a retry from the
/// budget, and is called last.
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
        () if state.attempts() >= state.max_attempts() => {
            RetryDecision::Stop(StopReason::MaxAttempts)
        }
        () if !withdraw() => RetryDecision::Stop(StopReason::Budget),
        () => RetryDecision::Retry(delay),
    }
}

/// Returns the reason, if any, why no attempt may follow.
fn obstacle(cause: FailureCause, state: &RetryState, context: &RetryContext) -> Option<StopReason> {
    use FailureCause::{GoAwayError, Lost, NotSent, Reset, Unavailable, Unprocessed};
    match cause {
        Reset => return Some(StopReason::Final),
        Lost { .. } | Unavailable(_) if !state.is_idempotent() => {
            return Some(StopReason::NotIdempotent);
        }
        Unavailable(Pushback::Never) => return Some(StopReason::PushbackNever),
        GoAwayError | Lost { .. } if state.suspected() => {
            return Some(StopReason::ConnectionsEnded(state.connections_ended()));
        }
        NotSent | Unprocessed | GoAwayError | Lost { .. } | Unavailable(_) => {}
    }
    match (context.remaining, cause) {
        _ if !context.replayable => Some(StopReason::BodyNotReplayable),
        (Some(Duration::ZERO), _) => Some(StopReason::Deadline),
        (Some(left), Unavailable(Pushback::After(delay))) if delay >= left => {
            Some(StopReason::PushbackBeyondDeadline)
        }
        _ => None,
    }
}

/// Returns the move, if this failure allows one and the call has one left.
fn free_move(
    cause: FailureCause,
    state: &RetryState,
    context: &RetryContext,
) -> Option<RetryDecision> {
    if state.moves() >= MAX_MOVES.min(context.peers.max(1)) {
        return None;
    }
    match cause {
        FailureCause::NotSent | FailureCause::Unprocessed | FailureCause::GoAwayError
            if context.untried =>
        {
            Some(RetryDecision::MoveToUntried)
        }
        FailureCause::NotSent | FailureCause::Lost { stale: true } => Some(RetryDecision::Move),
        FailureCause::Lost { stale: false } if state.connections_ended() <= 1 => {
            Some(RetryDecision::Move)
        }
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
