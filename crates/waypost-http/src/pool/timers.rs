//! One heap of timers for all peers of a service. An entry that was overtaken is passed over when it comes up; one that is due is never
//! dropped.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use tokio::time::Instant;

use super::peer::PeerKey;

/// Times at which peers are to be looked at.
#[derive(Debug, Default)]
pub(super) struct Timers(BinaryHeap<Reverse<(Instant, PeerKey)>>);

impl Timers {
    /// Looks at `key` at `at`. `armed` is the earliest time that `key` is in the heap with, kept by the peer.
    pub(super) fn arm(&mut self, key: PeerKey, at: Instant, armed: &mut Option<Instant>) {
        if armed.is_none_or(|armed| at < armed) {
            *armed = Some(at);
            self.0.push(Reverse((at, key)));
        }
    }

    /// The time of the earliest entry.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes out the earliest entry that is due.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<(Instant, PeerKey)> {
        self.0.peek().filter(|Reverse((at, _))| *at <= now)?;
        self.0.pop().map(|Reverse(entry)| entry)
    }
}
