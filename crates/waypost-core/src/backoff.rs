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

/// Draws a delay uniformly from zero to `min × 2^failures`, at most `max` (full jitter).
pub fn full_jitter(
    rng: &mut fastrand::Rng,
    min: Duration,
    max: Duration,
    failures: u32,
) -> Duration {
    let bound = min.saturating_mul(1 << failures.min(16)).min(max.max(min));
    // Rounding must not exceed the range of a duration.
    Duration::try_from_secs_f64(bound.as_secs_f64() * rng.f64()).unwrap_or(bound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bounds_are_taken() {
        let mut rng = fastrand::Rng::with_seed(3);
        for (min, max) in [
            (Duration::MAX, Duration::MAX),
            (Duration::MAX, Duration::ZERO),
            (Duration::ZERO, Duration::ZERO),
        ] {
            for failures in [0, 1, 16, u32::MAX] {
                assert!(full_jitter(&mut rng, min, max, failures) <= max.max(min));
            }
        }
    }

    #[test]
    fn the_bound_doubles_up_to_its_maximum_and_the_draw_is_spread() {
        let mut rng = fastrand::Rng::with_seed(3);
        let (min, max) = (Duration::from_millis(50), Duration::from_secs(5));
        for (failures, bound) in [(0, 50), (1, 100), (6, 3_200), (7, 5_000), (u32::MAX, 5_000)] {
            let bound = Duration::from_millis(bound);
            let draws: Vec<_> = (0..1_000)
                .map(|_| full_jitter(&mut rng, min, max, failures))
                .collect();
            assert!(draws.iter().all(|delay| *delay <= bound));
            assert!(draws.iter().any(|delay| *delay > bound * 9 / 10));
            assert!(draws.iter().any(|delay| *delay < bound / 10));
        }
    }
}
