//! How much less often a peer is asked after it demanded calm.

use std::time::Duration;

use tokio::time::Instant;

/// `ENHANCE_YOUR_CALM` of one peer: each doubles the times between PINGs, each minute of calm halves them again.
///
/// The factor spaces the PINGs and never the time for their answers, so that a frozen peer is found out in bounded time.
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

    /// Returns the factor for the time that a call waits before its peer is asked: 1 to 4, so that a frozen peer is out within 7 s.
    pub(crate) fn stall_factor(&self, now: Instant) -> u32 {
        self.factor(now).min(4)
    }

    fn doublings_at(&self, now: Instant) -> u32 {
        let calm = self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let halvings = calm.as_secs() / HALVED_EVERY.as_secs();
        self.doublings.saturating_sub(u32::try_from(halvings).unwrap_or(u32::MAX))
    }
}
