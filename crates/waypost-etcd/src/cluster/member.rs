//! State of one member: its connection, or the reason for its absence.

use tokio::sync::watch;
use tokio::time::Instant;
use waypost_http::direct::DirectConnection;

/// Connection, or its dial in progress.
#[derive(Clone, Debug)]
pub(crate) struct Dial {
    pub(super) started: Instant,
    /// None while the dial is in progress; closed without a connection if it failed.
    connection: watch::Receiver<Option<DirectConnection>>,
}

impl Dial {
    pub(super) fn start(now: Instant) -> (Self, watch::Sender<Option<DirectConnection>>) {
        let (sender, connection) = watch::channel(None);
        (
            Self {
                started: now,
                connection,
            },
            sender,
        )
    }

    fn is_in_progress(&self) -> bool {
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
pub(super) struct MemberState {
    dial: Option<Dial>,
    failures: u32,
    backoff_until: Option<Instant>,
    last_error: Option<String>,
}

impl MemberState {
    pub(super) fn dial(&self) -> Option<Dial> {
        self.dial.clone()
    }

    pub(super) fn set_dial(&mut self, dial: Dial) {
        self.dial = Some(dial);
    }

    /// Removes this connection, unless another has replaced it. Returns true if it was removed.
    pub(super) fn remove_dial(&mut self, dial: &Dial) -> bool {
        self.dial
            .take_if(|current| current.connection.same_channel(&dial.connection))
            .is_some()
    }

    /// Records a completed handshake.
    pub(super) fn on_connected(&mut self) {
        (self.backoff_until, self.last_error) = (None, None);
    }

    /// Records a successful response.
    pub(super) fn record_success(&mut self) {
        self.on_connected();
        self.failures = 0;
    }

    /// Puts the member into backoff until `until`. Returns true if this is the first failure.
    pub(super) fn record_failure(&mut self, until: Instant, error: String) -> bool {
        let is_first = self.failures == 0;
        self.failures = self.failures.saturating_add(1);
        (self.backoff_until, self.last_error) = (Some(until), Some(error));
        is_first
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    pub(super) fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    pub(super) fn in_backoff(&self, now: Instant) -> bool {
        self.backoff_until.is_some_and(|until| now < until)
    }

    /// Returns true if the member is in backoff, and not only because its handshake is slow.
    pub(super) fn is_down(&self, now: Instant) -> bool {
        self.in_backoff(now) && !self.dial.as_ref().is_some_and(Dial::is_in_progress)
    }

    pub(super) fn backoff_until(&self) -> Option<Instant> {
        self.backoff_until
    }
}
