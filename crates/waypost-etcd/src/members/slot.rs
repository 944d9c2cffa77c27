//! State of one member: its connection, or the reason for its absence.

use tokio::sync::watch;
use tokio::time::Instant;
use waypost_http::direct::DirectConnection;

/// Connection, or its dial in progress.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(super) begun: Instant,
    /// None while the dial is in progress; closed without a connection if it failed.
    connection: watch::Receiver<Option<DirectConnection>>,
}

impl Line {
    pub(super) fn begin(now: Instant) -> (Self, watch::Sender<Option<DirectConnection>>) {
        let (sender, connection) = watch::channel(None);
        (
            Self {
                begun: now,
                connection,
            },
            sender,
        )
    }

    fn is_dialled(&self) -> bool {
        self.connection.borrow().is_none()
    }

    /// Waits for the connection; none if the dial failed.
    pub(super) async fn connection(&self) -> Option<DirectConnection> {
        self.connection
            .clone()
            .wait_for(Option::is_some)
            .await
            .ok()?
            .clone()
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

    /// Removes this connection, unless another has replaced it. Returns true if it was removed.
    pub(super) fn hang_up(&mut self, line: &Line) -> bool {
        self.line
            .take_if(|ours| ours.connection.same_channel(&line.connection))
            .is_some()
    }

    /// Records a completed handshake.
    pub(super) fn answers(&mut self) {
        (self.rest, self.why) = (None, None);
    }

    /// Records a successful response.
    pub(super) fn does(&mut self) {
        self.answers();
        self.failures = 0;
    }

    /// Puts the member into backoff until `rest`. Returns true if this is the first failure.
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

    /// Returns true if the member is in backoff, and not only because its handshake is slow.
    pub(super) fn is_away(&self, now: Instant) -> bool {
        self.rests(now) && !self.line.as_ref().is_some_and(Line::is_dialled)
    }

    pub(super) fn rests_until(&self) -> Option<Instant> {
        self.rest
    }
}
