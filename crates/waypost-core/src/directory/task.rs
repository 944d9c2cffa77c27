//! Task of one service: watches it, updates its cache, publishes snapshots. The state machine
//! decides; the task owns the clock and the I/O.

use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use super::channel::Channel;
use super::outage_log::{OutageLine, OutageLog};
use super::source::{Item, Source};
use super::{Config, ServiceCache, Snapshot};
use crate::record::ServiceName;
use crate::registry::AnyRegistry;

/// Maximum number of events applied between two publications. A burst costs one snapshot, and other
/// tasks are not starved.
const BATCH: usize = 256;

pub(super) struct Task {
    service: ServiceName,
    channel: Arc<Channel>,
    cache: ServiceCache,
    source: Source,
    log: OutageLog,
    idle: Option<Idle>,
    idle_watch: Duration,
}

/// Period without a subscription.
struct Idle {
    since: Instant,
    /// Number of subscriptions ever made at the start of the period.
    subscribed: u64,
}

impl Task {
    pub(super) fn new(
        registry: AnyRegistry,
        config: &Config,
        service: &ServiceName,
        channel: Arc<Channel>,
    ) -> Self {
        let last = channel.sender.borrow().clone();
        Self {
            service: service.clone(),
            channel,
            cache: ServiceCache::resume(service, config.suspect_grace, last),
            source: Source::new(registry, service, config.backoff),
            log: OutageLog::default(),
            idle: None,
            idle_watch: config.idle_watch,
        }
    }

    /// Runs until the service has had no subscription for the idle time, and `remove` has removed it
    /// from the directory.
    pub(super) async fn run(mut self, remove: impl Fn() -> bool + Send) {
        loop {
            let wake = [self.cache.next_wake(), self.log.next_wake()]
                .into_iter()
                .flatten()
                .min();
            let idle_until = self.idle_until(now());
            tokio::select! {
                item = self.source.next() => self.take(item).await,
                () = at(wake) => self.tick(),
                () = self.channel.sender.closed(), if self.idle.is_none() => {}
                () = at(idle_until) => if self.is_over(&remove) { return },
            }
        }
    }

    /// Applies an item and all items that are ready, and publishes the result.
    async fn take(&mut self, first: Item) {
        let mut item = first;
        for _ in 0..BATCH {
            if !self.apply(item) {
                return self.publish();
            }
            match poll_fn(|cx| Poll::Ready(self.source.poll_next(cx))).await {
                Poll::Ready(next) => item = next,
                Poll::Pending => return self.publish(),
            }
        }
        self.apply(item);
        self.publish();
        yield_now().await;
    }

    /// Applies one item. Returns false for an error, which is published before any later item.
    fn apply(&mut self, item: Item) -> bool {
        let now = now();
        match item {
            Ok(event) => {
                self.cache.on_event(now, event);
                true
            }
            Err(error) => {
                self.cache.on_outage(now, &error);
                false
            }
        }
    }

    fn tick(&mut self) {
        self.cache.on_tick(now());
        let line = self.log.on_tick(now());
        self.write(line, None);
        self.publish();
    }

    /// Publishes the snapshot if it changed. The comparison uses counters, not nodes.
    fn publish(&mut self) {
        let new = self.cache.snapshot();
        let mut old = None;
        self.channel.sender.send_if_modified(|published| {
            let has_changed =
                published.generation != new.generation || published.outage != new.outage;
            if has_changed {
                // Drop the old snapshot after the lock of the readers is released: it may be the
                // last owner of many nodes.
                old = Some(std::mem::replace(published, new.clone()));
            }
            has_changed
        });
        if old.is_some() {
            let is_down = new.outage.is_some();
            let line = self.log.on_state(now(), is_down);
            self.write(line, old.as_ref());
        }
    }

    /// Logs a line about the registry. `old` is the previous snapshot.
    fn write(&self, line: Option<OutageLine>, old: Option<&Snapshot>) {
        let service = self.service.as_str();
        let error = self
            .cache
            .snapshot()
            .outage
            .as_ref()
            .map(|outage| &*outage.why);
        match line {
            None => {}
            Some(OutageLine::Down) => {
                tracing::warn!(
                    service,
                    error,
                    "registry watch fails; keeping the last snapshot"
                );
            }
            Some(OutageLine::Up) => {
                let outage_ms = old.map(|old| old.staleness(now()).as_millis());
                tracing::info!(service, outage_ms, "registry watch recovered");
            }
            Some(OutageLine::Flapping { outages }) => {
                tracing::warn!(service, outages, error, "registry watch flaps");
            }
        }
    }

    /// Returns the end of the watch if no subscription is made before; none if there is a
    /// subscription. Events do not delay the end.
    fn idle_until(&mut self, now: Instant) -> Option<Instant> {
        let subscribed = self.channel.subscribed();
        match &self.idle {
            _ if !self.channel.is_idle() => self.idle = None,
            Some(idle) if idle.subscribed == subscribed => {}
            _ => {
                self.idle = Some(Idle {
                    since: now,
                    subscribed,
                });
            }
        }
        self.idle.as_ref()?.since.checked_add(self.idle_watch)
    }

    fn is_over(&mut self, remove: &impl Fn() -> bool) -> bool {
        let now = now();
        let is_due = self.idle_until(now).is_some_and(|at| at <= now);
        is_due && remove()
    }
}

/// Waits until `moment`, or forever if there is none.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => pending().await,
    }
}

fn now() -> Instant {
    Instant::now()
}
