//! Histogram of latencies, in which a long run costs no more than a short one.

use std::time::Duration;

/// Number of buckets per doubling: a value is exact to one part in 128.
const STEPS: u64 = 128;
const STEP_BITS: u32 = STEPS.trailing_zeros();
/// Longest latency in microseconds, above any deadline here. A longer latency counts as this one.
const LONGEST_US: u64 = (1 << 36) - 1;

/// Counts of latencies in microseconds, in buckets that grow with the latency (as in HdrHistogram).
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: vec![0; bucket(LONGEST_US) + 1],
            total: 0,
        }
    }
}

impl Histogram {
    pub(crate) fn record(&mut self, latency: Duration) {
        let us = u64::try_from(latency.as_micros())
            .unwrap_or(LONGEST_US)
            .min(LONGEST_US);
        self.counts[bucket(us)] += 1;
        self.total += 1;
    }

    /// Returns the latency in microseconds that this share of all latencies does not exceed; 0 if
    /// there are none.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a rank among counts"
    )]
    pub(crate) fn quantile_us(&self, share: f64) -> u64 {
        let rank = (self.total as f64 * share).ceil() as u64;
        let mut seen = 0;
        let reached = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank.max(1)
        });
        reached.map_or(0, highest)
    }
}

/// Returns the bucket of a latency. Small latencies have one each.
#[expect(clippy::cast_possible_truncation, reason = "bounded by LONGEST_US")]
fn bucket(us: u64) -> usize {
    let shift = (u64::BITS - us.leading_zeros()).saturating_sub(STEP_BITS + 1);
    (u64::from(shift) * STEPS + (us >> shift)) as usize
}

/// Returns the longest latency of a bucket.
fn highest(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let shift = (bucket / STEPS).saturating_sub(1);
    ((bucket - shift * STEPS + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_latency_is_measured_to_within_one_part_in_128() {
        for us in (0..300)
            .chain((0..36).map(|bit| 1 << bit))
            .chain([1000, 12_345, 30_000_000, LONGEST_US])
        {
            let reported = highest(bucket(us));
            assert!(
                reported >= us && reported - us <= us / STEPS,
                "{us} reported as {reported}"
            );
        }
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_list() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile_us(0.5), 0);
        (1..=100).for_each(|us| histogram.record(Duration::from_micros(us)));
        assert_eq!(
            [0.0, 0.5, 0.99, 1.0].map(|share| histogram.quantile_us(share)),
            [1, 50, 99, 100]
        );
    }
}
