//! Heap of the timers of all peers of a service. A superseded entry is skipped when it comes up;
//! one that is due is never dropped.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use tokio::time::Instant;

use super::wait_queue::PeerKey;

/// Times at which peers are to be checked.
#[derive(Debug, Default)]
pub(super) struct Timers(BinaryHeap<Reverse<(Instant, PeerKey)>>);

impl Timers {
    /// Schedules a check of `key` at `at`. `armed` is the earliest time of `key` in the heap,
    /// stored in the peer.
    pub(super) fn arm(&mut self, key: PeerKey, at: Instant, armed: &mut Option<Instant>) {
        if armed.is_none_or(|armed| at < armed) {
            *armed = Some(at);
            self.0.push(Reverse((at, key)));
        }
    }

    /// Returns the time of the earliest entry.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.peek().map(|Reverse((at, _))| *at)
    }

    /// Removes and returns the earliest entry if it is due.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<(Instant, PeerKey)> {
        self.0.peek().filter(|Reverse((at, _))| *at <= now)?;
        self.0.pop().map(|Reverse(entry)| entry)
    }
}
