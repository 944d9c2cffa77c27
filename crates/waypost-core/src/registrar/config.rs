//! Settings of a registration, and their validation.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::backoff::{BackoffConfig, fraction};
use crate::registry::{Error, LONGEST_TTL, Result, SHORTEST_TTL};

/// Settings of a registration. Start from [`Config::default`] and change individual fields.
///
/// Each duration may be [`Duration::MAX`], which means no limit, except [`ttl`](Config::ttl) and
/// [`interval`](Config::interval).
///
/// ```
/// use std::time::Duration;
/// use waypost_core::registrar::Config;
///
/// let mut config = Config::default();
/// config.interval = Duration::from_secs(20);
/// let error = config.check().unwrap_err();
/// assert!(error.to_string().starts_with("registration ttl: 15s must be more than the interval, 20s"));
///
/// config.ttl = Duration::from_secs(60);
/// config.check()?;
/// # Ok::<(), waypost_core::registry::Error>(())
/// ```
///
/// [`RegistrationBuilder::config`](super::RegistrationBuilder::config) takes the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Lifetime of the record unless it is refreshed. Default 15 s; at least 1 s, at most 9 000 000
    /// 000 s (the longest lease of etcd), and more than [`interval`](Config::interval). Clients
    /// treat a crashed server as lost after this time.
    pub ttl: Duration,
    /// Time between two heartbeats and between two health checks. Each heartbeat repairs any loss
    /// of the record. Default 5 s; keep it below half the TTL, so that one lost heartbeat has no
    /// effect. All registrations of one registry handle send their heartbeats together. Their phase
    /// is random, so that the heartbeats of a fleet do not coincide; for this reason the first
    /// heartbeat after the start comes sooner.
    pub interval: Duration,
    /// Maximum duration of one request to the registry, and of one health check. Default 2 s. A
    /// longer timeout of the registry itself applies to its requests, but not to the check. A
    /// deregistration with its retries takes no longer than one request.
    pub timeout: Duration,
    /// Delay before a retry. Default 50 ms to 2 s. `initial` is also the minimum interval between
    /// two writes of a record that changes again and again.
    pub backoff: BackoffConfig,
    /// Upper bound of the delay before the first retry after the registry became unreachable while
    /// the record was registered, so that a fleet does not register again at one instant. Default 3
    /// s; never more than the interval, nor than half of the rest of the TTL after one interval.
    pub reregister_jitter: Duration,
    /// Time for which a draining server continues to serve after it was deregistered. Default 1 s.
    /// Clients with a stale snapshot can still reach it.
    pub drain_delay: Duration,
    /// Number of consecutive failed checks after which the node is deregistered. Default 1.
    pub failure_threshold: NonZeroU32,
    /// Number of consecutive passed checks after which an unhealthy node is registered again.
    /// Default 2, against flapping. At the start one is enough.
    pub success_threshold: NonZeroU32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(15),
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            backoff: BackoffConfig {
                initial: Duration::from_millis(50),
                max: Duration::from_secs(2),
            },
            reregister_jitter: Duration::from_secs(3),
            drain_delay: Duration::from_secs(1),
            failure_threshold: NonZeroU32::MIN,
            success_threshold: NonZeroU32::MIN.saturating_add(1),
        }
    }
}

impl Config {
    /// Validates the settings. A TTL of less than two intervals is allowed, but logged as a
    /// warning.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the invalid setting and the allowed values.
    pub fn validate(&self) -> Result<()> {
        self.check()?;
        if self.ttl < self.interval.saturating_mul(2) {
            tracing::warn!(ttl = ?self.ttl, interval = ?self.interval, "ttl is below two intervals: one lost heartbeat expires the record");
        }
        Ok(())
    }

    /// Validates as [`validate`](Config::validate) does, without the warning. Intended for callers
    /// that validate before the registration does.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the invalid setting and the allowed values.
    pub fn check(&self) -> Result<()> {
        let refuse =
            |what: &str, why: String| Err(Error::invalid(format!("registration {what}"), why));
        if self.ttl < SHORTEST_TTL {
            return refuse(
                "ttl",
                format!(
                    "{:?} is too short; give it at least {SHORTEST_TTL:?}",
                    self.ttl
                ),
            );
        }
        if self.ttl > LONGEST_TTL {
            return refuse(
                "ttl",
                format!(
                    "{:?} is too long; give it at most {LONGEST_TTL:?}, the longest lease of etcd",
                    self.ttl
                ),
            );
        }
        if self.interval.is_zero() {
            return refuse("interval", "is zero; 5 s is usual".to_owned());
        }
        if self.ttl <= self.interval {
            return refuse(
                "ttl",
                format!(
                    "{:?} must be more than the interval, {:?}, or the record comes and goes",
                    self.ttl, self.interval
                ),
            );
        }
        if self.timeout.is_zero() {
            return refuse("timeout", "is zero; 2 s is usual".to_owned());
        }
        let BackoffConfig { initial, max } = self.backoff;
        if initial.is_zero() || initial > max {
            return refuse(
                "backoff",
                format!("{initial:?} to {max:?} is not a range above zero"),
            );
        }
        Ok(())
    }

    /// Draws the delay before the first retry of a record that was registered when the registry
    /// became unreachable.
    pub(super) fn jitter(&self, chance: f64) -> Duration {
        let left = self.ttl.saturating_sub(self.interval) / 2;
        fraction(self.reregister_jitter.min(self.interval).min(left), chance)
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
        assert!(
            with(|c| (c.ttl, c.interval) = (Duration::from_secs(30), Duration::from_secs(20)))
                .is_ok()
        );
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
        insta::assert_snapshot!(text(with(|c| c.backoff.initial = seconds(3))), @"registration backoff: 3s to 2s is not a range above zero");
    }

    #[test]
    fn the_backoff_doubles_up_to_its_bound_and_is_drawn_from_zero_on() {
        let backoff = Config::default().backoff;
        let bounds: Vec<_> = (0..8)
            .map(|failures| backoff.delay(failures, 1.0).as_millis())
            .collect();
        assert_eq!(bounds, [50, 100, 200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(backoff.delay(u32::MAX, 0.5), Duration::from_secs(1));
        assert_eq!(backoff.delay(3, 0.0), Duration::ZERO);
        let endless = BackoffConfig {
            initial: Duration::MAX,
            max: Duration::MAX,
        };
        assert_eq!(endless.delay(7, 1.0), Duration::MAX);
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
