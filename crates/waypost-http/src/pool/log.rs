//! Rules of the INFO log lines about the nodes of a service, pure: one line per change, at most two
//! a minute for a flapping node, and the last line reflects the current state.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use waypost_core::peer::Exclusion;

const EVERY: Duration = Duration::from_secs(60);
/// Maximum number of lines about nodes of one service within a minute; more are counted and logged
/// later.
const LINES: u32 = 20;
/// Minimum time without a ready node before a service is logged: replacing a connection in order
/// takes a moment.
const NONE_READY: Duration = Duration::from_secs(1);
/// Minimum time without a ready node before the first node was ready.
const NONE_READY_YET: Duration = Duration::from_secs(5);

/// Readiness of a node, or of all nodes of a service together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    /// Ready for calls.
    Ready,
    /// Not ready since this time, for long enough to be logged.
    Down(Instant),
    /// Not ready, but possibly soon.
    Pending,
}

/// Log line that is due.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LogLine {
    /// The node or service was ready before and is down now.
    Down {
        /// Number of changes since the last line that were not logged.
        changes: u32,
    },
    /// The node or service was down before and is ready now.
    Back {
        /// Time for which it was down.
        after: Duration,
        /// Number of changes since the last line that were not logged.
        changes: u32,
    },
}

/// Last logged state of a node, and the change that is still to be logged.
#[derive(Debug, Default)]
pub(super) struct NodeLog {
    ready: bool,
    down_since: Option<Instant>,
    /// Length of the last outage.
    outage: Duration,
    logged_down: bool,
    /// Times of the last two lines.
    lines: [Option<Instant>; 2],
    /// Time when the budget has a line again, if it was exhausted.
    left_out_until: Option<Instant>,
    changes: u32,
}

impl NodeLog {
    /// Updates the state, and returns the line that is due and within the budget. A flapping node
    /// has at most two lines a minute.
    pub(super) fn on_state(
        &mut self,
        now: Instant,
        readiness: Readiness,
        budget: &mut LineBudget,
    ) -> Option<LogLine> {
        self.observe(now, readiness);
        if !self.is_pending() {
            self.left_out_until = None;
            return None;
        }
        if self.not_before().is_some_and(|at| now < at) {
            return None;
        }
        self.left_out_until = budget.take(now, self.left_out_until.is_some()).err();
        self.left_out_until.is_none().then(|| self.line(now))
    }

    fn observe(&mut self, now: Instant, readiness: Readiness) {
        self.ready = readiness == Readiness::Ready;
        match (readiness, self.down_since) {
            (Readiness::Ready, Some(since)) => {
                (self.down_since, self.outage) = (None, now.saturating_duration_since(since));
                self.changes += 1;
            }
            (Readiness::Down(since), None) => {
                self.down_since = Some(since);
                self.changes += 1;
            }
            _ => {}
        }
    }

    fn line(&mut self, now: Instant) -> LogLine {
        self.logged_down = self.is_down();
        self.lines = [self.lines[1], Some(now)];
        let changes = std::mem::take(&mut self.changes).saturating_sub(1);
        if self.logged_down {
            LogLine::Down { changes }
        } else {
            LogLine::Back {
                after: self.outage,
                changes,
            }
        }
    }

    /// Returns true if it is down, or was down and is not ready yet.
    pub(super) fn is_down(&self) -> bool {
        self.down_since.is_some()
    }

    /// Returns true if the last line no longer reflects the state.
    fn is_pending(&self) -> bool {
        self.is_down() != self.logged_down && (self.is_down() || self.ready)
    }

    fn not_before(&self) -> Option<Instant> {
        self.lines[0]
            .and_then(|at| at.checked_add(EVERY))
            .max(self.left_out_until)
    }

    /// Returns the time of the next check if no event occurs before.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.not_before().filter(|_| self.is_pending())
    }
}

/// Budget of lines about all nodes of a service.
#[derive(Debug, Default)]
pub(super) struct LineBudget {
    ends: Option<Instant>,
    lines: u32,
    left_out: u32,
}

impl LineBudget {
    /// Takes one line of this minute. A line that was omitted `before` is not counted again.
    ///
    /// # Errors
    /// The budget is exhausted: returns the time when it has a line again.
    fn take(&mut self, now: Instant, before: bool) -> Result<(), Instant> {
        let ends = self.ends.filter(|ends| now < *ends);
        self.lines = if ends.is_some() { self.lines + 1 } else { 1 };
        self.ends = ends.or_else(|| now.checked_add(EVERY));
        match self.ends {
            Some(ends) if self.lines > LINES => {
                self.left_out += u32::from(!before);
                Err(ends)
            }
            _ => Ok(()),
        }
    }

    /// Returns the number of omitted lines, once the minute is over.
    pub(super) fn take_left_out(&mut self, now: Instant) -> Option<u32> {
        self.next_wake().filter(|at| *at <= now)?;
        Some(std::mem::take(&mut self.left_out))
    }

    /// Returns the time when the number of omitted lines is to be logged.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.ends.filter(|_| self.left_out > 0)
    }
}

