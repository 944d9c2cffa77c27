//! Handle of a connection, shared by its calls.

use std::fmt;
use std::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst,
};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::cancel::CancelledStream;

/// Liveness of a connection, as its PINGs show it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Liveness {
    /// No PING is outstanding, except for one that verifies an idle connection and is not late.
    #[default]
    Alive,
    /// Nothing was read since a PING was sent; new calls use other connections.
    Probing,
    /// Nothing was read within the timeout of a PING; calls that may move do so.
    Unresponsive,
}

impl Liveness {
    fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::Alive,
            1 => Self::Probing,
            _ => Self::Unresponsive,
        }
    }
}

/// Connection that its calls share as `Arc<Connection>`.
pub(crate) struct Connection {
    send: SendRequest<Bytes>,
    opened_at: Instant,
    idle_timeout: Duration,
    pub(super) state: State,
    pub(super) queued: Queued,
}

/// State shared by the driver and the calls.
#[derive(Default)]
pub(super) struct State {
    pub(super) wake: Notify,
    pub(super) streams: AtomicUsize,
    /// Maximum number of concurrent streams since [`Connection::take_peak`].
    peak: AtomicUsize,
    pub(super) limit: AtomicUsize,
    pub(super) draining: AtomicBool,
    liveness: AtomicU8,
    changes: watch::Sender<Liveness>,
    pub(super) opened: AtomicU64,
    pub(super) slow: AtomicBool,
    pub(super) prove: AtomicBool,
    pub(super) read_wanted: AtomicBool,
    pub(super) read_rounds: watch::Sender<u64>,
    pub(super) proofs: watch::Sender<u64>,
    /// Milliseconds from `opened_at` to the last byte read.
    pub(super) last_read: AtomicU64,
    pub(super) max_header_list_size: AtomicU32,
    pub(super) cancelled: Mutex<Vec<CancelledStream>>,
    pub(super) has_cancelled: AtomicBool,
    ended: OnceLock<Arc<str>>,
}

/// Flags of the events that are queued.
#[derive(Debug, Default)]
pub(super) struct Queued {
    pub(super) liveness: AtomicBool,
    pub(super) capacity: AtomicBool,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("streams", &self.streams())
            .field("limit", &self.limit())
            .field("liveness", &self.liveness())
            .finish_non_exhaustive()
    }
}

impl Connection {
    pub(super) fn new(
        send: SendRequest<Bytes>,
        opened_at: Instant,
        idle_timeout: Duration,
    ) -> Self {
        let state = State::default();
        state.limit.store(send.current_max_send_streams(), SeqCst);
        state.max_header_list_size.store(u32::MAX, Relaxed);
        Self {
            send,
            opened_at,
            idle_timeout,
            state,
            queued: Queued::default(),
        }
    }

    /// Opens a stream.
    ///
    /// # Errors
    /// The stream was not opened, and nothing was sent.
    pub(crate) fn open(
        &self,
        request: http::Request<()>,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        let opened = self.send.clone().send_request(request, false);
        self.state.opened.fetch_add(1, Relaxed);
        opened
    }

