//! How long etcd is left alone after a failure: the same for requests, leases, watches and lists.

use std::time::Duration;

use fastrand::Rng;
use waypost_core::backoff::full_jitter;

const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);

/// After so many failures before this one.
pub(crate) fn after(rng: &mut Rng, failures: u32) -> Duration {
    full_jitter(rng, SHORTEST, LONGEST, failures)
}

/// The same, but the first failure is followed at once: another member is there already.
pub(crate) fn after_all_but_the_first(rng: &mut Rng, failures: u32) -> Duration {
    if failures == 0 { Duration::ZERO } else { after(rng, failures) }
}