/// Last logged state of all nodes of a service together.
#[derive(Debug, Default)]
pub(super) struct ServiceLog {
    log: NodeLog,
    /// Never exhausted: the service has at most two lines a minute.
    budget: LineBudget,
    none_since: Option<Instant>,
    was_ready: bool,
    expected: bool,
}

impl ServiceLog {
    /// Updates the readiness. `ready` is true if any node is ready; `expected` if one should be:
    /// the registry has responded, and a channel uses the service. Returns the line that is due.
    /// The first ready node has no line here.
    pub(super) fn on_state(
        &mut self,
        now: Instant,
        ready: bool,
        expected: bool,
    ) -> Option<LogLine> {
        self.expected = expected;
        if ready || !expected {
            self.none_since = None;
        }
        if !expected {
            return None;
        }
        let first = ready && !std::mem::replace(&mut self.was_ready, true);
        let readiness = if ready {
            Readiness::Ready
        } else {
            self.none_ready(now)
        };
        self.log
            .on_state(now, readiness, &mut self.budget)
            .filter(|_| !first)
    }

    fn none_ready(&mut self, now: Instant) -> Readiness {
        let since = *self.none_since.get_or_insert(now);
        let down = now.saturating_duration_since(since) >= self.patience();
        if down {
            Readiness::Down(since)
        } else {
            Readiness::Pending
        }
    }

    fn patience(&self) -> Duration {
        if self.was_ready {
            NONE_READY
        } else {
            NONE_READY_YET
        }
    }

    /// Returns the time of the next check if no event occurs before.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        let down = self
            .none_since
            .filter(|_| !self.log.is_down())
            .and_then(|since| since.checked_add(self.patience()));
        [down, self.log.next_wake()]
            .into_iter()
            .flatten()
            .min()
            .filter(|_| self.expected)
    }
}

/// Returns the numbers of nodes that are not picked, by reason, as text; none if all are picked.
pub(super) fn reasons(excluded: &BTreeMap<Exclusion, usize>) -> Option<String> {
    let reasons: Vec<_> = excluded
        .iter()
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    (!reasons.is_empty()).then(|| reasons.join(", "))
}

#[cfg(test)]
mod tests {
    use super::Readiness::{Down, Pending, Ready};
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn down(changes: u32) -> Option<LogLine> {
        Some(LogLine::Down { changes })
    }

    fn back(after: u64, changes: u32) -> Option<LogLine> {
        Some(LogLine::Back {
            after: Duration::from_secs(after),
            changes,
        })
    }

