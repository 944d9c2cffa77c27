//! Start of the watch task of a handle, and its restart for the remaining watchers after it has ended
//! with its runtime.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;
use waypost_core::registry::{Broadcaster, Error, Result, WatchOptions, Watcher};

use crate::reader::Reader;
use crate::signals::SignalSource;
use crate::task::{GAP_DELAY, WatchTask};

/// Watchers of a handle, and the one task that feeds them; it ends when there are no listeners.
/// Clones refer to the same.
#[derive(Clone)]
pub(crate) struct DirWatcher {
    reader: Arc<Reader>,
    broadcaster: Broadcaster,
    kind: SignalSource,
    slot: Arc<Mutex<TaskSlot>>,
    stop: watch::Sender<bool>,
    refresh: Arc<Notify>,
}

#[derive(Default)]
struct TaskSlot {
    tasks: JoinSet<()>,
    /// Alive as long as the task.
    task: Weak<()>,
    closed: bool,
}

impl DirWatcher {
    pub(crate) fn new(reader: Arc<Reader>, kind: SignalSource) -> Self {
        let stop = watch::Sender::new(false);
        Self {
            reader,
            broadcaster: Broadcaster::default(),
            kind,
            slot: Arc::default(),
            stop,
            refresh: Arc::default(),
        }
    }

    pub(crate) fn broadcaster(&self) -> &Broadcaster {
        &self.broadcaster
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.slot().closed
    }

    /// Creates a watcher. The first one starts the task, on the runtime of the caller.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub(crate) fn watch(&self, options: &WatchOptions) -> Result<Watcher> {
        let mut slot = self.slot();
        if slot.closed {
            return Err(Error::Closed);
        }
        let watcher = if slot.task.strong_count() > 0 {
            let watcher = self.broadcaster.subscribe_to_fresh(options);
            self.refresh.notify_one();
            watcher
        } else {
            self.start(&mut slot, false);
            self.broadcaster.subscribe(options)
        };
        let watcher_of = self.clone();
        Ok(watcher.on_pending(move |_| watcher_of.restart()))
    }

    /// Ends every watcher, and returns the tasks that are ending.
    pub(crate) fn close(&self) -> JoinSet<()> {
        let tasks = {
            let mut slot = self.slot();
            slot.closed = true;
            std::mem::take(&mut slot.tasks)
        };
        self.broadcaster.close();
        self.stop.send_replace(true);
        tasks
    }

    /// Ends every watcher, and aborts the task.
    pub(crate) fn abort(&self) {
        self.close().abort_all();
    }

    fn slot(&self) -> MutexGuard<'_, TaskSlot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the task. Its start and its idle end are decided under the same lock.
    fn start(&self, slot: &mut TaskSlot, is_restart: bool) {
        while slot.tasks.try_join_next().is_some() {}
        let alive = Arc::new(());
        slot.task = Arc::downgrade(&alive);
        let unfinished = Unfinished {
            broadcaster: Some(self.broadcaster.clone()),
            alive: Some(alive),
        };
        let task = WatchTask {
            reader: Arc::clone(&self.reader),
            broadcaster: self.broadcaster.clone(),
            kind: self.kind,
            stop: self.stop.subscribe(),
            refresh: Arc::clone(&self.refresh),
        };
        let slot_of = Arc::clone(&self.slot);
        let is_idle = move |broadcaster: &Broadcaster| {
            let mut slot = slot_of.lock().unwrap_or_else(PoisonError::into_inner);
            let is_idle = broadcaster.listeners() == 0;
            if is_idle {
                slot.task = Weak::new();
                broadcaster.forget();
            }
            is_idle
        };
        slot.tasks.spawn(async move {
            if is_restart {
                sleep(GAP_DELAY).await;
            }
            task.run(is_idle).await;
            unfinished.finish();
        });
    }

    /// Restarts a task that has ended, on the runtime of a watcher that is still polled.
    fn restart(&self) {
        let mut slot = self.slot();
        if !slot.closed && slot.task.strong_count() == 0 && Handle::try_current().is_ok() {
            self.start(&mut slot, true);
        }
    }
}

/// Drop guard in the watch task. If it is dropped before the task has finished, with its
/// runtime or by a panic, it wakes all watchers; the next task emits everything to them again.
struct Unfinished {
    broadcaster: Option<Broadcaster>,
    alive: Option<Arc<()>>,
}

impl Unfinished {
    fn finish(mut self) {
        self.broadcaster = None;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let Some(broadcaster) = self.broadcaster.take() else {
            return;
        };
        broadcaster.forget();
        // From here on, the next task may be started by any caller.
        self.alive = None;
        broadcaster.force_reset();
    }
}
