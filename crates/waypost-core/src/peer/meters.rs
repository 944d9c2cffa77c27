//! Counters of one peer, written by every call and read by strategies and views.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An answer, whatever it says of the caller's request.
    Answered,
    /// The node could not do its work: lost, refused, unavailable.
    Failed,
    /// The caller went away, or ran out of time.
    Cancelled,
}

const RING: usize = 64;
const ENOUGH: u32 = 20;

/// Calls in flight, calls made, calls failed, and the median wait for an answer.
#[derive(Debug)]
pub struct Meters {
    in_flight: Padded,
    calls: AtomicU64,
    failed: AtomicU64,
    waits_us: [AtomicU32; RING],
    waits: AtomicU32,
    p50_us: AtomicU32,
}

/// Alone on its cache line: every pick reads it, every call writes it.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Padded(AtomicU32);

impl Default for Meters {
    fn default() -> Self {
        Self {
            in_flight: Padded::default(),
            calls: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            waits_us: std::array::from_fn(|_| AtomicU32::new(0)),
            waits: AtomicU32::new(0),
            p50_us: AtomicU32::new(0),
        }
    }
}

impl Meters {
    /// Counts a call begun.
    pub fn begin(&self) {
        self.in_flight.0.fetch_add(1, Relaxed);
        self.calls.fetch_add(1, Relaxed);
    }

    /// Counts a call ended.
    pub fn end(&self, outcome: Outcome) {
        let _ = self.in_flight.0.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1));
        if outcome == Outcome::Failed {
            self.failed.fetch_add(1, Relaxed);
        }
    }

    /// Takes how long a call waited for the response's headers.
    pub fn record_wait(&self, wait: Duration) {
        let wait_us = u32::try_from(wait.as_micros()).unwrap_or(u32::MAX);
        let n = self.waits.fetch_add(1, Relaxed);
        self.waits_us[n as usize % RING].store(wait_us, Relaxed);
        if n + 1 >= ENOUGH && (n + 1).is_multiple_of(16) {
            self.p50_us.store(self.median_us((n as usize + 1).min(RING)), Relaxed);
        }
    }

    fn median_us(&self, filled: usize) -> u32 {
        let mut waits: [u32; RING] = std::array::from_fn(|i| self.waits_us[i].load(Relaxed));
        let (_, median, _) = waits[..filled].select_nth_unstable(filled / 2);
        *median
    }

    /// The median wait of the last 64 calls, renewed every 16; none below 20 calls.
    pub fn p50(&self) -> Option<Duration> {
        match self.p50_us.load(Relaxed) {
            0 => None,
            us => Some(Duration::from_micros(us.into())),
        }
    }

    /// Calls begun and not ended.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.0.load(Relaxed)
    }

    /// Calls begun.
    pub fn calls(&self) -> u64 {
        self.calls.load(Relaxed)
    }

    /// Calls that ended as [`Outcome::Failed`].
    pub fn failed(&self) -> u64 {
        self.failed.load(Relaxed)
    }

    /// Forgets the calls in flight: for callers that never said how they ended.
    pub fn reset(&self) {
        self.in_flight.0.store(0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_needs_twenty_waits() {
        let meters = Meters::default();
        for _ in 0..19 {
            meters.record_wait(Duration::from_millis(7));
        }
        assert_eq!(meters.p50(), None);
        for _ in 19..64 {
            meters.record_wait(Duration::from_millis(7));
        }
        assert_eq!(meters.p50(), Some(Duration::from_millis(7)));
        for _ in 0..64 {
            meters.record_wait(Duration::from_millis(9));
        }
        assert_eq!(meters.p50(), Some(Duration::from_millis(9)));
    }

    #[test]
    fn in_flight_never_goes_below_zero() {
        let meters = Meters::default();
        meters.begin();
        meters.end(Outcome::Failed);
        meters.end(Outcome::Failed);
        assert_eq!((meters.in_flight(), meters.calls(), meters.failed()), (0, 1, 2));
    }
}
