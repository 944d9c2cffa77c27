//! Counters of one peer, written by every call and read by strategies and snapshots.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::load::{LoadSlot, LoadTable};
use super::{AttemptEnd, Finished};

const RING: usize = 64;
const ENOUGH: u32 = 20;

/// Counters of a peer: attempts in flight, started and failed, and the median time to response
/// headers.
#[derive(Debug)]
pub struct PeerStats {
    in_flight: LoadSlot,
    attempts: AtomicU64,
    failed: AtomicU64,
    consecutive_failures: AtomicU32,
    waits_us: [AtomicU32; RING],
    waits: AtomicU32,
    p50_us: AtomicU32,
}

impl PeerStats {
    /// Creates counters at zero. The counter of attempts in flight is in `loads`.
    pub fn new(loads: &LoadTable) -> Self {
        Self {
            in_flight: loads.reserve(),
            attempts: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            consecutive_failures: AtomicU32::new(0),
            waits_us: std::array::from_fn(|_| AtomicU32::new(0)),
            waits: AtomicU32::new(0),
            p50_us: AtomicU32::new(0),
        }
    }

    /// Counts the start of an attempt.
    pub fn begin(&self) {
        self.in_flight.counter().fetch_add(1, Relaxed);
        self.attempts.fetch_add(1, Relaxed);
    }

    /// Reverts the start of an attempt that was not sent.
    pub fn abandon(&self) {
        self.release();
        self.attempts.fetch_sub(1, Relaxed);
    }

    /// Counts the end of an attempt. The time of an attempt without response headers counts only if
    /// its deadline expired; a lost connection carries no information about the latency.
    pub fn finish(&self, finished: &Finished) {
        self.release();
        match finished.end {
            end if end.is_failure() => {
                self.failed.fetch_add(1, Relaxed);
                self.consecutive_failures.fetch_add(1, Relaxed);
            }
            AttemptEnd::Answered => self.consecutive_failures.store(0, Relaxed),
            _ => {}
        }
        let wait = if finished.end == AttemptEnd::Deadline {
            finished.first_byte().or_else(|| Some(finished.waited()))
        } else {
            finished.first_byte()
        };
        if let Some(wait) = wait {
            self.record_wait(wait);
        }
    }

    /// Decrements the attempts in flight, never below zero.
    fn release(&self) {
        let _ = self
            .in_flight
            .counter()
            .fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1));
    }

    fn record_wait(&self, wait: Duration) {
        let wait_us = wait
            .as_secs()
            .saturating_mul(1_000_000)
            .saturating_add(u64::from(wait.subsec_micros()));
        let wait_us = u32::try_from(wait_us).unwrap_or(u32::MAX);
        let n = self.waits.fetch_add(1, Relaxed);
        self.waits_us[n as usize % RING].store(wait_us, Relaxed);
        let n = n.saturating_add(1);
        if n >= ENOUGH && n.is_multiple_of(16) {
            self.p50_us
                .store(self.median_us((n as usize).min(RING)), Relaxed);
        }
    }

    fn median_us(&self, filled: usize) -> u32 {
        let mut waits: [u32; RING] = std::array::from_fn(|i| self.waits_us[i].load(Relaxed));
        let (_, median, _) = waits[..filled].select_nth_unstable(filled / 2);
        *median
    }

    /// Returns the median time to response headers over the last 64 samples, recomputed after every
    /// 16; none before the 32nd.
    pub fn p50(&self) -> Option<Duration> {
        match self.p50_us.load(Relaxed) {
            0 => None,
            us => Some(Duration::from_micros(us.into())),
        }
    }

    /// Returns the number of attempts in flight.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.counter().load(Relaxed)
    }

    /// Returns the number of attempts started.
    pub fn attempts(&self) -> u64 {
        self.attempts.load(Relaxed)
    }

    /// Returns the number of attempts that failed ([`AttemptEnd::is_failure`]).
    pub fn failed(&self) -> u64 {
        self.failed.load(Relaxed)
    }

    /// Returns the number of failed attempts since the last response.
    pub fn consecutive_failures(&self) -> u32 {
        self.consecutive_failures.load(Relaxed)
    }

    /// Returns the slot of the counter of attempts in flight.
    pub(crate) fn load_slot(&self) -> u32 {
        self.in_flight.index()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn stats() -> PeerStats {
        PeerStats::new(&LoadTable::default())
    }

    fn finished(end: AttemptEnd, first_byte: Option<u64>) -> Finished {
        let now = Instant::now();
        let head_at = first_byte.map(|ms| now + Duration::from_millis(ms));
        Finished {
            head_at,
            ..Finished::new(now, now + Duration::from_millis(50), end)
        }
    }

    #[test]
    fn the_median_needs_twenty_answers_and_counts_no_lost_connection() {
        let stats = stats();
        for _ in 0..19 {
            stats.finish(&finished(AttemptEnd::Answered, Some(7)));
            stats.finish(&finished(AttemptEnd::Lost, None));
        }
        assert_eq!(stats.p50(), None);
        for _ in 19..64 {
            stats.finish(&finished(AttemptEnd::Answered, Some(7)));
        }
        assert_eq!(stats.p50(), Some(Duration::from_millis(7)));
        for _ in 0..64 {
            stats.finish(&finished(AttemptEnd::Deadline, None));
        }
        assert_eq!(
            stats.p50(),
            Some(Duration::from_millis(50)),
            "the wait of a deadline counts"
        );
    }

    #[test]
    fn each_end_is_counted_for_what_it_means_for_the_node() {
        use AttemptEnd::{Answered, Cancelled, Deadline, LocalMistake, Lost, NodeFailed, Refused};
        let stats = stats();
        for end in [NodeFailed, Lost, Deadline, Cancelled, Refused, LocalMistake] {
            stats.begin();
            stats.finish(&finished(end, None));
        }
        assert_eq!(
            (
                stats.in_flight(),
                stats.attempts(),
                stats.failed(),
                stats.consecutive_failures()
            ),
            (0, 6, 3, 3)
        );
        stats.begin();
        stats.finish(&finished(Answered, Some(1)));
        assert_eq!((stats.failed(), stats.consecutive_failures()), (3, 0));
        stats.begin();
        stats.abandon();
        stats.finish(&finished(Answered, None));
        assert_eq!(
            (stats.in_flight(), stats.attempts()),
            (0, 7),
            "never below zero"
        );
    }
}
