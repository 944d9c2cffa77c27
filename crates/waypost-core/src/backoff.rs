//! Exponential backoff with full jitter. The jitter keeps many clients from retrying at the same
//! moment.

use std::time::Duration;

/// Bounds of an exponential backoff with full jitter. The delay after failure `n` is drawn
/// uniformly from zero to `initial × 2^n`, at most `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackoffConfig {
    /// Longest delay after the first failure.
    pub initial: Duration,
    /// Longest delay after any failure. A `max` below `initial` counts as `initial`.
    pub max: Duration,
}

impl BackoffConfig {
    /// Returns the delay after failure number `failures`, counted from zero. `chance` is a random
    /// number from 0 to 1, another one for each delay.
    ///
    /// ```
    /// use std::time::Duration;
    /// use waypost_core::backoff::BackoffConfig;
    ///
    /// let backoff = BackoffConfig {
    ///     initial: Duration::from_millis(50),
    ///     max: Duration::from_secs(2),
    /// };
    /// assert_eq!(backoff.delay(0, 1.0), Duration::from_millis(50));
    /// assert_eq!(backoff.delay(3, 0.5), Duration::from_millis(200));
    /// assert_eq!(backoff.delay(u32::MAX, 1.0), Duration::from_secs(2));
    /// ```
    pub fn delay(&self, failures: u32, chance: f64) -> Duration {
        let doubled = self.initial.saturating_mul(1 << failures.min(31));
        fraction(doubled.min(self.max.max(self.initial)), chance)
    }
}

/// Returns the fraction `chance` (0 to 1) of `bound`. `Duration::mul_f64` would panic at
/// [`Duration::MAX`], where rounding exceeds the range.
pub(crate) fn fraction(bound: Duration, chance: f64) -> Duration {
    Duration::try_from_secs_f64(bound.as_secs_f64() * chance).unwrap_or(bound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bounds_are_taken() {
        for (initial, max) in [
            (Duration::MAX, Duration::MAX),
            (Duration::MAX, Duration::ZERO),
            (Duration::ZERO, Duration::ZERO),
        ] {
            let backoff = BackoffConfig { initial, max };
            for failures in [0, 1, 16, 31, 32, u32::MAX] {
                for chance in [0.0, 0.3, 1.0] {
                    assert!(backoff.delay(failures, chance) <= max.max(initial));
                }
            }
        }
    }

    #[test]
    fn the_bound_doubles_up_to_its_maximum_and_the_draw_is_spread() {
        let mut rng = fastrand::Rng::with_seed(3);
        let backoff = BackoffConfig {
            initial: Duration::from_millis(50),
            max: Duration::from_secs(5),
        };
        for (failures, bound) in [(0, 50), (1, 100), (6, 3_200), (7, 5_000), (u32::MAX, 5_000)] {
            let bound = Duration::from_millis(bound);
            let draws: Vec<_> = (0..1_000)
                .map(|_| backoff.delay(failures, rng.f64()))
                .collect();
            assert!(draws.iter().all(|delay| *delay <= bound));
            assert!(draws.iter().any(|delay| *delay > bound * 9 / 10));
            assert!(draws.iter().any(|delay| *delay < bound / 10));
        }
    }
}
