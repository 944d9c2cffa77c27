//! What is known of one member: its connection, or why there is none.

use tokio::sync::watch;
use tokio::time::Instant;
use waypost_http::single::Single;

/// A connection that is there, or is being dialled.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(super) begun: Instant,
    /// None while it is dialled; closed without one, it could not be.
    single: watch::Receiver<Option<Single>>,
}

impl Line {
    pub(super) fn begin(now: Instant) -> (Self, watch::Sender<Option<Single>>) {
        let (sender, single) = watch::channel(None);
        (Self { begun: now, single }, sender)
    }

    fn is_dialled(&self) -> bool {
        self.single.borrow().is_none()
    }

    /// The connection, once it is there; none if it could not be dialled.
    pub(super) async fn single(&self) -> Option<Single> {
        self.single.clone().wait_for(Option::is_some).await.ok()?.clone()
    }
}

#[derive(Debug, Default)]
pub(super) struct Slot {
    line: Option<Line>,
    failures: u32,
    rest: Option<Instant>,
    why: Option<String>,
}

impl Slot {
    pub(super) fn line(&self) -> Option<Line> {
        self.line.clone()
    }

    pub(super) fn dial(&mut self, line: Line) {
        self.line = Some(line);
    }

    /// The connection is used no more. Another that took its place meanwhile stays. Whether it was there to be hung up.
    pub(super) fn hang_up(&mut self, line: &Line) -> bool {
        self.line.take_if(|ours| ours.single.same_channel(&line.single)).is_some()
    }

    /// It said hello.
    pub(super) fn answers(&mut self) {
        (self.rest, self.why) = (None, None);
    }

    /// It does what it is asked.
    pub(super) fn does(&mut self) {
        self.answers();
        self.failures = 0;
    }

    /// It is not asked until then. Whether it did well before.
    pub(super) fn failed(&mut self, rest: Instant, why: String) -> bool {
        let did_well = self.failures == 0;
        self.failures = self.failures.saturating_add(1);
        (self.rest, self.why) = (Some(rest), Some(why));
        did_well
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

    /// It rests, and not because its hello takes long.
    pub(super) fn is_away(&self, now: Instant) -> bool {
        self.rests(now) && !self.line.as_ref().is_some_and(Line::is_dialled)
    }

    pub(super) fn rests_until(&self) -> Option<Instant> {
        self.rest
    }
}