    #[tokio::test(start_paused = true)]
    async fn each_change_is_logged_once() {
        let (mut log, mut budget, now) =
            (NodeLog::default(), LineBudget::default(), Instant::now());
        assert_eq!(log.on_state(now, Ready, &mut budget), None);
        assert_eq!(
            log.on_state(now, Pending, &mut budget),
            None,
            "lost, and no connect has failed yet"
        );
        assert_eq!(log.on_state(now, Down(now), &mut budget), down(0));
        assert_eq!(log.on_state(now, Down(now), &mut budget), None);
        assert_eq!(
            log.on_state(now + 3 * SECOND, Ready, &mut budget),
            back(3, 0)
        );
        assert_eq!(log.next_wake(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flapping_node_is_logged_once_a_minute_with_a_count() {
        let (mut log, mut budget, start) =
            (NodeLog::default(), LineBudget::default(), Instant::now());
        let mut lines = 0;
        let mut changes = 0;
        for second in 0..600 {
            let now = start + Duration::from_secs(second);
            let line = log.on_state(
                now,
                if second % 2 == 1 { Ready } else { Down(now) },
                &mut budget,
            );
            lines += usize::from(line.is_some());
            if let Some(LogLine::Down { changes: n } | LogLine::Back { changes: n, .. }) = line {
                changes += n + 1;
            }
        }
        assert!((10..=24).contains(&lines), "{lines}");
        assert!(changes > 500, "{changes}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_that_came_too_soon_is_logged_when_the_minute_is_over() {
        let (mut log, mut budget, start) =
            (NodeLog::default(), LineBudget::default(), Instant::now());
        assert_eq!(log.on_state(start, Down(start), &mut budget), down(0));
        assert_eq!(log.on_state(start + SECOND, Ready, &mut budget), back(1, 0));
        let due = Some(start + EVERY);
        assert_eq!(
            log.on_state(start + 2 * SECOND, Down(start + 2 * SECOND), &mut budget),
            None
        );
        assert_eq!(log.next_wake(), due);
        assert_eq!(log.on_state(start + 9 * SECOND, Ready, &mut budget), None);
        assert_eq!(log.next_wake(), None, "the last line is true again");
        assert_eq!(
            log.on_state(start + 10 * SECOND, Down(start + 10 * SECOND), &mut budget),
            None
        );
        assert_eq!(log.next_wake(), due);
        assert_eq!(log.on_state(start + EVERY, Pending, &mut budget), down(2));
        assert_eq!(log.next_wake(), None);
        assert_eq!(log.on_state(start + EVERY, Ready, &mut budget), None);
        assert_eq!(log.next_wake(), Some(start + SECOND + EVERY));
        assert_eq!(
            log.on_state(start + 2 * EVERY, Pending, &mut budget),
            None,
            "lost again, and perhaps in a moment"
        );
        assert_eq!(log.next_wake(), None, "an event will wake it");
        assert_eq!(
            log.on_state(start + 2 * EVERY, Ready, &mut budget),
            back(50, 0)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_nodes_cost_twenty_lines_a_minute_and_each_has_its_own_in_the_end() {
        let (mut budget, start) = (LineBudget::default(), Instant::now());
        let mut logs: Vec<_> = (0..1_000).map(|_| NodeLog::default()).collect();
        for minute in 0..50 {
            let now = start + minute * EVERY;
            let left_out = if minute == 1 { Some(980) } else { None };
            assert_eq!(budget.take_left_out(now), left_out, "minute {minute}");
            let lines = logs
                .iter_mut()
                .filter_map(|log| log.on_state(now, Down(start), &mut budget))
                .count();
            assert_eq!(lines, 20, "minute {minute}");
            let waiting = logs
                .iter()
                .filter(|log| log.next_wake() == Some(now + EVERY))
                .count();
            assert_eq!(
                waiting,
                logs.iter().filter(|log| log.next_wake().is_some()).count()
            );
        }
        assert!(logs.iter().all(|log| log.next_wake().is_none()));
        assert_eq!(budget.next_wake(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_whose_line_was_left_out_has_none_for_its_return() {
        let (mut budget, now) = (LineBudget::default(), Instant::now());
        let mut logs: Vec<_> = (0..100).map(|_| NodeLog::default()).collect();
        assert_eq!(
            logs.iter_mut()
                .filter_map(|log| log.on_state(now, Down(now), &mut budget))
                .count(),
            20
        );
        assert_eq!(
            budget.next_wake(),
            Some(now + EVERY),
            "the count comes even if nothing else happens"
        );
        assert_eq!(
            logs.iter_mut()
                .filter_map(|log| log.on_state(now, Ready, &mut budget))
                .count(),
            0
        );
        let later = now + EVERY;
        assert_eq!(
            budget.take_left_out(later),
            Some(100),
            "80 that were lost, and 20 that are back"
        );
        assert_eq!(
            logs.iter_mut()
                .filter_map(|log| log.on_state(later, Ready, &mut budget))
                .count(),
            20
        );
        assert!(logs.iter().all(|log| log.next_wake().is_none()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_without_a_ready_node_is_logged_after_a_moment_and_when_one_is_back() {
        let (mut log, start) = (ServiceLog::default(), Instant::now());
        assert_eq!(log.on_state(start, false, true), None);
        assert_eq!(log.on_state(start, true, true), None);
        assert_eq!(log.next_wake(), None);
        assert_eq!(log.on_state(start, false, true), None);
        assert_eq!(log.next_wake(), Some(start + NONE_READY));
        assert_eq!(log.on_state(start + SECOND, false, true), down(0));
        assert_eq!(log.next_wake(), None);
        assert_eq!(log.on_state(start + 7 * SECOND, true, true), back(7, 0));
        for second in 8..60 {
            assert_eq!(
                log.on_state(start + second * SECOND, false, true),
                None,
                "replaced, or too many lines"
            );
            if second % 2 == 0 {
                assert_eq!(log.on_state(start + second * SECOND, true, true), None);
            }
        }
        assert_eq!(log.next_wake(), Some(start + 60 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_start_is_logged_once_and_the_first_node_ends_it_without_a_line() {
        let (mut log, start) = (ServiceLog::default(), Instant::now());
        assert_eq!(log.on_state(start, false, true), None);
        assert_eq!(log.next_wake(), Some(start + NONE_READY_YET));
        assert_eq!(log.on_state(start + NONE_READY_YET, false, true), down(0));
        assert_eq!(log.on_state(start + 9 * SECOND, true, true), None);
        assert_eq!(log.next_wake(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_no_channel_uses_is_not_logged_and_wakes_no_task() {
        let (mut log, start) = (ServiceLog::default(), Instant::now());
        log.on_state(start, true, true);
        log.on_state(start, false, true);
        assert_eq!(log.on_state(start + SECOND, false, false), None);
        assert_eq!(log.next_wake(), None);
        let later = start + 100 * SECOND;
        assert_eq!(log.on_state(later, false, true), None, "in use again");
        assert_eq!(log.on_state(later + SECOND, false, true), down(0));
        log.on_state(later + 2 * SECOND, true, true);
        log.on_state(later + 3 * SECOND, false, true);
        assert_eq!(
            log.on_state(later + 5 * SECOND, false, true),
            None,
            "too many lines"
        );
        assert!(log.next_wake().is_some());
        assert_eq!(log.on_state(later + 6 * SECOND, false, false), None);
        assert_eq!(log.next_wake(), None);
    }
}
