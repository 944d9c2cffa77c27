//! Timers of calls, kept armed from one call to the next.
//!
//! Every call needs a timer, and nearly every call ends before it fires. Dropping a timer removes
//! it from tokio's timer wheel, and a new one is inserted into it, both under the lock that all
//! threads of a runtime share. A timer that stays in the wheel and is moved to a later time needs
//! no lock. A kept timer that fires wakes the task of the call that used it last, which polls once
//! and sleeps again.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::{Handle, Id};
use tokio::time::{Instant, Sleep, sleep_until};

/// Maximum number of timers that a thread keeps for its next calls, of about 120 bytes each.
const MOST_IDLE: usize = 1_024;

thread_local! {
    /// Kept timers, the last used at the end. All belong to the runtime that the thread's calls run
    /// on.
    static IDLE: RefCell<Vec<(Id, Pin<Box<Sleep>>)>> = const { RefCell::new(Vec::new()) };
}

/// Timer of one call. When dropped, it is kept for another call on the same runtime.
pub(super) struct Timer {
    runtime: Id,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    /// Returns a timer that fires at `deadline`.
    ///
    /// # Panics
    /// Outside a runtime, as [`sleep_until`] does.
    pub(super) fn at(deadline: Instant) -> Self {
        let runtime = Handle::current().id();
        let mut sleep = take_idle(runtime);
        match &mut sleep {
            Some(sleep) => sleep.as_mut().reset(deadline),
            None => sleep = Some(Box::pin(sleep_until(deadline))),
        }
        Self { runtime, sleep }
    }

    /// Moves the timer to `deadline`.
    pub(super) fn reset(&mut self, deadline: Instant) {
        if let Some(sleep) = &mut self.sleep
            && sleep.deadline() != deadline
        {
            sleep.as_mut().reset(deadline);
        }
    }

    /// Polls until the timer fires.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.sleep
            .as_mut()
            .map_or(Poll::Pending, |sleep| sleep.as_mut().poll(cx))
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let Some(sleep) = self.sleep.take() else {
            return;
        };
        // A thread that is ending keeps no timer: the closure is dropped together with it.
        let _ = IDLE.try_with(|idle| keep(&mut idle.borrow_mut(), (self.runtime, sleep)));
    }
}

/// Keeps a timer. Returns it if enough are kept, so that it is dropped once the list is no longer
/// borrowed: its waker may own another timer.
fn keep(
    idle: &mut Vec<(Id, Pin<Box<Sleep>>)>,
    timer: (Id, Pin<Box<Sleep>>),
) -> Option<(Id, Pin<Box<Sleep>>)> {
    if idle.len() >= MOST_IDLE {
        return Some(timer);
    }
    idle.push(timer);
    None
}

/// Takes the timer that was used last. Timers of a runtime that the thread has left are dropped.
fn take_idle(runtime: Id) -> Option<Pin<Box<Sleep>>> {
    let (timer, stale) = IDLE
        .try_with(|idle| {
            let mut idle = idle.borrow_mut();
            match idle.pop_if(|(of, _)| *of == runtime) {
                Some((_, timer)) => (Some(timer), Vec::new()),
                None => (None, std::mem::take(&mut *idle)),
            }
        })
        .ok()?;
    // Dropped while the list is not borrowed: the waker of a timer may own another timer.
    drop(stale);
    timer
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::task::{Wake, Waker};
    use std::time::Duration;

    use super::*;

    fn idle() -> usize {
        IDLE.with_borrow(Vec::len)
    }

    async fn fired_after(mut timer: Timer) -> Duration {
        let start = Instant::now();
        poll_fn(|cx| timer.poll(cx)).await;
        start.elapsed()
    }

    fn after(seconds: u64) -> Timer {
        Timer::at(Instant::now() + Duration::from_secs(seconds))
    }

    #[tokio::test(start_paused = true)]
    async fn a_kept_timer_fires_at_its_new_time_earlier_or_later() {
        for seconds in [5, 9, 2, 2, 30, 0, 1] {
            assert_eq!(
                fired_after(after(seconds)).await,
                Duration::from_secs(seconds),
                "{seconds}"
            );
            assert_eq!(idle(), 1);
        }
        // Armed, and kept before it fired.
        for (armed, seconds) in [(5, 9), (9, 5), (1, 60)] {
            let mut timer = after(armed);
            assert!(poll_fn(|cx| Poll::Ready(timer.poll(cx))).await.is_pending());
            drop(timer);
            assert_eq!(
                fired_after(after(seconds)).await,
                Duration::from_secs(seconds),
                "{armed} {seconds}"
            );
        }
        assert_eq!(idle(), 1);
        let mut timer = after(1);
        timer.reset(Instant::now() + Duration::from_secs(7));
        assert_eq!(fired_after(timer).await, Duration::from_secs(7));
    }

    #[test]
    fn a_timer_of_a_runtime_that_has_ended_is_not_used() {
        for _ in 0..3 {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .unwrap();
            let waited = runtime.block_on(async {
                fired_after(Timer::at(Instant::now() + Duration::from_millis(1))).await
            });
            assert!(waited >= Duration::from_millis(1));
            assert_eq!(idle(), 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_thread_keeps_a_bounded_number_of_timers() {
        drop((0..MOST_IDLE + 50).map(|_| after(1)).collect::<Vec<_>>());
        assert_eq!(idle(), MOST_IDLE);
    }

    /// Waker of a task that was never finished.
    struct Task(#[expect(dead_code, reason = "dropped with the waker")] std::sync::Mutex<Timer>);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {}
    }

    #[test]
    fn a_timer_may_hold_the_waker_of_a_task_that_owns_another() {
        let runtime = || {
            tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .unwrap()
        };
        let (first, second) = (runtime(), runtime());
        first.block_on(async {
            let waker = Waker::from(Arc::new(Task(std::sync::Mutex::new(after(60)))));
            let mut timer = after(60);
            assert!(timer.poll(&mut Context::from_waker(&waker)).is_pending());
        });
        assert_eq!(idle(), 1);
        // The thread has left the first runtime: its timer is dropped, and the task's own timer may
        // be kept.
        second.block_on(async { drop(after(60)) });
        assert!(idle() <= 2);
    }
}
