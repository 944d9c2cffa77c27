//! Times at which records are written again after an outage of the cluster. All clients see its end
//! at the same moment, and must not all write then.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Availability of the cluster, as far as this handle has seen.
#[derive(Debug, Default)]
pub(super) struct Presence(Mutex<State>);

#[derive(Clone, Copy, Debug, Default)]
enum State {
    /// No outage so far.
    #[default]
    There,
    /// Outage since this time.
    Away(Instant),
    Back(Return),
}

#[derive(Clone, Copy, Debug)]
struct Return {
    at: Instant,
    /// Duration of the outage; the longer, the more clients wait.
    after: Duration,
    /// Random number, so that the times differ after each outage.
    drawn: u64,
}

impl Presence {
    /// Records the start of an outage: no member can be reached.
    pub(super) fn goes(&self, now: Instant) {
        let mut state = self.lock();
        if !matches!(*state, State::Away(_)) {
            *state = State::Away(now);
        }
    }

    /// Records a response under a leader, which ends an outage.
    pub(super) fn answers(&self, now: Instant) {
        let mut state = self.lock();
        if let State::Away(since) = *state {
            let after = now.saturating_duration_since(since);
            *state = State::Back(Return {
                at: now,
                after,
                drawn: fastrand::u64(..),
            });
        }
    }

    /// Returns the time at which this record may be written: spread evenly, from the end of the
    /// outage, over twice its duration and at most `longest`. None without an outage, and during
    /// one.
    pub(super) fn turn(&self, record: &impl Hash, longest: Duration) -> Option<Instant> {
        let State::Back(Return { at, after, drawn }) = *self.lock() else {
            return None;
        };
        let mut hasher = DefaultHasher::new();
        (drawn, record).hash(&mut hasher);
        let share = hasher.finish() as f64 / u64::MAX as f64;
        Some(at + longest.min(after * 2).mul_f64(share))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPREAD: Duration = Duration::from_secs(3);

    fn returned(at: Instant, after: Duration) -> Presence {
        let presence = Presence::default();
        presence.goes(at - after);
        presence.answers(at);
        presence
    }

    #[tokio::test(start_paused = true)]
    async fn there_are_turns_only_after_a_return() {
        let (presence, now) = (
            Presence::default(),
            Instant::now() + Duration::from_secs(60),
        );
        presence.answers(now);
        assert_eq!(presence.turn(&1, SPREAD), None);
        presence.goes(now);
        presence.goes(now + SPREAD / 2);
        assert_eq!(presence.turn(&1, SPREAD), None, "it is away");
        presence.answers(now + SPREAD);
        let turn = presence.turn(&1, SPREAD).unwrap();
        presence.answers(now + SPREAD * 3);
        assert_eq!(presence.turn(&1, SPREAD), Some(turn), "it stays");
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_outage_has_early_turns() {
        let now = Instant::now() + Duration::from_secs(60);
        for (outage, longest) in [
            (Duration::ZERO, 0),
            (SPREAD / 6, 1_000),
            (SPREAD, 3_000),
            (SPREAD * 9, 3_000),
        ] {
            let presence = returned(now, outage);
            let last = (0..1_000)
                .map(|record| presence.turn(&record, SPREAD).unwrap())
                .max()
                .unwrap();
            assert!(
                (longest * 9 / 10..=longest).contains(&(last - now).as_millis()),
                "{outage:?}: {:?}",
                last - now
            );
        }
    }

    /// Twelve slots, each with a mean of 1 000 records: one is off by a fifth (6.6 standard
    /// deviations) once in 10^9 runs.
    #[tokio::test(start_paused = true)]
    async fn turns_are_spread_evenly_over_records_and_over_handles() {
        let now = Instant::now() + Duration::from_secs(60);
        let (one, mut slots) = (returned(now, SPREAD), [[0_u32; 12]; 2]);
        for number in 0..12_000 {
            for (slots, turn) in slots.iter_mut().zip([
                one.turn(&number, SPREAD),
                returned(now, SPREAD).turn(&"same", SPREAD),
            ]) {
                slots[usize::try_from((turn.unwrap() - now).as_millis() / 250)
                    .unwrap()
                    .min(11)] += 1;
            }
        }
        assert!(
            slots
                .iter()
                .flatten()
                .all(|slot| (800..1_200).contains(slot)),
            "{slots:?}"
        );
    }
}
