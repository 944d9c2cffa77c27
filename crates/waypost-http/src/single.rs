//! One connection to one address, for clients of a server rather than of a service, such as a
//! registry.
//!
//! [`Single`] sends requests; [`Driver`] is the task that must run meanwhile. Requests are neither
//! retried nor balanced here: the owner knows their meaning, and where else they could be sent.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use h2::client::SendRequest;
use h2::{Ping, PingPong, RecvStream};
use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri, Version};
use http_body::{Body, Frame};
use tokio::sync::Notify;
use tokio::task::coop::has_budget_remaining;
use tokio::time::{Instant, Sleep, sleep_until};
use waypost_core::record::Address;

use crate::call::{BodyGuard, BodyTask, ReplayBody};
use crate::conn::connect::{AddressPolicy, Connect};
use crate::conn::{FrameCounter, FrameCounts, FrameTotals, Handshake, handshake};
use crate::protocol::BoxError;

/// Maximum number of bytes of a request's body that are sent without a task.
const WHOLE: usize = 64 * 1024;

/// Keep-alive settings of a connection with open streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeepAlive {
    /// Time without any byte read after which a PING is sent. Default 6 s; gRPC servers close
    /// connections with PINGs more frequent than every 5 s.
    pub after: Duration,
    /// Time without any byte read after the PING, after which the connection is dead. Default 3 s.
    pub within: Duration,
}

impl Default for KeepAlive {
    fn default() -> Self {
        Self { after: Duration::from_secs(6), within: Duration::from_secs(3) }
    }
}

/// Connection to one server. Clones share it; it closes when the last is dropped and no stream is
/// open.
#[derive(Clone)]
pub struct Single {
    send: SendRequest<Bytes>,
    scheme: Scheme,
    authority: Authority,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    streams: AtomicUsize,
    closed: AtomicBool,
    asked: Notify,
    counts: Arc<FrameCounts>,
}

impl fmt::Debug for Single {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Single").field("authority", &self.authority).field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl Single {
    /// Connects and waits for the server's SETTINGS. No further data is read or written until its
    /// [`Driver`] runs.
    ///
    /// # Errors
    /// The address cannot be dialled, the peer is not an HTTP/2 server, or the policy forbids the
    /// address.
    ///
    /// # Cancel safety
    /// If dropped, nothing is left. There is no deadline.
    pub async fn connect(
        connect: &dyn Connect,
        address: &Address,
        policy: &AddressPolicy,
        keep_alive: KeepAlive,
    ) -> io::Result<(Self, Driver)> {
        let authority: Authority = address.to_string().parse().map_err(io::Error::other)?;
        let io = connect.connect(address, policy).await?;
        let Handshake { send, mut h2, counts } = handshake(io).await.map_err(io::Error::other)?;
        let shared = Arc::new(Shared { counts: Arc::clone(&counts), ..Shared::default() });
        let pulse = Pulse::new(keep_alive, now());
        let driver =
            Driver { ping: h2.ping_pong(), h2, seen: counts.totals(), counts, pulse, shared: Ending(Arc::clone(&shared)) };
        Ok((Self { send, scheme: connect.scheme(), authority, shared }, driver))
    }

    /// Returns true if the connection had not ended when it was last driven.
    pub fn is_open(&self) -> bool {
        !self.shared.closed.load(Relaxed)
    }

    /// Returns the number of bytes read so far, for all responses together.
    pub fn read_bytes(&self) -> u64 {
        self.shared.counts.totals().bytes
    }

