//! Streams of abandoned calls, reset at a pace that servers accept.
//!
//! A server of h2 closes the connection with all its calls when more than 20 streams are reset that its application has not accepted yet.
//! A stream whose HEADERS are still queued cannot be taken back from h2, so its reset is held instead. Streams are accepted in order: once
//! one was answered, all before it were accepted, and their resets cost nothing. The others are paced, and held while the peer is in doubt,
//! since a frozen server reads all of them at once when it wakes.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

/// Resets of unanswered streams in one [`TICK`]: two ticks stay within the 20 that an h2 server allows.
const BATCH: usize = 10;
const TICK: Duration = Duration::from_millis(10);

/// Stream of an abandoned call: everything whose drop resets it, and the permit that it holds until then.
pub(crate) struct CancelledStream {
    id: u32,
    _handles: Box<dyn Any + Send>,
}

impl fmt::Debug for CancelledStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelledStream").field("id", &self.id).finish_non_exhaustive()
    }
}

impl CancelledStream {
    /// Wraps the h2 handles of the stream with this id, and its permit. They are dropped in the order of their fields: the permit is last.
    pub(crate) fn new(id: h2::StreamId, handles: impl Send + 'static) -> Self {
        Self { id: id.as_u32(), _handles: Box::new(handles) }
    }
}

/// Streams to be reset. Pure: time is an argument.
#[derive(Debug)]
pub(super) struct CancelQueue<T = CancelledStream> {
    waiting: BTreeMap<u32, T>,
    tick: Option<Instant>,
    left: usize,
}

impl<T> Default for CancelQueue<T> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), tick: None, left: BATCH }
    }
}

impl CancelQueue {
    pub(super) fn add(&mut self, stream: CancelledStream) {
        self.push(stream.id, stream);
    }
}

impl<T> CancelQueue<T> {
    fn push(&mut self, id: u32, stream: T) {
        self.waiting.insert(id, stream);
    }

    /// Returns the streams to be reset now, where streams up to `answered` are known to be accepted.
    pub(super) fn release(&mut self, now: Instant, answered: u32, alive: bool) -> Vec<T> {
        if self.waiting.is_empty() {
            return Vec::new();
        }
        let unanswered = self.waiting.split_off(&answered.saturating_add(1));
        let mut released: Vec<T> = std::mem::replace(&mut self.waiting, unanswered).into_values().collect();
        if alive && !self.waiting.is_empty() {
            self.begin_tick(now);
            while self.left > 0
                && let Some((_, stream)) = self.waiting.pop_first()
            {
                self.left -= 1;
                released.push(stream);
            }
        }
        released
    }

    fn begin_tick(&mut self, now: Instant) {
        if self.tick.is_none_or(|tick| now.saturating_duration_since(tick) >= TICK) {
            self.tick = Some(now);
            self.left = BATCH;
        }
    }

    /// Returns when to release more even if nothing happens.
    pub(super) fn next_wake(&self, alive: bool) -> Option<Instant> {
        let tick = self.tick.filter(|_| alive && !self.waiting.is_empty())?;
        tick.checked_add(TICK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(ids: impl IntoIterator<Item = u32>) -> CancelQueue<u32> {
        let mut queue = CancelQueue::default();
        ids.into_iter().for_each(|id| queue.push(id, id));
        queue
    }

    #[tokio::test(start_paused = true)]
    async fn unanswered_streams_are_reset_ten_in_ten_milliseconds() {
        let start = Instant::now();
        let mut queue = queue(1..=25);
        assert_eq!(queue.release(start, 0, true).len(), 10);
        assert!(queue.release(start + TICK / 2, 0, true).is_empty());
        assert_eq!(queue.next_wake(true), Some(start + TICK));
        assert_eq!(queue.release(start + TICK, 0, true).len(), 10);
        assert_eq!(queue.release(start + 2 * TICK, 0, true), [21, 22, 23, 24, 25]);
        assert_eq!(queue.next_wake(true), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_later_stream_that_was_answered_frees_all_before_it() {
        let start = Instant::now();
        let mut queue = queue([3, 5, 9].into_iter().chain(100..160));
        assert_eq!(queue.release(start, 7, false), [3, 5]);
        assert_eq!(queue.release(start, 120, false).len(), 22);
        assert_eq!(queue.next_wake(false), None);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_reset_while_the_peer_is_in_doubt() {
        let start = Instant::now();
        let mut queue = queue(1..=5);
        assert!(queue.release(start, 0, false).is_empty());
        assert_eq!(queue.release(start, 0, true).len(), 5);
    }
}
