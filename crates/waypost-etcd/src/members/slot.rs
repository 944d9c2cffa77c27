//! What is known of one member: its connection, or why there is none.

use std::sync::Arc;

use tokio::sync::OnceCell;
use tokio::time::Instant;
use waypost_http::single::Single;

/// A place for one connection, filled by the first who needs it.
pub(crate) type Line = Arc<OnceCell<Single>>;

#[derive(Debug, Default)]
pub(super) struct Slot {
    line: Line,
    failures: u32,
    rest: Option<Instant>,
    why: Option<String>,
}

impl Slot {
    pub(super) fn line(&self) -> Line {
        Arc::clone(&self.line)
    }

    /// The connection is used no more. Another that took its place meanwhile stays. Whether it was there to be hung up.
    pub(super) fn hang_up(&mut self, line: &Line) -> bool {
        let is_ours = Arc::ptr_eq(&self.line, line);
        if is_ours {
            self.line = Line::default();
        }
        is_ours
    }

    /// It answers as it should.
    pub(super) fn does(&mut self) {
        (self.failures, self.rest, self.why) = (0, None, None);
    }

    pub(super) fn failed(&mut self, rest: Instant, why: String) {
        self.failures = self.failures.saturating_add(1);
        (self.rest, self.why) = (Some(rest), Some(why));
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    pub(super) fn failure(&self) -> Option<&str> {
        self.why.as_deref()
    }

    pub(super) fn rests(&self, now: Instant) -> bool {
        self.rest.is_some_and(|rest| now < rest)
    }

    pub(super) fn rests_until(&self) -> Option<Instant> {
        self.rest
    }
}
