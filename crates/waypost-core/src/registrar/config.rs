//! Settings of a registration, and the rules between them.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::registry::{Error, LONGEST_TTL, Result, SHORTEST_TTL};

/// Settings of a registration. Start from [`Config::default`] and change what differs.
///
/// Each duration may be [`Duration::MAX`], which means no limit, except [`ttl`](Config::ttl) and [`interval`](Config::interval).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Lifetime of the record unless it is refreshed. Default 15 s; at least 1 s, at most 9 000 000 000 s (the longest lease of etcd), and
    /// more than [`interval`](Config::interval). Clients take a crashed server for lost after it.
    pub ttl: Duration,
    /// Time between two heartbeats, each of which repairs any loss of the record, and between two health checks. Default 5 s; below half
    /// the ttl, so that one lost heartbeat costs nothing. All registrations on one registry handle send their heartbeats together, at a
    /// time drawn by chance, so that a fleet does not: the first heartbeat after the start comes sooner.
    pub interval: Duration,
    /// Maximum duration of one request to the registry, and of one health check. Default 2 s. A registry whose own timeout is longer has
    /// that longer time for its requests; a check has not. Leaving as a whole takes no longer than one request.
    pub timeout: Duration,
    /// Upper bound of the wait before the first retry. Default 50 ms. The bound doubles with each failure; the wait is drawn evenly from
    /// zero to the bound (full jitter).
    pub back_off_min: Duration,
    /// Upper bound of the wait before any retry. Default 2 s.
    pub back_off_max: Duration,
    /// Upper bound of the wait before the first retry after a registry lost a record that was registered, so that a fleet does not come
    /// back at one instant. Default 3 s; never more than the interval, nor than half of what is left of the ttl.
    pub reregister_jitter: Duration,
    /// Time for which a draining server continues to serve after it left the registry. Default 1 s. Clients with a stale list still
    /// reach it.
    pub drain_delay: Duration,
    /// Number of consecutive failed checks after which the node leaves the registry. Default 1.
    pub failure_threshold: NonZeroU32,
    /// Number of consecutive passed checks after which a node that left as unhealthy is registered again. Default 2, against flapping.
    /// At the start one is enough.
    pub success_threshold: NonZeroU32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(15),
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            back_off_min: Duration::from_millis(50),
            back_off_max: Duration::from_secs(2),
            reregister_jitter: Duration::from_secs(3),
            drain_delay: Duration::from_secs(1),
            failure_threshold: NonZeroU32::MIN,
            success_threshold: NonZeroU32::MIN.saturating_add(1),
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
            tracing::warn!(ttl = ?self.ttl, interval = ?self.interval, "ttl is below two intervals: one lost heartbeat expires the record");
        }
        Ok(())
    }

    /// Checks as [`validate`](Config::validate) does, without the warning: for callers that check before the registration does.
    ///
    /// # Errors
    /// [`Error::Invalid`], naming the setting and what it must be.
    pub fn check(&self) -> Result<()> {
        let refuse = |what: &str, why: String| Err(Error::invalid(format!("registration {what}"), why));
        if self.ttl < SHORTEST_TTL {
            return refuse("ttl", format!("{:?} is too short; give it at least {SHORTEST_TTL:?}", self.ttl));
        }
        if self.ttl > LONGEST_TTL {
            return refuse(
                "ttl",
                format!("{:?} is too long; give it at most {LONGEST_TTL:?}, the longest lease of etcd", self.ttl),
            );
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

    /// Draws the wait before retry number `failures` by `chance` (0 to 1), evenly from zero to a bound that doubles.
    pub(super) fn back_off(&self, failures: u32, chance: f64) -> Duration {
        let doubled = self.back_off_min.saturating_mul(2_u32.saturating_pow(failures));
        fraction(doubled.min(self.back_off_max), chance)
    }

    /// Draws the wait before the first retry of a record that was registered when its registry failed.
    pub(super) fn jitter(&self, chance: f64) -> Duration {
        let left = self.ttl.saturating_sub(self.interval) / 2;
        fraction(self.reregister_jitter.min(self.interval).min(left), chance)
    }
}

/// Returns the part `chance` (0 to 1) of `bound`. `Duration::mul_f64` panics where rounding leaves the range, at `Duration::MAX`.
pub(super) fn fraction(bound: Duration, chance: f64) -> Duration {
    Duration::try_from_secs_f64(bound.as_secs_f64() * chance).unwrap_or(bound)
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
        insta::assert_snapshot!(text(with(|c| c.ttl = Duration::MAX)),
            @"registration ttl: 18446744073709551615.999999999s is too long; give it at most 9000000000s, the longest lease of etcd");
        insta::assert_snapshot!(text(with(|c| c.interval = Duration::MAX)),
            @"registration ttl: 15s must be more than the interval, 18446744073709551615.999999999s, or the record comes and goes");
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
        let endless = Config { back_off_min: Duration::MAX, back_off_max: Duration::MAX, ..config };
        assert_eq!(endless.back_off(7, 1.0), Duration::MAX);
    }

    #[test]
    fn jitter_keeps_within_the_interval_and_the_ttl() {
        let mut config = Config::default();
        assert_eq!(config.jitter(1.0), Duration::from_secs(3));
        config.interval = Duration::from_secs(2);
        assert_eq!(config.jitter(1.0), Duration::from_secs(2));
        config.ttl = Duration::from_secs(3);
        assert_eq!(config.jitter(1.0), Duration::from_millis(500));
    }
}
