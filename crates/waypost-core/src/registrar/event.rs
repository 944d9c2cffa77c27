//! Input and output of the registrar's state machine.

use super::State;
use crate::registry::Error;

/// Input of the machine.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// The time of [`Machine::deadline`](super::machine::Machine::deadline) has come, or the machine was just made.
    Tick,
    /// The check answered.
    Checked(Result<(), String>),
    /// The registry answered a register.
    Registered(Result<(), Failure>),
    /// The registry answered a deregister.
    Deregistered(Result<(), Failure>),
    /// The record was changed by its owner.
    Changed,
    /// The owner wants out.
    Leave,
}

/// Output of the machine, for the task to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Begin this work; nothing else is under way in its lane.
    Start(Work),
    /// Give up the work of this lane; its answer no longer counts.
    Abandon(Lane),
    /// Publish this state.
    SetState(State),
    /// End the task.
    Finish {
        /// True if the record is known to be out; else it expires by itself.
        out: bool,
    },
}

/// One request, to the check or to the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    Check,
    Register,
    Deregister,
}

/// Where work runs, one piece at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    Check,
    Request,
}

/// Failure of a request to the registry, as far as it decides what comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) kind: Kind,
    pub(super) why: String,
}

/// Kind of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The registry cannot be reached: by other nodes neither, most likely.
    Unreachable,
    /// The record is another's.
    Conflict,
    /// The registry refuses us.
    Denied,
    /// The same request cannot succeed.
    Permanent,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        let kind = match error {
            Error::Unavailable { .. } | Error::Timeout { .. } => Kind::Unreachable,
            Error::IdTaken { .. } | Error::NotFound { .. } => Kind::Conflict,
            Error::Denied { .. } => Kind::Denied,
            Error::Invalid { .. } | Error::Unsupported { .. } | Error::Closed => Kind::Permanent,
        };
        Self { kind, why: error.chain() }
    }
}
