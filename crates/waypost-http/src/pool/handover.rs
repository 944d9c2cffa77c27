//! Hand-over of returned capacity to waiting calls, correct on any memory model.
//!
//! Capacity is returned by an atomic on the connection; waiting calls are queued behind a lock.
//! Neither side may miss the other. Both execute a sequentially consistent fence between their
//! write and their read (Dekker): either a call that joins the queue sees the capacity, or the side
//! that returns it sees that a call waits. `crates/waypost-model` checks this file with loom.

use super::sync::{AtomicUsize, Mutex, MutexGuard, Ordering, PoisonError, fence};

/// Queue of waiting calls, and their number, which is read without the lock when capacity is
/// returned.
#[derive(Debug)]
pub(super) struct Handover<L> {
    waiting: AtomicUsize,
    line: Mutex<L>,
}

impl<L: Default> Default for Handover<L> {
    fn default() -> Self {
        Self {
            waiting: AtomicUsize::new(0),
            line: Mutex::new(L::default()),
        }
    }
}

impl<L> Handover<L> {
    /// Returns the last published number of waiting calls. A value of zero is exact enough for a
    /// call to try a pick without queueing.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Changes the queue; `change` returns the number of waiting calls afterwards. Then, still
    /// under the lock and with the number published, `serve` uses free capacity and returns the
    /// number of calls left.
    pub(super) fn enter<T>(
        &self,
        change: impl FnOnce(&mut L) -> (T, usize),
        serve: impl FnOnce(&mut L) -> usize,
    ) -> T {
        let mut line = self.lock();
        let (result, waiting) = change(&mut line);
        self.waiting.store(waiting, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.waiting.store(serve(&mut line), Ordering::Relaxed);
        result
    }

    /// Signals that capacity was added before this call. If calls wait, `serve` hands it to them
    /// and returns the number of calls left.
    pub(super) fn capacity_added(&self, serve: impl FnOnce(&mut L) -> usize) {
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) > 0 {
            let mut line = self.lock();
            self.waiting.store(serve(&mut line), Ordering::Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, L> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