    /// Opens a stream, once the peer's limit allows one.
    ///
    /// # Errors
    /// The connection has ended or is closing. Nothing was sent.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn open_when_ready(
        &self,
        request: http::Request<()>,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        let opened = self
            .send
            .clone()
            .ready()
            .await?
            .send_request(request, false);
        self.state.opened.fetch_add(1, Relaxed);
        opened
    }

    /// Counts a stream that waits for the peer's limit by itself; [`release`](Self::release) ends it.
    pub(crate) fn begin_stream(&self) {
        self.state.streams.fetch_add(1, SeqCst);
        self.state.wake.notify_one();
    }

    /// Takes a permit for one stream and returns the number of streams before. Returns none while
    /// draining or at the peer's limit.
    pub(crate) fn try_acquire(&self) -> Option<usize> {
        if self.is_draining() {
            return None;
        }
        let limit = self.limit();
        let before = self
            .state
            .streams
            .fetch_update(SeqCst, SeqCst, |n| (n < limit).then_some(n + 1))
            .ok()?;
        if before >= self.state.peak.load(Relaxed) {
            self.state.peak.fetch_max(before + 1, Relaxed);
        }
        Some(before)
    }

    /// Returns the maximum number of concurrent streams since the last call of this function.
    pub(crate) fn take_peak(&self) -> usize {
        self.state.peak.swap(self.streams(), Relaxed)
    }

    /// Returns a permit. Sequentially consistent, so that a subsequent read of the wait queue is
    /// not reordered before it.
    pub(crate) fn release(&self) {
        let before = self.state.streams.fetch_sub(1, SeqCst);
        if before == 1 && self.is_draining() {
            self.state.wake.notify_one();
        }
    }

    /// Returns the number of streams in use.
    pub(crate) fn streams(&self) -> usize {
        self.state.streams.load(SeqCst)
    }

    /// Returns the peer's limit of concurrent streams.
    pub(crate) fn limit(&self) -> usize {
        self.state.limit.load(SeqCst)
    }

    /// Returns true if a new call may be sent: alive, not draining, below the limit.
    pub(crate) fn has_capacity(&self) -> bool {
        !self.is_draining() && self.liveness() == Liveness::Alive && self.streams() < self.limit()
    }

    /// Returns true if new calls are refused: after [`drain`](Self::drain) or a GOAWAY.
    pub(crate) fn is_draining(&self) -> bool {
        self.state.draining.load(SeqCst)
    }

    /// Refuses new calls from now on; the connection closes when its last call ends.
    pub(crate) fn drain(&self) {
        self.state.draining.store(true, SeqCst);
        self.state.wake.notify_one();
    }

    /// Returns the liveness of the connection.
    pub(crate) fn liveness(&self) -> Liveness {
        Liveness::from_u8(self.state.liveness.load(SeqCst))
    }

    /// Waits until the socket has been read until it would block, or the connection has ended.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn read_until_pending(&self) {
        let mut rounds = self.state.read_rounds.subscribe();
        self.state.read_wanted.store(true, SeqCst);
        self.state.wake.notify_one();
        tokio::select! {
            _ = rounds.changed() => {}
            () = self.ended() => {}
        }
    }

    /// Reports that a call waits longer than expected, after the socket was
    /// [read](Self::read_until_pending). The driver sends a PING if one may be sent.
    pub(crate) fn report_slow(&self) {
        self.state.slow.store(true, SeqCst);
        self.state.wake.notify_one();
    }

    /// Sends a PING now if nothing was read for the idle timeout: another connection that was idle
    /// as long turned out to be dead.
    pub(crate) fn prove(&self) {
        self.state.prove.store(true, SeqCst);
        self.state.wake.notify_one();
    }

    /// Returns true if nothing was read for so long that a firewall may have dropped the
    /// connection. A call on it is accompanied by a PING.
    pub(crate) fn needs_proof(&self, now: Instant) -> bool {
        let last_read = Duration::from_millis(self.state.last_read.load(Relaxed));
        now.saturating_duration_since(self.opened_at) >= last_read.saturating_add(self.idle_timeout)
    }

    /// Verifies the connection by a PING if [needed](Self::needs_proof); returns true if it
    /// responds. Returns true at once if no PING may be sent. A call that may not be sent twice
    /// waits for this first.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn proven(&self) -> bool {
        let mut proofs = self.state.proofs.subscribe();
        let mut changes = self.state.changes.subscribe();
        self.prove();
        let dead = changes.wait_for(|liveness| {
            *liveness == Liveness::Unresponsive || self.end_reason().is_some()
        });
        tokio::select! {
            biased;
            _ = dead => false,
            _ = proofs.changed() => true,
        }
    }

    /// Waits until the connection is unresponsive. Never completes once it has ended, since its
    /// streams report that.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn unresponsive(&self) {
        let mut changes = self.state.changes.subscribe();
        if changes
            .wait_for(|liveness| *liveness == Liveness::Unresponsive)
            .await
            .is_err()
        {
            std::future::pending::<()>().await;
        }
    }

    /// Returns the maximum header list size that the peer accepts, in bytes as counted by RFC 9113,
    /// 6.5.2; none if the peer set no limit.
    pub(crate) fn max_header_list_size(&self) -> Option<u32> {
        Some(self.state.max_header_list_size.load(Relaxed)).filter(|size| *size != u32::MAX)
    }

    /// Resets the stream of an abandoned call as soon as the peer can take it. A stream that has
    /// received a response or has ended needs no pacing, but may be passed too.
    pub(crate) fn cancel(&self, stream: CancelledStream) {
        self.state
            .cancelled
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(stream);
        self.state.has_cancelled.store(true, SeqCst);
        self.state.wake.notify_one();
        if self.end_reason().is_some() {
            drop(self.take_cancelled());
        }
    }

    /// Returns the reason why the connection ended; none while it is open.
    pub(crate) fn end_reason(&self) -> Option<&Arc<str>> {
        self.state.ended.get()
    }

    pub(super) fn set_max_header_list_size(&self, size: u32) {
        self.state.max_header_list_size.store(size, Relaxed);
    }

    async fn ended(&self) {
        let mut changes = self.state.changes.subscribe();
        while self.end_reason().is_none() && changes.changed().await.is_ok() {}
    }

    pub(super) fn set_liveness(&self, liveness: Liveness) {
        self.state.liveness.store(liveness as u8, SeqCst);
        self.state.changes.send_replace(liveness);
    }

    pub(super) fn set_last_read(&self, now: Instant) {
        let millis = now.saturating_duration_since(self.opened_at).as_millis();
        self.state
            .last_read
            .store(u64::try_from(millis).unwrap_or(u64::MAX), Relaxed);
    }

    /// Marks the end before the streams are notified, so that their calls can report the reason.
    pub(super) fn set_ended(&self, reason: &str) {
        let _ = self.state.ended.set(Arc::from(reason));
        self.state.draining.store(true, SeqCst);
        self.state.changes.send_modify(|_| {});
        drop(self.take_cancelled());
    }

    pub(super) fn take_cancelled(&self) -> Vec<CancelledStream> {
        if !self.state.has_cancelled.swap(false, SeqCst) {
            return Vec::new();
        }
        std::mem::take(
            &mut *self
                .state
                .cancelled
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    pub(super) fn max_send_streams(&self) -> usize {
        self.send.current_max_send_streams()
    }
}
