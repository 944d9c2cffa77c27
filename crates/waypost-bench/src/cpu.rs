//! CPU time of this thread, and what one thing costs in it.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::sleep;

/// Time between two looks at whether all is at rest.
const WINDOW: Duration = Duration::from_millis(5);
/// What a window at rest may cost above the others.
const NOISE: Duration = Duration::from_micros(15);
/// Windows at rest, one after the other, that mean the end of the work.
const QUIET: u32 = 3;
/// Turns that the client's tasks get after each event: an event passes from task to task.
const TURNS: usize = 12;

/// CPU time of this thread so far.
pub(crate) fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// Measures what work costs on a runtime of one thread, down to some microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meter {
    /// Cost of a window at rest: the timer itself.
    window: Duration,
    /// Cost of turns in which nothing is done.
    turns: Duration,
}

impl Meter {
    /// Learns the cost of rest. Everything must be at rest already.
    pub(crate) async fn new() -> Self {
        let (mut windows, mut idle_turns) = (Vec::new(), Vec::new());
        for _ in 0..21 {
            windows.push(window().await);
        }
        for _ in 0..101 {
            idle_turns.push(timed_turns(|| {}).await);
        }
        Self { window: middle(windows), turns: middle(idle_turns) }
    }

    /// The cost of `work` and of all that follows from it, until the thread is at rest. The thread has slept before, so its caches are cold.
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

    /// The cost of `work` and of what follows from it in the next turns of all tasks, where work follows on work.
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

/// Lets the tasks of this thread do what is to be done now.
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

/// Waits until this thread has nothing to do, whatever a timer costs on this machine.
pub(crate) async fn rest() {
    let mut quiet = 0;
    while quiet < 4 {
        let start = thread_cpu();
        sleep(WINDOW * 4).await;
        quiet = if thread_cpu() - start < Duration::from_micros(200) { quiet + 1 } else { 0 };
    }
}
