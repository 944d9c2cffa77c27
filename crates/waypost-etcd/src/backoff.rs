//! Backoff after a failure of etcd: the same for requests, leases, watches and lists.

use std::time::Duration;

use fastrand::Rng;
use waypost_core::backoff::BackoffConfig;

const BACKOFF: BackoffConfig = BackoffConfig {
    initial: Duration::from_millis(50),
    max: Duration::from_secs(2),
};

/// Returns the backoff after `failures` earlier failures.
pub(crate) fn delay(rng: &mut Rng, failures: u32) -> Duration {
    BACKOFF.delay(failures, rng.f64())
}

/// Returns the backoff, but zero after the first failure: another member can be tried at once.
pub(crate) fn delay_after_failover(rng: &mut Rng, failures: u32) -> Duration {
    if failures == 0 {
        Duration::ZERO
    } else {
        delay(rng, failures)
    }
}
