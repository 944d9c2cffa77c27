//! State of one member: its connection, or the reason for its absence.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use waypost_http::direct::DirectConnection;

/// Connection, or its dial in progress.
#[derive(Clone, Debug)]
pub(crate) struct Dial {
    pub(super) started: Instant,
    /// Shared by the users of the connection and the member's state.
    users: Arc<()>,
    /// None while the dial is in progress; closed without a connection if it failed.
    connection: watch::Receiver<Option<DirectConnection>>,
}

impl Dial {
    pub(super) fn start(now: Instant) -> (Self, watch::Sender<Option<DirectConnection>>) {
        let (sender, connection) = watch::channel(None);
        (
            Self {
                started: now,
                users: Arc::default(),
                connection,
            },
            sender,
        )
    }

    /// Returns true if only the member's state holds the connection.
    fn is_unused(&self) -> bool {
        Arc::strong_count(&self.users) == 1
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
    /// Time since which nothing uses the connection.
    unused_since: Option<Instant>,
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

    /// Closes the connection if nothing has used it for `timeout`, and its member is not current.
    pub(super) fn close_idle(&mut self, now: Instant, is_current: bool, timeout: Duration) {
        let is_unused = !is_current && self.dial.as_ref().is_some_and(Dial::is_unused);
        let since = *self.unused_since.get_or_insert(now);
        if !is_unused {
            self.unused_since = None;
        } else if now >= since + timeout {
            (self.dial, self.unused_since) = (None, None);
        }
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
