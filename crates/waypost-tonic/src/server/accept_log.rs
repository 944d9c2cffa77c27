//! Log lines for failed accepts: a failure and its end at once, and then one line a minute with a
//! count.

use std::time::Duration;

use tokio::time::Instant;

/// Minimum time between two lines of failures.
const WINDOW: Duration = Duration::from_secs(60);

/// Rate limit for the log lines of failed accepts.
#[derive(Debug, Default)]
pub(super) struct AcceptLog {
    /// Time from which the next failure is logged; none before the first.
    next: Option<Instant>,
    /// Number of failures since the last line.
    failures: u64,
    /// True from a line of failures to the next accepted connection.
    failing: bool,
}

impl AcceptLog {
    /// Records a failure. Returns the number of failures to log, this one included, if a line is
    /// due.
    pub(super) fn on_failure(&mut self, now: Instant) -> Option<u64> {
        self.failures = self.failures.saturating_add(1);
        if self.next.is_some_and(|next| now < next) {
            return None;
        }
        self.next = now.checked_add(WINDOW);
        self.failing = true;
        Some(std::mem::take(&mut self.failures))
    }

    /// Records an accepted connection. Returns true if it ends failures that were logged.
    pub(super) fn on_accepted(&mut self) -> bool {
        std::mem::take(&mut self.failing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_failure_and_its_end_are_logged_at_once() {
        let (now, mut log) = (Instant::now(), AcceptLog::default());
        assert!(!log.on_accepted());
        assert_eq!(log.on_failure(now), Some(1));
        assert!(log.on_accepted());
        assert!(!log.on_accepted());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_logged_once_a_minute_with_their_count() {
        let (start, mut log) = (Instant::now(), AcceptLog::default());
        let lines: Vec<_> = (0..200)
            .filter_map(|second| log.on_failure(start + Duration::from_secs(second)))
            .collect();
        assert_eq!(lines, [1, 60, 60, 60]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_at_its_limit_that_now_and_then_accepts_logs_two_lines_a_minute() {
        let (start, mut log) = (Instant::now(), AcceptLog::default());
        let mut lines = 0;
        for second in 0..600 {
            lines += usize::from(
                log.on_failure(start + Duration::from_secs(second))
                    .is_some(),
            );
            lines += usize::from(log.on_accepted());
        }
        assert_eq!(lines, 20);
    }
}
