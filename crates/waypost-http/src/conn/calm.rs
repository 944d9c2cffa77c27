//! Reduced PING rate towards a peer that sent `ENHANCE_YOUR_CALM`.

use std::time::Duration;

use tokio::time::Instant;

/// `ENHANCE_YOUR_CALM` state of one peer: each such GOAWAY doubles the intervals between PINGs,
/// each minute without one halves them again.
///
/// The factor applies to the intervals and never to the timeouts of PINGs, so that a frozen peer is
/// detected in bounded time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EnhanceYourCalm {
    doublings: u32,
    since: Option<Instant>,
}

const MAX_DOUBLINGS: u32 = 6;
const HALVED_EVERY: Duration = Duration::from_secs(60);

impl EnhanceYourCalm {
    /// Doubles the factor, up to 64.
    pub(crate) fn raise(&mut self, now: Instant) {
        self.doublings = (self.doublings_at(now) + 1).min(MAX_DOUBLINGS);
        self.since = Some(now);
    }

    /// Returns the factor at `now`: 1 to 64.
    pub(crate) fn factor(&self, now: Instant) -> u32 {
        1 << self.doublings_at(now)
    }

    /// Returns the factor for the time that a call waits before its peer is probed: 1 to 4, so that
    /// a frozen peer is detected within 7 s.
    pub(crate) fn stall_factor(&self, now: Instant) -> u32 {
        self.factor(now).min(4)
    }

    fn doublings_at(&self, now: Instant) -> u32 {
        let calm = self
            .since
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let halvings = calm.as_secs() / HALVED_EVERY.as_secs();
        self.doublings
            .saturating_sub(u32::try_from(halvings).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minutes(n: u64) -> Duration {
        Duration::from_secs(60 * n)
    }

    #[tokio::test(start_paused = true)]
    async fn each_demand_doubles_and_each_minute_halves() {
        let start = Instant::now();
        let mut calm = EnhanceYourCalm::default();
        assert_eq!(calm.factor(start), 1);
        (0..3).for_each(|_| calm.raise(start));
        let factors = [0, 1, 2, 3, 4].map(|n| calm.factor(start + minutes(n)));
        assert_eq!(factors, [8, 4, 2, 1, 1]);
        assert_eq!(calm.stall_factor(start), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn six_demands_in_a_month_leave_nothing() {
        let mut now = Instant::now();
        let mut calm = EnhanceYourCalm::default();
        for _ in 0..6 {
            now += minutes(5 * 24 * 60);
            calm.raise(now);
            assert_eq!(calm.factor(now), 2);
        }
        assert_eq!(calm.factor(now + minutes(1)), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_factor_is_bounded() {
        let now = Instant::now();
        let mut calm = EnhanceYourCalm::default();
        (0..1_000).for_each(|_| calm.raise(now));
        assert_eq!((calm.factor(now), calm.stall_factor(now)), (64, 4));
    }
}
