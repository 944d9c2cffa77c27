//! Times at which records are written again after an outage of the cluster. All clients see its end
//! at the same moment, and must not all write then.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Availability of the cluster, as far as this handle has seen.
#[derive(Debug, Default)]
pub(super) struct ClusterOutage(Mutex<Availability>);

#[derive(Clone, Copy, Debug, Default)]
enum Availability {
    /// No outage so far.
    #[default]
    Up,
    /// Outage since this time.
    Down(Instant),
    Recovered(Recovery),
}

#[derive(Clone, Copy, Debug)]
struct Recovery {
    at: Instant,
    /// Duration of the outage; the longer, the more clients wait.
    duration: Duration,
    /// Random number, so that the times differ after each outage.
    seed: u64,
}

impl ClusterOutage {
    /// Records the start of an outage: no member can be reached.
    pub(super) fn down(&self, now: Instant) {
        let mut state = self.lock();
        if !matches!(*state, Availability::Down(_)) {
            *state = Availability::Down(now);
        }
    }

    /// Records a response under a leader, which ends an outage.
    pub(super) fn up(&self, now: Instant) {
        let mut state = self.lock();
        if let Availability::Down(since) = *state {
            let duration = now.saturating_duration_since(since);
            *state = Availability::Recovered(Recovery {
                at: now,
                duration,
                seed: fastrand::u64(..),
            });
        }
    }

    /// Returns the time at which this record may be written: spread evenly, from the end of the
    /// outage, over twice its duration and at most `max_spread`. None without an outage, and during
    /// one.
    pub(super) fn write_at(&self, record: &impl Hash, max_spread: Duration) -> Option<Instant> {
        let Availability::Recovered(Recovery { at, duration, seed }) = *self.lock() else {
            return None;
        };
        let mut hasher = DefaultHasher::new();
        (seed, record).hash(&mut hasher);
        let share = hasher.finish() as f64 / u64::MAX as f64;
        Some(at + max_spread.min(duration * 2).mul_f64(share))
    }

    fn lock(&self) -> MutexGuard<'_, Availability> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPREAD: Duration = Duration::from_secs(3);

    fn recovered(at: Instant, duration: Duration) -> ClusterOutage {
        let outage = ClusterOutage::default();
        outage.down(at - duration);
        outage.up(at);
        outage
    }

    #[tokio::test(start_paused = true)]
    async fn writes_are_spread_only_after_an_outage() {
        let (outage, now) = (
            ClusterOutage::default(),
            Instant::now() + Duration::from_secs(60),
        );
        outage.up(now);
        assert_eq!(outage.write_at(&1, SPREAD), None);
        outage.down(now);
        outage.down(now + SPREAD / 2);
        assert_eq!(outage.write_at(&1, SPREAD), None, "it is away");
        outage.up(now + SPREAD);
        let write_at = outage.write_at(&1, SPREAD).unwrap();
        outage.up(now + SPREAD * 3);
        assert_eq!(outage.write_at(&1, SPREAD), Some(write_at), "it stays");
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_outage_has_a_short_spread() {
        let now = Instant::now() + Duration::from_secs(60);
        for (outage, max_spread) in [
            (Duration::ZERO, 0),
            (SPREAD / 6, 1_000),
            (SPREAD, 3_000),
            (SPREAD * 9, 3_000),
        ] {
            let outage = recovered(now, outage);
            let last = (0..1_000)
                .map(|record| outage.write_at(&record, SPREAD).unwrap())
                .max()
                .unwrap();
            assert!(
                (max_spread * 9 / 10..=max_spread).contains(&(last - now).as_millis()),
                "{outage:?}: {:?}",
                last - now
            );
        }
    }

    /// Twelve buckets, each with a mean of 1 000 records: one is off by a fifth (6.6 standard
    /// deviations) once in 10^9 runs.
    #[tokio::test(start_paused = true)]
    async fn writes_are_spread_evenly_over_records_and_handles() {
        let now = Instant::now() + Duration::from_secs(60);
        let (one, mut buckets) = (recovered(now, SPREAD), [[0_u32; 12]; 2]);
        for number in 0..12_000 {
            for (buckets, write_at) in buckets.iter_mut().zip([
                one.write_at(&number, SPREAD),
                recovered(now, SPREAD).write_at(&"same", SPREAD),
            ]) {
                buckets[usize::try_from((write_at.unwrap() - now).as_millis() / 250)
                    .unwrap()
                    .min(11)] += 1;
            }
        }
        assert!(
            buckets
                .iter()
                .flatten()
                .all(|bucket| (800..1_200).contains(bucket)),
            "{buckets:?}"
        );
    }
}
