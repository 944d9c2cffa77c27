//! How long to wait before the next try of something that fails: full jitter, so that many clients do not try at once.

use std::time::Duration;

/// A delay drawn evenly from zero to `min × 2^failures`, at most `max` (full jitter).
pub fn full_jitter(rng: &mut fastrand::Rng, min: Duration, max: Duration, failures: u32) -> Duration {
    let bound = min.saturating_mul(1 << failures.min(16)).min(max);
    bound.mul_f64(rng.f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_doubles_up_to_its_maximum_and_the_draw_is_spread() {
        let mut rng = fastrand::Rng::with_seed(3);
        let (min, max) = (Duration::from_millis(50), Duration::from_secs(5));
        for (failures, bound) in [(0, 50), (1, 100), (6, 3_200), (7, 5_000), (u32::MAX, 5_000)] {
            let bound = Duration::from_millis(bound);
            let draws: Vec<_> = (0..1_000).map(|_| full_jitter(&mut rng, min, max, failures)).collect();
            assert!(draws.iter().all(|delay| *delay <= bound));
            assert!(draws.iter().any(|delay| *delay > bound * 9 / 10));
            assert!(draws.iter().any(|delay| *delay < bound / 10));
        }
    }
}
