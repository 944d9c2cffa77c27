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

use crate::{lease, watch};

/// Delay before a task starts again, so that one that ends at once does not keep its runtime busy.
const RESTART: Duration = Duration::from_millis(10);

/// Tasks of one handle.
pub(crate) struct Tasks {
    state: Mutex<State>,
    stop: Sender<bool>,
    /// Notified whenever a task ends.
    ended: Arc<Notify>,
}

struct State {
    /// None once the handle is closed.
    drivers: Option<Drivers>,
    /// One reference for each driver, alive as long as its task.
    running: [Weak<Guard>; 2],
    tasks: JoinSet<()>,
}

/// Drivers that the tasks run. Each is locked by its task, and outlives it.
struct Drivers {
    keeps: Arc<AsyncMutex<lease::Driver>>,
    follows: Arc<AsyncMutex<watch::Driver>>,
}

impl Tasks {
    pub(crate) fn new(keeps: lease::Driver, follows: watch::Driver) -> Self {
        let (keeps, follows) = (
            Arc::new(AsyncMutex::new(keeps)),
            Arc::new(AsyncMutex::new(follows)),
        );
        let drivers = Some(Drivers { keeps, follows });
        let state = State {
            drivers,
            running: [Weak::new(), Weak::new()],
            tasks: JoinSet::new(),
        };
        Self {
            state: Mutex::new(state),
            stop: Sender::new(false),
            ended: Arc::default(),
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().drivers.is_none()
    }

    /// Starts the tasks that do not run, on the runtime of the caller.
    ///
    /// # Errors
    /// [`Error::Closed`].
    fn start(&self) -> Result<()> {
        let mut state = self.lock();
        let State {
            drivers,
            running: [keeping, following],
            tasks,
        } = &mut *state;
        let Drivers { keeps, follows } = drivers.as_ref().ok_or(Error::Closed)?;
        if keeping.strong_count() > 0 && following.strong_count() > 0 {
            return Ok(());
        }
        while tasks.try_join_next().is_some() {}
        let (driver, stop) = (Arc::clone(keeps), self.stop.subscribe());
        self.ensure(tasks, keeping, async move {
            driver.lock().await.run(stop).await;
        });
        let (driver, stop) = (Arc::clone(follows), self.stop.subscribe());
        self.ensure(tasks, following, async move {
            driver.lock().await.run(stop).await;
        });
        Ok(())
    }

    /// Spawns a task, unless it runs.
    fn ensure(
        &self,
        tasks: &mut JoinSet<()>,
        running: &mut Weak<Guard>,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        if running.strong_count() > 0 {
            return;
        }
        let is_first = running.ptr_eq(&Weak::new());
        let guard = Arc::new(Guard(Arc::clone(&self.ended)));
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

    /// Runs work that needs the tasks. Tasks that end meanwhile are started again, on the runtime
    /// of the caller.
    ///
    /// # Errors
    /// Errors of the work; [`Error::Closed`].
    ///
    /// # Cancel safety
    /// That of the work.
    pub(crate) async fn run<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let mut work = pin!(work);
        loop {
            let ended = self.ended.notified();
            self.start()?;
            tokio::select! {
                biased;
                done = &mut work => return done,
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
        self.lock().drivers = None;
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
        state.drivers = None;
        state.tasks.abort_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Drop guard of a task. However the task ends, it wakes the callers that can start the task again.
struct Guard(Arc<Notify>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.notify_waiters();
    }
}
