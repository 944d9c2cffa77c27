//! Lifecycle of a registration's task: start, restart after a panic or the end of its runtime, and
//! join.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::State;
use super::shared::{AtWork, Shared};
use super::task::Worker;
use crate::registry::{Error, Result};

/// Additional time that a task may take to leave, beyond its requests. A task that takes longer is
/// not polled by its runtime.
const SPARE: Duration = Duration::from_secs(1);

/// Owner of the task of one registration. Dropping it aborts the task.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) shared: Arc<Shared>,
    tasks: Mutex<Tasks>,
}

#[derive(Debug, Default)]
struct Tasks {
    /// Running task, and earlier ones that have not been joined.
    all: JoinSet<Result<()>>,
    started: u64,
}

impl Keeper {
    pub(super) fn new(shared: Shared) -> Self {
        Self {
            shared: Arc::new(shared),
            tasks: Mutex::default(),
        }
    }

    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a task on the caller's runtime if none is running and the registration has not left.
    /// Returns false if a task is missing and the caller is outside a runtime.
    pub(super) fn keep_running(&self) -> bool {
        let mut tasks = self.tasks();
        if self.shared.is_running() || self.shared.state.borrow().is_left() {
            return true;
        }
        let runtime = Handle::try_current();
        runtime
            .map(|runtime| tasks.spawn(&self.shared, &runtime))
            .is_ok()
    }

    /// Aborts the running task, and starts another on the caller's runtime.
    fn replace(&self) {
        let mut tasks = self.tasks();
        tasks.all.abort_all();
        if let Ok(runtime) = Handle::try_current() {
            tasks.spawn(&self.shared, &runtime);
        }
    }

    fn leave_limit(&self) -> Duration {
        self.shared
            .request_timeout
            .saturating_mul(2)
            .saturating_add(SPARE)
    }

    /// Waits for a state that `fits`, and restarts the task meanwhile if it has ended.
    pub(super) async fn reach(&self, fits: impl Fn(&State) -> bool) -> State {
        let mut states = self.shared.state.subscribe();
        loop {
            self.keep_running();
            let state = states.borrow_and_update().clone();
            if fits(&state) || states.changed().await.is_err() {
                return state;
            }
        }
    }

    /// Returns the result of the task that left, or `Ok` if another caller has received it.
    pub(super) async fn join(&self) -> Result<()> {
        let mut tasks = std::mem::take(&mut self.tasks().all);
        let joined = async {
            while let Some(ended) = tasks.join_next().await {
                if let Ok(result) = ended {
                    return result;
                }
            }
            if self.shared.state.borrow().is_left() {
                Ok(())
            } else {
                Err(outside())
            }
        };
        within(SPARE, joined)
            .await
            .unwrap_or_else(|| Err(self.shared.no_answer()))
    }
}

fn outside() -> Error {
    Error::invalid(
        "registration",
        "cannot leave outside a tokio runtime; call close inside one",
    )
}

/// Orders the registration to leave, and waits until it has left: on the runtime of its task, or
/// else on that of the caller. Returns at once if the registration has been dropped. The weak
/// reference does not prevent that.
pub(super) async fn leave(keeper: &Weak<Keeper>) {
    let Some(limit) = keeper.upgrade().map(|keeper| keeper.leave_limit()) else {
        return;
    };
    if within(limit, left(keeper)).await.is_none() {
        keeper.upgrade().inspect(|keeper| keeper.replace());
        within(limit, left(keeper)).await;
    }
}

async fn left(keeper: &Weak<Keeper>) {
    let Some(mut states) = keeper
        .upgrade()
        .map(|keeper| keeper.shared.order_to_leave())
    else {
        return;
    };
    loop {
        if !keeper.upgrade().is_some_and(|keeper| keeper.keep_running()) {
            return;
        }
        let left = states.borrow_and_update().is_left();
        if left || states.changed().await.is_err() {
            return;
        }
    }
}

/// Awaits `future` for at most `limit`. Outside a runtime there is no clock, and thus no limit.
async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    match Handle::try_current() {
        Ok(_) => timeout(limit, future).await.ok(),
        Err(_) => Some(future.await),
    }
}

impl Tasks {
    fn spawn(&mut self, shared: &Arc<Shared>, runtime: &Handle) {
        self.started += 1;
        let resumed = (self.started > 1).then(|| shared.state.borrow().clone());
        let (at_work, shared) = (
            AtWork::new(Arc::clone(shared), self.started),
            Arc::clone(shared),
        );
        // The guard is created before the task first runs: a runtime that shuts down drops the task
        // without a poll.
        let task = async move {
            let _at_work = at_work;
            supervise(shared, resumed).await
        };
        self.all.spawn_on(task, runtime);
    }
}

/// Runs a worker until it has left, and restarts it after a panic. The supervisor runs no user
/// code.
async fn supervise(shared: Arc<Shared>, mut resumed: Option<State>) -> Result<()> {
    let mut failures = 0;
    loop {
        let leaving = shared.is_leaving();
        let mut tasks = JoinSet::new();
        tasks.spawn(Worker::new(Arc::clone(&shared)).run(resumed));
        let error = match tasks.join_next().await {
            Some(Ok(result)) => return result,
            Some(Err(error)) => shared.panicked(error),
            None => Error::Closed,
        };
        if leaving {
            shared.state.send_replace(State::Left);
            return Err(error);
        }
        shared.set_failing(&format!(
            "the registrar panicked and is started again: {}",
            error.chain()
        ));
        rest(&shared, failures).await;
        failures = failures.saturating_add(1);
        resumed = Some(shared.state.borrow().clone());
    }
}

/// Waits for a backoff, or for the order to leave.
async fn rest(shared: &Shared, failures: u32) {
    let mut leave = shared.leave.subscribe();
    tokio::select! {
        () = sleep(shared.config.backoff.delay(failures, fastrand::f64())) => {}
        _ = leave.wait_for(|leave| *leave) => {}
    }
}
