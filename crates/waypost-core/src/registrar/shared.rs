//! State shared by the handle of a registration and its task: the settings, the record, the order
//! to leave, and the published state.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinError;
use tokio::time::Instant;

use super::{AnyCheck, Config, State};
use crate::record::Service;
use crate::registry::{AnyRegistry, Error, Instance};

/// Reason in the state of a registration whose task has ended with its runtime.
const ENDED: &str = "the tokio runtime that kept the registration has ended; it continues when the registration is used inside another";

/// State of one registration, shared by its handle and its task.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) registry: AnyRegistry,
    pub(super) name: &'static str,
    pub(super) instance: Instance,
    pub(super) config: Config,
    /// Maximum duration of one request: [`Config::timeout`], or the registry's own if that is
    /// longer.
    pub(super) request_timeout: Duration,
    pub(super) check: Option<AnyCheck>,
    pub(super) record: watch::Sender<Service>,
    pub(super) leave: watch::Sender<bool>,
    pub(super) state: watch::Sender<State>,
    /// True once the record was deregistered, and clients may still use the node.
    pub(super) needs_drain: Arc<AtomicBool>,
    /// Number of the running task; zero for none.
    pub(super) task: AtomicU64,
}

impl Shared {
    pub(super) fn is_running(&self) -> bool {
        self.task.load(Ordering::SeqCst) != 0
    }

    /// Orders the registration to leave, and returns a receiver of its states.
    pub(super) fn order_to_leave(&self) -> watch::Receiver<State> {
        self.leave.send_replace(true);
        self.state.subscribe()
    }

    pub(super) fn is_leaving(&self) -> bool {
        *self.leave.borrow()
    }

    /// Returns the names of service and node, for logs.
    pub(super) fn names(&self) -> (String, String) {
        let record = self.record.borrow();
        (
            record.name.clone(),
            record
                .nodes
                .first()
                .map(|node| node.id.clone())
                .unwrap_or_default(),
        )
    }

    pub(super) fn panicked(&self, error: JoinError) -> Error {
        Error::unavailable(self.name, "it failed inside", error)
    }

    pub(super) fn no_answer(&self) -> Error {
        Error::Timeout {
            registry: self.name,
            after: self.request_timeout,
        }
    }

    /// Publishes that the record is no longer kept alive, unless the registration has left.
    pub(super) fn set_failing(&self, reason: &str) {
        self.state.send_if_modified(|state| {
            let registered_before = match state {
                State::Left => return false,
                State::Failing { why, .. } if why == reason => return false,
                State::Failing {
                    registered_before, ..
                } => *registered_before,
                State::Registered { .. } => true,
                State::Starting | State::Unhealthy { .. } | State::Leaving => false,
            };
            *state = State::Failing {
                since: Instant::now(),
                why: reason.to_owned(),
                registered_before,
            };
            true
        });
    }
}

/// Guard that marks a task as running. Its drop publishes the end of the task: with its runtime, by
/// a panic, or by an abort.
#[derive(Debug)]
pub(super) struct AtWork {
    shared: Arc<Shared>,
    task: u64,
}

impl AtWork {
    /// Marks task number `task` as running, in place of the one before.
    pub(super) fn new(shared: Arc<Shared>, task: u64) -> Self {
        shared.task.store(task, Ordering::SeqCst);
        Self { shared, task }
    }
}

impl Drop for AtWork {
    /// Clears the mark before it publishes the state, so that a client woken by the state can start
    /// another task.
    fn drop(&mut self) {
        if self
            .shared
            .task
            .compare_exchange(self.task, 0, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
        {
            self.shared.set_failing(ENDED);
        }
    }
}
