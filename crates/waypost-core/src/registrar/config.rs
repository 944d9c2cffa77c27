//! How a registration is kept, and what is refused.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::registry::{Error, Result};

/// The shortest lifetime a record may be given; registries count in whole seconds.
const SHORTEST_TTL: Duration = Duration::from_secs(1);

/// How a registration is kept. Start from [`Config::default`] and change what differs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// How long the record stays if nobody refreshes it: 15 s, at least 1 s, and more than [`interval`](Config::interval). A crashed
    /// server is taken for lost after it.
    pub ttl: Duration,
    /// How often the record is written again, which repairs any loss: 5 s. Below half the ttl, so that one lost beat costs nothing. All
    /// registrations on one registry handle beat together, at a time drawn by chance, so that a fleet does not: the first beat comes
    /// sooner.
    pub interval: Duration,
    /// How long one request to the registry, or one check, may take: 2 s, or the registry's own timeout if that is longer. Leaving as a
    /// whole takes no longer than this either.
    pub timeout: Duration,
    /// The longest wait before the first retry: 50 ms. It doubles with each failure; the wait is drawn from all below it.
    pub back_off_min: Duration,
    /// The longest wait before any retry: 2 s.
    pub back_off_max: Duration,
    /// Over how much time the first retry is spread after a registry fails a record that stood, so that a whole fleet does not come
    /// back at one instant: 3 s; at most the interval, and half of what is left of the ttl.
    pub spread: Duration,
    /// How long a draining server goes on serving after it has left the registry: 1 s. Clients that were told late still find it.
    pub drain_delay: Duration,
    /// How many checks must fail in a row before the node leaves: 1.
    pub leave_after: NonZeroU32,
    /// How many checks must pass in a row before a node that left as unhealthy comes back: 2, an interval apart, against flapping. At
    /// the start one is enough.
    pub return_after: NonZeroU32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(15),
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            back_off_min: Duration::from_millis(50),
            back_off_max: Duration::from_secs(2),
            spread: Duration::from_secs(3),
            drain_delay: Duration::from_secs(1),
            leave_after: NonZeroU32::MIN,
            return_after: NonZeroU32::MIN.saturating_add(1),
        }
    }
}

impl Config {
    /// Checks the settings against each other; a ttl of less than two intervals is allowed, with a warning in the log.
    ///
    /// # Errors
    /// [`Error::Invalid`], naming the setting and what it must be.
    pub fn validate(&self) -> Result<()> {
        self.check()?;
        if self.ttl < self.interval.saturating_mul(2) {
            tracing::warn!(ttl = ?self.ttl, interval = ?self.interval, "one lost beat loses the record: let ttl be two intervals or more");
        }
        Ok(())
    }

    /// As [`validate`](Config::validate), without the warning: for those who check before the registration does.
    ///
    /// # Errors
    /// [`Error::Invalid`], naming the setting and what it must be.
    pub fn check(&self) -> Result<()> {
        let refuse = |what: &str, why: String| Err(Error::invalid(format!("registration {what}"), why));
        if self.ttl < SHORTEST_TTL {
            return refuse("ttl", format!("{:?} is too short; give it at least {SHORTEST_TTL:?}", self.ttl));
        }
        if self.interval.is_zero() {
            return refuse("interval", "is zero; 5 s is usual".to_owned());
        }
        if self.ttl <= self.interval {
            return refuse(
                "ttl",
                format!("{:?} must be more than the interval, {:?}, or the record comes and goes", self.ttl, self.interval),
            );
        }
        if self.timeout.is_zero() {
            return refuse("timeout", "is zero; 2 s is usual".to_owned());
        }
        if self.back_off_min.is_zero() || self.back_off_min > self.back_off_max {
            return refuse("back-off", format!("{:?} to {:?} is no range above zero", self.back_off_min, self.back_off_max));
        }
        Ok(())
    }

    /// The wait before retry number `failures`: drawn by `chance` (0 to 1) from all below a bound that doubles.
    pub(super) fn back_off(&self, failures: u32, chance: f64) -> Duration {
        let doubled = self.back_off_min.saturating_mul(2_u32.saturating_pow(failures));
        doubled.min(self.back_off_max).mul_f64(chance)
    }

    /// The wait before the first retry of a record that stood when its registry failed.
    pub(super) fn spread(&self, chance: f64) -> Duration {
        let left = self.ttl.saturating_sub(self.interval) / 2;
        self.spread.min(self.interval).min(left).mul_f64(chance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(change: impl FnOnce(&mut Config)) -> Result<()> {
        let mut config = Config::default();
        change(&mut config);
        config.validate()
    }

    fn text(result: Result<()>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn defaults_and_the_classic_setting_are_allowed() {
        assert!(Config::default().validate().is_ok());
        assert!(with(|c| (c.ttl, c.interval) = (Duration::from_secs(30), Duration::from_secs(20))).is_ok());
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        let seconds = Duration::from_secs;
        insta::assert_snapshot!(text(with(|c| (c.ttl, c.interval) = (seconds(5), seconds(5)))),
            @"registration ttl: 5s must be more than the interval, 5s, or the record comes and goes");
        insta::assert_snapshot!(text(with(|c| c.ttl = Duration::from_millis(900))),
            @"registration ttl: 900ms is too short; give it at least 1s");
        insta::assert_snapshot!(text(with(|c| c.interval = Duration::ZERO)), @"registration interval: is zero; 5 s is usual");
        insta::assert_snapshot!(text(with(|c| c.timeout = Duration::ZERO)), @"registration timeout: is zero; 2 s is usual");
        insta::assert_snapshot!(text(with(|c| c.back_off_min = seconds(3))), @"registration back-off: 3s to 2s is no range above zero");
    }

    #[test]
    fn back_off_doubles_up_to_its_bound_and_is_drawn_from_zero_on() {
        let config = Config::default();
        let bounds: Vec<_> = (0..8).map(|failures| config.back_off(failures, 1.0).as_millis()).collect();
        assert_eq!(bounds, [50, 100, 200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(config.back_off(u32::MAX, 0.5), Duration::from_secs(1));
        assert_eq!(config.back_off(3, 0.0), Duration::ZERO);
    }

    #[test]
    fn spread_keeps_within_the_interval_and_the_ttl() {
        let mut config = Config::default();
        assert_eq!(config.spread(1.0), Duration::from_secs(3));
        config.interval = Duration::from_secs(2);
        assert_eq!(config.spread(1.0), Duration::from_secs(2));
        config.ttl = Duration::from_secs(3);
        assert_eq!(config.spread(1.0), Duration::from_millis(500));
    }
}
