//! Times that requests, leases, watches and lists of a handle share.

use std::time::Duration;

use fastrand::Rng;
use waypost_core::backoff::BackoffConfig;

/// Times of a handle, from its [`EtcdOptions`](crate::EtcdOptions).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    /// Timeout of one request.
    pub(crate) request_timeout: Duration,
    /// Timeout of one member, if there is another to try.
    pub(crate) heartbeat_timeout: Duration,
    /// Interval between two reads that find what no event has reported; ± 20 %.
    pub(crate) relist_interval: Duration,
    /// Time after which a handle that failed over returns to its first member; ± 20 %.
    pub(crate) rebalance_interval: Duration,
    /// Backoff after a failure.
    pub(crate) backoff: BackoffConfig,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            request_timeout: Duration::from_secs(2),
            heartbeat_timeout: Duration::from_secs(1),
            relist_interval: Duration::from_secs(300),
            rebalance_interval: Duration::from_secs(300),
            backoff: BackoffConfig {
                initial: Duration::from_millis(50),
                max: Duration::from_secs(2),
            },
        }
    }
}

impl Timing {
    /// Returns the backoff after `failures` earlier failures.
    pub(crate) fn backoff(&self, rng: &mut Rng, failures: u32) -> Duration {
        self.backoff.delay(failures, rng.f64())
    }

    /// Returns the backoff, but zero after the first failure: another member can be tried at once.
    pub(crate) fn backoff_after_failover(&self, rng: &mut Rng, failures: u32) -> Duration {
        if failures == 0 {
            Duration::ZERO
        } else {
            self.backoff(rng, failures)
        }
    }

    /// Returns the time until the next relist.
    pub(crate) fn relist_in(&self, rng: &mut Rng) -> Duration {
        with_jitter(self.relist_interval, rng)
    }

    /// Returns the time until a handle that failed over returns to its first member.
    pub(crate) fn rebalance_in(&self, rng: &mut Rng) -> Duration {
        with_jitter(self.rebalance_interval, rng)
    }
}

fn with_jitter(interval: Duration, rng: &mut Rng) -> Duration {
    interval.mul_f64(0.8 + 0.4 * rng.f64())
}
