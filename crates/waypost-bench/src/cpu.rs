//! CPU time of this thread, and the cost of one piece of work in it.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::sleep;

/// Interval between two checks for idleness.
const WINDOW: Duration = Duration::from_millis(5);
/// Maximum cost of an idle window above the median one.
const NOISE: Duration = Duration::from_micros(15);
/// Number of consecutive idle windows that mark the end of the work.
const QUIET: u32 = 3;
/// Number of times that the client's tasks are polled after each event, since an event passes from
/// task to task.
const TURNS: usize = 12;

/// Returns the CPU time of this thread so far.
pub(crate) fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}

/// Meter of the cost of work on a runtime of one thread, precise to some microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meter {
    /// Cost of an idle window: the timer itself.
    window: Duration,
    /// Cost of yields in which nothing is done.
    turns: Duration,
}

impl Meter {
    /// Measures the cost of idleness. Everything must be idle already.
    pub(crate) async fn new() -> Self {
        let (mut windows, mut idle_turns) = (Vec::new(), Vec::new());
        for _ in 0..21 {
            windows.push(window().await);
        }
        for _ in 0..101 {
            idle_turns.push(timed_turns(|| {}).await);
        }
        Self {
            window: middle(windows),
            turns: middle(idle_turns),
        }
    }

    /// Returns the cost of `work` and of all that follows from it, until the thread is idle. The
    /// thread has slept before, so its caches are cold.
    pub(crate) async fn after_rest(&self, work: impl FnOnce()) -> Duration {
        let start = thread_cpu();
        work();
        let mut cost = thread_cpu() - start;
        let mut quiet = 0;
        while quiet < QUIET {
            let extra = window().await.saturating_sub(self.window);
            quiet = if extra < NOISE { quiet + 1 } else { 0 };
            cost += extra;
        }
        cost
    }

    /// Returns the cost of `work` and of what follows from it in the next polls of all tasks, while
    /// work follows on work.
    pub(crate) async fn in_stream(&self, work: impl FnOnce()) -> Duration {
        timed_turns(work).await.saturating_sub(self.turns)
    }
}

fn middle(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

async fn timed_turns(work: impl FnOnce()) -> Duration {
    let start = thread_cpu();
    work();
    turns().await;
    thread_cpu() - start
}

/// Yields, so that the tasks of this thread do their pending work.
pub(crate) async fn turns() {
    for _ in 0..TURNS {
        tokio::task::yield_now().await;
    }
}

async fn window() -> Duration {
    let start = thread_cpu();
    sleep(WINDOW).await;
    thread_cpu() - start
}

/// Waits until this thread is idle, independent of the cost of a timer on this machine.
pub(crate) async fn idle() {
    let mut quiet = 0;
    while quiet < 4 {
        let start = thread_cpu();
        sleep(WINDOW * 4).await;
        quiet = if thread_cpu() - start < Duration::from_micros(200) {
            quiet + 1
        } else {
            0
        };
    }
}