    /// Sends one request; the response's body is read from [`SingleBody`].
    ///
    /// # Errors
    /// The connection is lost or closing, or the server reset the stream. The request may or may
    /// not have been received.
    ///
    /// # Cancel safety
    /// If dropped, the stream is reset.
    pub async fn send<B>(&self, request: Request<B>) -> Result<Response<SingleBody>, h2::Error>
    where
        B: Body + Unpin + Send + 'static,
        B::Data: Buf + Send,
        B::Error: Into<BoxError>,
    {
        let (parts, body) = request.into_parts();
        let mut head = Request::new(());
        *head.method_mut() = parts.method;
        *head.version_mut() = Version::HTTP_2;
        *head.uri_mut() = self.target(parts.uri);
        *head.headers_mut() = parts.headers;
        let open = Open::new(Arc::clone(&self.shared));
        let mut send = self.send.clone().ready().await?;
        let (response, mut stream) = send.send_request(head, false)?;
        drop(send);
        let mut body = ReplayBody::new(body, WHOLE);
        poll_fn(|cx| {
            body.fill(cx);
            Poll::Ready(())
        })
        .await;
        let task = if body.is_complete() {
            body.send_whole(&mut stream)?;
            None
        } else {
            Some(BodyTask::spawn(body, stream).into_guard())
        };
        let response = response.await?;
        Ok(response.map(|recv| SingleBody { recv, done: false, _body: task, _open: open }))
    }

    fn target(&self, uri: Uri) -> Uri {
        let mut parts = uri.into_parts();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = Some(self.authority.clone());
        Uri::from_parts(parts).unwrap_or_default()
    }
}

/// Guard that counts an open stream until dropped.
struct Open(Arc<Shared>);

impl Open {
    fn new(shared: Arc<Shared>) -> Self {
        shared.streams.fetch_add(1, Relaxed);
        shared.asked.notify_one();
        Self(shared)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Relaxed);
    }
}

/// Body of a response. Dropped early, it resets the stream. The request's body is sent for as long
/// as this lives.
pub struct SingleBody {
    recv: RecvStream,
    done: bool,
    _body: Option<Box<BodyGuard>>,
    _open: Open,
}

impl fmt::Debug for SingleBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SingleBody").field("done", &self.done).finish_non_exhaustive()
    }
}

impl SingleBody {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if let Some(data) = ready!(self.recv.poll_data(cx)) {
            return Poll::Ready(Some(data.map(|data| {
                // Refused only if more is released than was received.
                let _ = self.recv.flow_control().release_capacity(data.len());
                Frame::data(data)
            })));
        }
        Poll::Ready(ready!(self.recv.poll_trailers(cx)).transpose().map(|trailers| trailers.map(Frame::trailers)))
    }
}

impl Body for SingleBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.done {
            return Poll::Ready(None);
        }
        let next = ready!(self.poll_next(cx));
        let is_data = matches!(&next, Some(Ok(frame)) if frame.is_data());
        self.done = !is_data;
        Poll::Ready(next.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.done || self.recv.is_end_stream()
    }
}

/// Driver of a connection. The caller runs it in a task; if dropped, the connection is closed.
pub struct Driver {
    h2: h2::client::Connection<FrameCounter, Bytes>,
    ping: Option<PingPong>,
    counts: Arc<FrameCounts>,
    seen: FrameTotals,
    pulse: Pulse,
    shared: Ending,
}

/// Drop guard that marks the connection as closed for its handles.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.closed.store(true, Relaxed);
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("pulse", &self.pulse).finish_non_exhaustive()
    }
}

