//! Open-loop load: calls at a steady rate, whatever their outcome.
//!
//! Each call is due at a fixed time, and its latency counts from that time. A client that waits for
//! responses before it calls again would not measure how long other calls had to wait (coordinated
//! omission). The number of outstanding calls is bounded by the rate and the calls' deadline.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use waypost::Channel;

use super::call::DemoCall;

/// Maximum number of due times that wait for dispatch. If they are full, the clock continues, only
/// later.
const TICKS: usize = 1024;

/// Running load. Dropping it aborts its calls.
pub(super) struct DemoLoad {
    tasks: JoinSet<()>,
    stop: watch::Sender<bool>,
}

impl DemoLoad {
    /// Starts `rate` calls per second, and sends each finished call to `calls`.
    pub(super) fn start<T: From<DemoCall> + Send + 'static>(
        channel: Channel,
        rate: u32,
        calls: mpsc::Sender<T>,
    ) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (ticks, due) = mpsc::channel(TICKS);
        let mut tasks = JoinSet::new();
        tasks.spawn_blocking(move || tick(rate, &ticks));
        tasks.spawn(dispatch(channel, due, stopped, calls));
        Self { tasks, stop }
    }

    /// Starts no more calls, and waits for the outstanding ones.
    pub(super) async fn finish(mut self) {
        self.stop.send_replace(true);
        while let Some(ended) = self.tasks.join_next().await {
            pass_on(ended);
        }
    }
}

/// Sends the due times. It has a thread of its own, since tokio's timer may be up to a millisecond
/// late, which is longer than a call.
fn tick(rate: u32, ticks: &mpsc::Sender<Instant>) {
    let origin = Instant::now();
    for number in 0_u64.. {
        let due = origin + after(number, rate);
        #[expect(
            clippy::disallowed_methods,
            reason = "a blocking thread of its own, made to sleep"
        )]
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if ticks.blocking_send(due).is_err() {
            return;
        }
    }
}

/// Returns the time from the first call to call `number`.
fn after(number: u64, rate: u32) -> Duration {
    let rate = u64::from(rate);
    Duration::from_secs(number / rate) + Duration::from_nanos(number % rate * 1_000_000_000 / rate)
}

async fn dispatch<T: From<DemoCall> + Send + 'static>(
    channel: Channel,
    mut due: mpsc::Receiver<Instant>,
    mut stop: watch::Receiver<bool>,
    calls: mpsc::Sender<T>,
) {
    let mut outstanding = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            Some(due) = due.recv() => {
                let (channel, calls) = (channel.clone(), calls.clone());
                // The receiver is gone only if the demo is over.
                outstanding.spawn(async move { calls.send(DemoCall::make(channel, due).await.into()).await.unwrap_or_default() });
            }
            Some(ended) = outstanding.join_next() => pass_on(ended),
        }
    }
    drop(due);
    while let Some(ended) = outstanding.join_next().await {
        pass_on(ended);
    }
}

/// Resumes the panic of a call, since a panicked call must not be missing from the count.
fn pass_on(ended: Result<(), JoinError>) {
    if let Some(panic) = ended.err().and_then(|error| error.try_into_panic().ok()) {
        std::panic::resume_unwind(panic);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_are_even_and_do_not_drift() {
        assert_eq!(after(1, 200), Duration::from_millis(5));
        assert_eq!(
            after(3 * 3600 * 7 + 1, 7),
            Duration::from_secs(3 * 3600) + Duration::from_nanos(142_857_142)
        );
    }
}
