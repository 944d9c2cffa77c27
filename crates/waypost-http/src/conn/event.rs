//! Ordered stream of the events of one connection.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use super::connection::{Connection, Liveness, Queued};

/// Event of one connection. `Ready` precedes all others but `Slow` and `Ended`; `Ended` is the
/// last.
#[derive(Debug)]
pub(crate) enum ConnectionEvent {
    /// The server's SETTINGS were read.
    Ready(Arc<Connection>),
    /// The dial has not completed within the slot timeout, and continues. Precedes `Ready`.
    Slow,
    /// The connection accepts no new calls.
    GoAway(GoAway),
    /// The liveness changed.
    Liveness(LivenessChange),
    /// The connection may accept more calls than before: the peer's limit rose.
    Capacity(CapacityChange),
    /// The connection is closed, or was never opened. The error names what was attempted and why it
    /// failed.
    Ended(Result<(), Arc<str>>),
}

/// GOAWAY frame of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GoAway {
    /// True if the peer asked for fewer PINGs: `ENHANCE_YOUR_CALM`.
    pub(crate) calm: bool,
}

/// Change of liveness. At most one per connection is queued.
#[derive(Debug)]
pub(crate) struct LivenessChange(Change);

impl LivenessChange {
    /// Returns the current liveness, which may be newer than the event. A later change is a new
    /// event.
    pub(crate) fn take(self) -> Liveness {
        self.0.connection().liveness()
    }
}

/// Change of capacity. At most one per connection is queued.
#[derive(Debug)]
pub(crate) struct CapacityChange(Change);

impl CapacityChange {
    /// Accepts the event. A limit that is read from now on is at least as new. A later change is a
    /// new event.
    pub(crate) fn take(self) {
        self.0.connection();
    }
}

#[derive(Debug)]
struct Change {
    connection: Arc<Connection>,
    flag: fn(&Queued) -> &AtomicBool,
}

impl Change {
    /// Queues a change unless one is already queued.
    fn queue(connection: &Arc<Connection>, flag: fn(&Queued) -> &AtomicBool) -> Option<Self> {
        let queued = flag(&connection.queued).swap(true, SeqCst);
        (!queued).then(|| Self {
            connection: Arc::clone(connection),
            flag,
        })
    }

    /// Clears the flag and returns the connection. The flag is cleared before the state is read, so
    /// that no change between the two is lost.
    fn connection(&self) -> &Connection {
        (self.flag)(&self.connection.queued).store(false, SeqCst);
        &self.connection
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        (self.flag)(&self.connection.queued).store(false, SeqCst);
    }
}

/// Sender of the events of one connection. When dropped, it sends `Ended` unless it was sent: a
/// panic or an aborted task is an end too.
pub(crate) struct EventSender(Option<Box<dyn FnMut(ConnectionEvent) + Send>>);

impl fmt::Debug for EventSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventSender")
            .field("ended", &self.0.is_none())
            .finish()
    }
}

impl EventSender {
    /// Creates a sender that calls `send` for each event, from the connection's task. `send` must
    /// not block.
    pub(crate) fn new(send: impl FnMut(ConnectionEvent) + Send + 'static) -> Self {
        Self(Some(Box::new(send)))
    }

    pub(super) fn slow(&mut self) {
        self.send(ConnectionEvent::Slow);
    }

    pub(super) fn ready(&mut self, connection: &Arc<Connection>) {
        self.send(ConnectionEvent::Ready(Arc::clone(connection)));
    }

    pub(super) fn go_away(&mut self, go_away: GoAway) {
        self.send(ConnectionEvent::GoAway(go_away));
    }

    pub(super) fn liveness_changed(&mut self, connection: &Arc<Connection>) {
        if let Some(change) = Change::queue(connection, |queued| &queued.liveness) {
            self.send(ConnectionEvent::Liveness(LivenessChange(change)));
        }
    }

    pub(super) fn capacity_changed(&mut self, connection: &Arc<Connection>) {
        if let Some(change) = Change::queue(connection, |queued| &queued.capacity) {
            self.send(ConnectionEvent::Capacity(CapacityChange(change)));
        }
    }

    /// Sends the end.
    pub(super) fn end(mut self, result: Result<(), String>) {
        self.send_end(result.map_err(Arc::from));
    }

    fn send(&mut self, event: ConnectionEvent) {
        if let Some(send) = &mut self.0 {
            send(event);
        }
    }

    fn send_end(&mut self, result: Result<(), Arc<str>>) {
        if let Some(mut send) = self.0.take() {
            send(ConnectionEvent::Ended(result));
        }
    }
}

impl Drop for EventSender {
    fn drop(&mut self) {
        self.send_end(Err(Arc::from("the task of the connection was aborted")));
    }
}
