//! What a client says of its nodes at INFO: once per change, a flapping node once a minute with a count.

use std::time::Duration;

use tokio::time::Instant;

const EVERY: Duration = Duration::from_secs(60);
/// Lines about nodes of one service within a minute; more are counted.
const LINES: u32 = 20;

/// The last that was logged of one node.
#[derive(Debug, Default)]
pub(super) struct NodeLog {
    unreachable_since: Option<Instant>,
    logged_unreachable: bool,
    /// When the last lines were logged.
    lines: [Option<Instant>; 2],
    changes: u32,
}

/// One line about a node.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// The node cannot be connected.
    Unreachable {
        /// Changes since the last line that were not logged.
        changes: u32,
    },
    /// The node is connected after it could not be.
    Back {
        /// Time for which it was unreachable.
        after: Duration,
        /// Changes since the last line that were not logged.
        changes: u32,
    },
}

impl NodeLog {
    /// Takes in whether the node is ready, and whether a connect has failed since it was; returns the line that is due. A node that comes and
    /// goes has two lines a minute.
    pub(super) fn on_state(&mut self, now: Instant, ready: bool, failed: bool) -> Option<Line> {
        let was = self.unreachable_since;
        if ready {
            self.unreachable_since = None;
        } else if failed {
            self.unreachable_since.get_or_insert(now);
        }
        let unreachable = self.unreachable_since.is_some();
        self.changes += u32::from(unreachable != was.is_some());
        let too_many = self.lines[0].is_some_and(|at| now.saturating_duration_since(at) < EVERY);
        if unreachable == self.logged_unreachable || too_many {
            return None;
        }
        self.logged_unreachable = unreachable;
        self.lines = [self.lines[1], Some(now)];
        let changes = std::mem::take(&mut self.changes).saturating_sub(1);
        Some(match was {
            Some(since) if !unreachable => Line::Back { after: now.saturating_duration_since(since), changes },
            _ => Line::Unreachable { changes },
        })
    }
}

/// Bounds the lines about all nodes of a service.
#[derive(Debug, Default)]
pub(super) struct LineBudget {
    window: Option<Instant>,
    lines: u32,
}

impl LineBudget {
    /// Takes one line; returns false if it is one too many, and how many were left out in the minute before if a new one begins.
    pub(super) fn take(&mut self, now: Instant) -> (bool, u32) {
        let mut left_out = 0;
        if self.window.is_none_or(|window| now.saturating_duration_since(window) >= EVERY) {
            left_out = self.lines.saturating_sub(LINES);
            (self.window, self.lines) = (Some(now), 0);
        }
        self.lines += 1;
        (self.lines <= LINES, left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_change_is_logged_once() {
        let (mut log, now) = (NodeLog::default(), Instant::now());
        assert_eq!(log.on_state(now, true, false), None);
        assert_eq!(log.on_state(now, false, false), None, "lost, and no connect has failed yet");
        assert_eq!(log.on_state(now, false, true), Some(Line::Unreachable { changes: 0 }));
        assert_eq!(log.on_state(now, false, true), None);
        let later = now + Duration::from_secs(3);
        assert_eq!(log.on_state(later, true, false), Some(Line::Back { after: Duration::from_secs(3), changes: 0 }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flapping_node_is_logged_once_a_minute_with_a_count() {
        let (mut log, start) = (NodeLog::default(), Instant::now());
        let mut lines = 0;
        let mut changes = 0;
        for second in 0..600 {
            let now = start + Duration::from_secs(second);
            let line = log.on_state(now, second % 2 == 1, second % 2 == 0);
            lines += usize::from(line.is_some());
            if let Some(Line::Unreachable { changes: n } | Line::Back { changes: n, .. }) = line {
                changes += n + 1;
            }
        }
        assert!((10..=24).contains(&lines), "{lines}");
        assert!(changes > 500, "{changes}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_nodes_cost_twenty_lines_and_a_count() {
        let (mut budget, now) = (LineBudget::default(), Instant::now());
        assert_eq!((0..1_000).filter(|_| budget.take(now).0).count(), 20);
        assert_eq!(budget.take(now + EVERY), (true, 980));
    }
}