impl Driver {
    /// Drives the connection until it ends.
    ///
    /// # Errors
    /// The reason of the end, unless its handles closed it.
    pub async fn run(mut self) -> Result<(), BoxError> {
        let shared = Arc::clone(&self.shared.0);
        let mut timer = std::pin::pin!(sleep_until(now()));
        loop {
            tokio::select! {
                biased;
                ended = poll_fn(|cx| self.poll(cx, timer.as_mut())) => return ended,
                () = shared.asked.notified() => {}
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> Poll<Result<(), BoxError>> {
        loop {
            if let Poll::Ready(ended) = Pin::new(&mut self.h2).poll(cx) {
                return Poll::Ready(ended.map_err(Into::into));
            }
            if !has_budget_remaining() {
                // The socket was not read until it would block, so liveness is not judged yet.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if let Poll::Ready(ended) = self.judge(cx) {
                return Poll::Ready(ended);
            }
            let Some(at) = self.pulse.next() else { return Poll::Pending };
            if timer.deadline() != at {
                timer.as_mut().reset(at);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn judge(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let count = self.counts.totals();
        let seen = std::mem::replace(&mut self.seen, count);
        if count.pongs > seen.pongs
            && let Some(ping) = &mut self.ping
        {
            // Takes the PING acknowledgement, so that another PING may be sent; the frame counts
            // have recorded it already.
            let _ = ping.poll_pong(cx);
        }
        let streams = self.shared.0.streams.load(Relaxed);
        match self.pulse.step(now(), count.bytes > seen.bytes, streams > 0) {
            Beat::Fine => Poll::Pending,
            Beat::Ping => {
                if let Some(ping) = &mut self.ping {
                    // Only one PING is outstanding at a time, so h2 never refuses this one.
                    let _ = ping.send_ping(Ping::opaque());
                }
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Beat::Dead => Poll::Ready(Err(format!("no answer to a PING within {:?}", self.pulse.keep_alive.within).into())),
        }
    }
}

/// Keep-alive state machine. Pure: time is an argument.
#[derive(Clone, Copy, Debug)]
struct Pulse {
    keep_alive: KeepAlive,
    read: Instant,
    pinged: Option<Instant>,
    busy: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beat {
    Fine,
    Ping,
    Dead,
}

impl Pulse {
    fn new(keep_alive: KeepAlive, now: Instant) -> Self {
        Self { keep_alive, read: now, pinged: None, busy: false }
    }

    /// Updates the state. `read` is true if bytes were read since the last step, `busy` if streams
    /// are open: an idle connection is not probed.
    fn step(&mut self, now: Instant, read: bool, busy: bool) -> Beat {
        if read {
            self.pinged = None;
        }
        if read || (busy && !self.busy) {
            self.read = now;
        }
        self.busy = busy;
        match self.pinged {
            Some(pinged) if now >= pinged + self.keep_alive.within => Beat::Dead,
            None if busy && now >= self.read + self.keep_alive.after => {
                self.pinged = Some(now);
                Beat::Ping
            }
            _ => Beat::Fine,
        }
    }

    fn next(&self) -> Option<Instant> {
        match self.pinged {
            Some(pinged) => Some(pinged + self.keep_alive.within),
            None => self.busy.then(|| self.read + self.keep_alive.after),
        }
    }
}

fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pulse() -> (Pulse, impl Fn(u64) -> Instant) {
        let begun = now();
        (Pulse::new(KeepAlive::default(), begun), move |seconds| begun + Duration::from_secs(seconds))
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_connection_is_asked_and_given_up() {
        let (mut pulse, at) = pulse();
        assert_eq!(pulse.step(at(0), false, true), Beat::Fine);
        assert_eq!(pulse.next(), Some(at(6)));
        assert_eq!(pulse.step(at(6), false, true), Beat::Ping);
        assert_eq!(pulse.next(), Some(at(9)));
        assert_eq!(pulse.step(at(8), false, true), Beat::Fine);
        assert_eq!(pulse.step(at(9), false, true), Beat::Dead);
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_is_read_is_life() {
        let (mut pulse, at) = pulse();
        assert_eq!(pulse.step(at(0), false, true), Beat::Fine);
        assert_eq!(pulse.step(at(6), false, true), Beat::Ping);
        assert_eq!(pulse.step(at(8), true, true), Beat::Fine);
        assert_eq!(pulse.next(), Some(at(14)));
        assert_eq!(pulse.step(at(14), false, true), Beat::Ping);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_not_asked_until_it_is_used_again() {
        let (mut pulse, at) = pulse();
        assert_eq!(pulse.step(at(100), false, false), Beat::Fine);
        assert_eq!(pulse.next(), None);
        assert_eq!(pulse.step(at(200), false, true), Beat::Fine);
        assert_eq!(pulse.next(), Some(at(206)));
    }
}
