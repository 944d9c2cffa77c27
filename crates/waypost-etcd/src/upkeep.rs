//! Task for what no caller waits for: it removes the records of registrations that have ended
//! without being removed, and spreads the handles of a fleet over the members.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::registration::RecordWriter;
use crate::timing::Timing;

/// Interval between two looks.
const INTERVAL: Duration = Duration::from_secs(1);

pub(crate) struct UpkeepTask {
    writer: Arc<RecordWriter>,
    timing: Timing,
}

impl UpkeepTask {
    pub(crate) fn new(writer: Arc<RecordWriter>, timing: Timing) -> Self {
        Self { writer, timing }
    }

    /// Runs until it is stopped.
    ///
    /// # Cancel safety
    /// If it is dropped, it may be run again.
    pub(crate) async fn run(&mut self, mut stop: watch::Receiver<bool>) {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => {}
            () = self.keep_up() => {}
        }
    }

    async fn keep_up(&self) {
        let (mut rng, mut failures) = (fastrand::Rng::new(), 0_u32);
        loop {
            let delay = INTERVAL + self.timing.backoff_after_failover(&mut rng, failures);
            let begun = Instant::now();
            sleep(delay).await;
            // The process may have been stopped or the runtime blocked: its registrations could not
            // send heartbeats either.
            let slept = begun.elapsed().saturating_sub(delay);
            let removed = self
                .writer
                .remove_abandoned(slept, self.timing.request_timeout);
            failures = match removed.await {
                Ok(()) => 0,
                Err(_) => failures.saturating_add(1),
            };
            let RecordWriter {
                cluster,
                leases,
                watches,
                ..
            } = &*self.writer;
            if cluster.rebalance().await {
                leases.rebalance().await;
                watches.rebalance().await;
            }
            cluster.close_idle();
        }
    }
}
