//! Input and output of the registrar's state machine.

use super::State;
use crate::registry::Error;

/// Input of the machine.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// The time of [`Machine::deadline`](super::machine::Machine::deadline) has come, or the
    /// machine was just created.
    Tick,
    /// The check ended.
    Checked(Result<(), String>),
    /// The registry responded to a register request.
    Registered(Result<(), WorkFailure>),
    /// The registry responded to a deregister request.
    Deregistered(Result<(), WorkFailure>),
    /// The owner changed the record.
    Changed,
    /// Another writer changed or deleted the record in the registry.
    Overwritten,
    /// The owner ordered the registration to leave.
    Leave,
}

/// Output of the machine, executed by the task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Start this work. No other work is in progress in its lane.
    Start(Work),
    /// Abort the work of this lane. Its result no longer counts.
    Abandon(Lane),
    /// Publish this state.
    SetState(State),
    /// End the task.
    Finish {
        /// True if the record is known to be deregistered; otherwise it expires by itself.
        out: bool,
    },
}

/// Request to the check or to the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    Check,
    Register,
    Deregister,
}

/// Queue of work, at most one piece of which is in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    Check,
    Request,
}

/// Failure of a request to the registry, reduced to the part that decides the next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WorkFailure {
    pub(super) kind: WorkFailureKind,
    pub(super) why: String,
}

/// FailureKind of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WorkFailureKind {
    /// The registry cannot be reached. Other nodes most likely cannot reach it either.
    Unreachable,
    /// The record belongs to another instance, or does not exist.
    Conflict,
    /// The registry denies the request.
    Denied,
    /// A retry of the same request cannot succeed.
    Permanent,
}

impl From<&Error> for WorkFailure {
    fn from(error: &Error) -> Self {
        let kind = match error {
            Error::Unavailable { .. } | Error::Timeout { .. } => WorkFailureKind::Unreachable,
            Error::IdTaken { .. } | Error::NotFound { .. } => WorkFailureKind::Conflict,
            Error::Denied { .. } => WorkFailureKind::Denied,
            Error::Invalid { .. } | Error::Unsupported { .. } | Error::Closed => {
                WorkFailureKind::Permanent
            }
        };
        Self {
            kind,
            why: error.chain(),
        }
    }
}
