//! Subscription to one service in the directory, which survives the end of the directory's task or
//! its runtime.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;
use waypost_core::backoff::BackoffConfig;
use waypost_core::directory::{Directory, Snapshot, Subscription};
use waypost_core::record::ServiceName;
use waypost_core::registry::Error;

use super::lock;

/// Backoff between renewals of a subscription that ends repeatedly.
const RENEWAL: BackoffConfig = BackoffConfig {
    initial: Duration::from_millis(50),
    max: Duration::from_secs(2),
};

/// Subscription that can be renewed.
#[derive(Debug)]
pub(super) struct ServiceSubscription {
    directory: Directory,
    service: ServiceName,
    current: Mutex<Subscription>,
}

impl ServiceSubscription {
    /// Subscribes to a service.
    ///
    /// # Errors
    /// Those of [`Directory::subscribe`].
    pub(super) fn new(directory: &Directory, service: &ServiceName) -> Result<Self, Error> {
        let current = Mutex::new(directory.subscribe(service)?);
        Ok(Self {
            directory: directory.clone(),
            service: service.clone(),
            current,
        })
    }

    /// Returns the latest snapshot. Needs no runtime.
    pub(super) fn snapshot(&self) -> Snapshot {
        lock(&self.current).snapshot()
    }

    /// Returns an independent reader.
    pub(super) fn reader(&self) -> Subscription {
        lock(&self.current).clone()
    }

    /// Subscribes again, on the current runtime. The new task continues with the nodes of the one
    /// before.
    ///
    /// # Errors
    /// Those of [`Directory::subscribe`].
    pub(super) fn renew(&self) -> Result<Subscription, Error> {
        let renewed = self.directory.subscribe(&self.service)?;
        *lock(&self.current) = renewed.clone();
        Ok(renewed)
    }
}

/// Renewal schedule of a subscription that has ended.
#[derive(Debug, Default)]
pub(super) struct Renewal {
    failures: u32,
    renewed_at: Option<Instant>,
}

impl Renewal {
    /// Returns the time of the next renewal, after a subscription has ended or could not be
    /// created. One that lived for twice the maximum backoff resets it.
    pub(super) fn next_try(&mut self, now: Instant) -> Instant {
        let lived = |since: Instant| now.saturating_duration_since(since) >= RENEWAL.max * 2;
        if self.renewed_at.take().is_some_and(lived) {
            self.failures = 0;
        }
        let delay = RENEWAL.delay(self.failures, fastrand::f64());
        self.failures = self.failures.saturating_add(1);
        now + delay
    }

    /// Records that the subscription was renewed.
    pub(super) fn renewed(&mut self, now: Instant) {
        self.renewed_at = Some(now);
    }
}
