//! Backoff after a failure of etcd: the same for requests, leases, watches and lists.

use std::time::Duration;

use fastrand::Rng;
use waypost_core::backoff::full_jitter;

const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);

/// Returns the backoff after `failures` earlier failures.
pub(crate) fn after(rng: &mut Rng, failures: u32) -> Duration {
    full_jitter(rng, SHORTEST, LONGEST, failures)
}

/// Returns the backoff, but none after the first failure: another member can be tried at once.
pub(crate) fn after_all_but_the_first(rng: &mut Rng, failures: u32) -> Duration {
    if failures == 0 {
        Duration::ZERO
    } else {
        after(rng, failures)
    }
}
