//! Retries of one call: policy, budget, decision and history.
//!
//! The decision after a failed attempt is the table of [`next`](decision::next) and nothing else.
//! This module never knows sockets, protocols, or how a node is picked; time and chance are
//! arguments.

mod budget;
mod decision;
mod history;
mod policy;
mod state;

pub(crate) use budget::Budget;
pub use budget::BudgetConfig;
pub(crate) use decision::{AttemptFailure, FailureCause, RetryDecision, StopReason};
pub use history::{AttemptHistory, AttemptRecord};
pub use policy::{Policy, Pushback};
pub(crate) use state::{RetryContext, RetryState};
