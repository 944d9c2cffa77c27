//! Background tasks of a handle. They start when they are first needed, and start again if they
//! ended with their runtime while the handle is used on another. This module does not know the work
//! of the tasks.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch::Sender;
use tokio::sync::{Mutex as AsyncMutex, Notify};
use tokio::task::{JoinSet, yield_now};
use tokio::time::sleep;
use waypost_core::registry::{Error, Result, Watcher};

use crate::upkeep::UpkeepTask;
use crate::{lease, watch};

/// Delay before a task starts again, so that one that ends at once does not keep its runtime busy.
const RESTART: Duration = Duration::from_millis(10);

/// Tasks of one handle.
pub(crate) struct BackgroundTasks {
    state: Mutex<TaskState>,
    stop: Sender<bool>,
    /// Notified whenever a task ends.
    ended: Arc<Notify>,
}

struct TaskState {
    /// None once the handle is closed.
    work: Option<TaskWork>,
    /// Token of which each running task holds a reference.
    running: [Weak<EndGuard>; 3],
    tasks: JoinSet<()>,
}

/// Work of the tasks. Each is locked by its task, and outlives it.
struct TaskWork {
    leases: Arc<AsyncMutex<lease::LeaseTask>>,
    watches: Arc<AsyncMutex<watch::WatchTask>>,
    upkeep: Arc<AsyncMutex<UpkeepTask>>,
}

impl BackgroundTasks {
    pub(crate) fn new(
        leases: lease::LeaseTask,
        watches: watch::WatchTask,
        upkeep: UpkeepTask,
    ) -> Self {
        let work = Some(TaskWork {
            leases: Arc::new(AsyncMutex::new(leases)),
            watches: Arc::new(AsyncMutex::new(watches)),
            upkeep: Arc::new(AsyncMutex::new(upkeep)),
        });
        let state = TaskState {
            work,
            running: [const { Weak::new() }; 3],
            tasks: JoinSet::new(),
        };
        Self {
            state: Mutex::new(state),
            stop: Sender::new(false),
            ended: Arc::default(),
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().work.is_none()
    }

    /// Starts the tasks that do not run, on the runtime of the caller.
    ///
    /// # Errors
    /// [`Error::Closed`].
    fn start(&self) -> Result<()> {
        let mut state = self.lock();
        let TaskState {
            work,
            running,
            tasks,
        } = &mut *state;
        let TaskWork {
            leases,
            watches,
            upkeep,
        } = work.as_ref().ok_or(Error::Closed)?;
        if running.iter().all(|task| task.strong_count() > 0) {
            return Ok(());
        }
        let [leases_running, watches_running, upkeep_running] = running;
        while tasks.try_join_next().is_some() {}
        let (task, stop) = (Arc::clone(leases), self.stop.subscribe());
        self.ensure_running(tasks, leases_running, async move {
            task.lock().await.run(stop).await;
        });
        let (task, stop) = (Arc::clone(watches), self.stop.subscribe());
        self.ensure_running(tasks, watches_running, async move {
            task.lock().await.run(stop).await;
        });
        let (task, stop) = (Arc::clone(upkeep), self.stop.subscribe());
        self.ensure_running(tasks, upkeep_running, async move {
            task.lock().await.run(stop).await;
        });
        Ok(())
    }

    /// Spawns a task, unless it runs.
    fn ensure_running(
        &self,
        tasks: &mut JoinSet<()>,
        running: &mut Weak<EndGuard>,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        if running.strong_count() > 0 {
            return;
        }
        let is_first = running.ptr_eq(&Weak::new());
        let guard = Arc::new(EndGuard(Arc::clone(&self.ended)));
        *running = Arc::downgrade(&guard);
        tasks.spawn(async move {
            let _guard = guard;
            if !is_first {
                tracing::debug!("background task ended with its runtime; restarting on another");
                sleep(RESTART).await;
            }
            task.await;
        });
    }

    /// Runs a call that needs the tasks. Tasks that end meanwhile are started again, on the runtime
    /// of the caller.
    ///
    /// # Errors
    /// Errors of the call; [`Error::Closed`].
    ///
    /// # Cancel safety
    /// That of the call.
    pub(crate) async fn run<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        let mut call = pin!(call);
        loop {
            let ended = self.ended.notified();
            self.start()?;
            tokio::select! {
                biased;
                done = &mut call => return done,
                // The caller's own runtime may be the one that shuts down: yield, so that it can
                // drop the caller.
                () = ended => yield_now().await,
            }
        }
    }

    /// Wraps the watcher so that it starts the tasks again on the runtime that it is polled on.
    pub(crate) fn keep_running(self: &Arc<Self>, watcher: Watcher) -> Watcher {
        let tasks = Arc::clone(self);
        // Completes at the next end of a task.
        let mut ended = Box::pin(Arc::clone(&self.ended).notified_owned());
        watcher.on_pending(move |cx| {
            if Handle::try_current().is_err() {
                return;
            }
            if ended.as_mut().poll(cx).is_ready() {
                ended.set(Arc::clone(&tasks.ended).notified_owned());
                // The new future must be polled once to register its waker.
                cx.waker().wake_by_ref();
            }
            // If the handle is closed, `close` has ended its watchers already.
            let _ = tasks.start();
        })
    }

    /// Prevents new tasks. Running tasks continue until [`join`](Self::join).
    pub(crate) fn close(&self) {
        self.lock().work = None;
    }

    /// Stops all tasks and waits for their end.
    pub(crate) async fn join(&self) {
        self.stop.send_replace(true);
        let mut tasks = std::mem::take(&mut self.lock().tasks);
        while tasks.join_next().await.is_some() {}
    }

    /// Aborts all tasks at once.
    pub(crate) fn abort(&self) {
        let mut state = self.lock();
        state.work = None;
        state.tasks.abort_all();
    }

    fn lock(&self) -> MutexGuard<'_, TaskState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Drop guard of a task. However the task ends, it wakes the callers that can start the task again.
struct EndGuard(Arc<Notify>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.0.notify_waiters();
    }
}
