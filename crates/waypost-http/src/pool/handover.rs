//! Room that is given back finds the calls that wait for it, on any memory model.
//!
//! Room is given back by an atomic on the connection, waiting calls stand in a line behind a lock, and neither side may miss the other. Both
//! put a sequentially consistent fence between what they write and what they read (Dekker): either a call that joins the line sees the
//! room, or the giver sees that a call waits. `crates/waypost-model` checks this file with loom.

use super::sync::{AtomicUsize, Mutex, MutexGuard, Ordering, PoisonError, fence};

/// A line of waiting calls, and the number of them where givers of room can read it without a lock.
#[derive(Debug)]
pub(super) struct Handover<L> {
    waiting: AtomicUsize,
    line: Mutex<L>,
}

impl<L: Default> Default for Handover<L> {
    fn default() -> Self {
        Self { waiting: AtomicUsize::new(0), line: Mutex::new(L::default()) }
    }
}

impl<L> Handover<L> {
    /// Number of calls that wait, as last published. Zero is exact enough for a call to try by itself first.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Changes the line; `change` returns how many wait after it. Then, still under the lock and with the number published, `serve` looks for
    /// room and returns how many are left.
    pub(super) fn enter<T>(&self, change: impl FnOnce(&mut L) -> (T, usize), serve: impl FnOnce(&mut L) -> usize) -> T {
        let mut line = self.lock();
        let (result, waiting) = change(&mut line);
        self.waiting.store(waiting, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.waiting.store(serve(&mut line), Ordering::Relaxed);
        result
    }

    /// Tells that room was made before this call. If calls wait, `serve` gives it to them and returns how many are left.
    pub(super) fn room_made(&self, serve: impl FnOnce(&mut L) -> usize) {
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
