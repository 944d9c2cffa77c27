//! Callers of a trial: each makes one call after another, drops some in flight, and counts.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::adapter::{Subject, TrialCaller};
use super::plan::Plan;

/// Pause of a caller between two calls.
const REST: Duration = Duration::from_millis(20);
/// Range of the deadlines of calls, in milliseconds.
const DEADLINES_MS: std::ops::Range<u64> = 500..1_500;

/// Call counts of all callers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counted {
    pub(super) calls: u64,
    pub(super) answered: u64,
}

/// Running callers.
pub(super) struct Callers {
    stop: watch::Sender<bool>,
    tasks: JoinSet<Counted>,
}

impl Callers {
    pub(super) fn start(subject: &Subject, plan: &Plan) -> Self {
        let stop = watch::Sender::new(false);
        let mut tasks = JoinSet::new();
        for number in 0..plan.callers {
            let rng = fastrand::Rng::with_seed(plan.seed.rotate_left(32) ^ number as u64);
            tasks.spawn(call_on(subject.caller(), rng, stop.subscribe()));
        }
        Self { stop, tasks }
    }

    /// Starts no more calls and waits for those in flight.
    pub(super) async fn stop(mut self) -> Counted {
        self.stop.send_replace(true);
        let mut sum = Counted::default();
        while let Some(ended) = self.tasks.join_next().await {
            let counted = ended.unwrap_or_default();
            (sum.calls, sum.answered) =
                (sum.calls + counted.calls, sum.answered + counted.answered);
        }
        sum
    }
}

async fn call_on(
    mut caller: TrialCaller,
    mut rng: fastrand::Rng,
    stop: watch::Receiver<bool>,
) -> Counted {
    let mut counted = Counted::default();
    while !*stop.borrow() {
        counted.calls += 1;
        let deadline = Duration::from_millis(rng.u64(DEADLINES_MS));
        // One call in eight is dropped at a random moment; the others end by themselves.
        let patience = if rng.u8(0..8) == 0 {
            Duration::from_millis(rng.u64(0..20))
        } else {
            deadline * 2
        };
        let answered = timeout(patience, caller.call(deadline))
            .await
            .is_ok_and(|answer| answer.is_ok());
        counted.answered += u64::from(answered);
        sleep(REST).await;
    }
    counted
}
