//! Rate limit of the log of outages: one line per change, but at most one per minute for a flapping
//! registry.

use std::time::Duration;

use tokio::time::Instant;

/// Time after a first line in which at most [`LINES`] lines are written.
const WINDOW: Duration = Duration::from_secs(60);
/// Number of lines per window: an outage and its end.
const LINES: u32 = 2;

/// Line to be logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OutageLine {
    /// The watch of the registry fails.
    Down,
    /// The watch of the registry works again.
    Up,
    /// Summary of outages that were not logged individually.
    Flapping { outages: u32 },
}

/// Decides which changes of the registry's state are logged.
#[derive(Debug, Default)]
pub(super) struct OutageLog {
    down: bool,
    window: Option<Window>,
}

#[derive(Debug)]
struct Window {
    begun: Instant,
    lines: u32,
    /// Number of changes that were not logged.
    suppressed: u32,
    /// Number of outages whose start was not logged.
    outages: u32,
}

impl OutageLog {
    /// Records the state of the registry. Returns the line if the change is to be logged.
    pub(super) fn on_state(&mut self, now: Instant, down: bool) -> Option<OutageLine> {
        if std::mem::replace(&mut self.down, down) == down {
            return None;
        }
        let window = self.window(now);
        if window.lines < LINES {
            window.lines += 1;
            return Some(if down {
                OutageLine::Down
            } else {
                OutageLine::Up
            });
        }
        window.suppressed += 1;
        window.outages += u32::from(down);
        None
    }

    /// Returns the summary of the last window when it is due. The next window has at most one such
    /// line.
    pub(super) fn on_tick(&mut self, now: Instant) -> Option<OutageLine> {
        if self.next_wake().is_none_or(|at| at > now) {
            return None;
        }
        let outages = self.window.take()?.outages;
        self.window = Some(Window {
            begun: now,
            lines: LINES,
            suppressed: 0,
            outages: 0,
        });
        Some(OutageLine::Flapping { outages })
    }

    /// Returns the time of the next summary if no change comes before.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        let window = self
            .window
            .as_ref()
            .filter(|window| window.suppressed > 0)?;
        window.begun.checked_add(WINDOW)
    }

    fn window(&mut self, now: Instant) -> &mut Window {
        let is_over = |window: &mut Window| {
            window.suppressed == 0 && now.saturating_duration_since(window.begun) >= WINDOW
        };
        self.window.take_if(is_over);
        self.window.get_or_insert(Window {
            begun: now,
            lines: 0,
            suppressed: 0,
            outages: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_outage_and_its_end_are_logged_at_once() {
        let (now, mut log) = (Instant::now(), OutageLog::default());
        assert_eq!(log.on_state(now, false), None);
        assert_eq!(log.on_state(now, true), Some(OutageLine::Down));
        assert_eq!(log.on_state(now, true), None);
        assert_eq!(log.on_state(now, false), Some(OutageLine::Up));
        assert_eq!(log.next_wake(), None);
        let later = now + WINDOW;
        assert_eq!(log.on_state(later, true), Some(OutageLine::Down));
        assert_eq!(log.on_state(later + WINDOW, false), Some(OutageLine::Up));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flapping_registry_is_logged_once_a_minute_with_a_count() {
        let (start, mut log) = (Instant::now(), OutageLog::default());
        let mut lines = Vec::new();
        for second in 0..600 {
            let now = start + Duration::from_secs(second);
            lines.extend(log.on_tick(now));
            lines.extend(log.on_state(now, true));
            lines.extend(log.on_state(now, false));
        }
        assert_eq!(
            lines[..3],
            [
                OutageLine::Down,
                OutageLine::Up,
                OutageLine::Flapping { outages: 59 }
            ]
        );
        assert!(lines.len() <= 12, "{lines:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_without_a_line_is_reported_when_the_minute_is_over() {
        let (now, mut log) = (Instant::now(), OutageLog::default());
        log.on_state(now, true);
        log.on_state(now, false);
        assert_eq!(log.on_state(now, true), None);
        assert_eq!(log.next_wake(), Some(now + WINDOW));
        assert_eq!(
            log.on_tick(now + WINDOW),
            Some(OutageLine::Flapping { outages: 1 })
        );
        assert_eq!(log.next_wake(), None);
    }
}
