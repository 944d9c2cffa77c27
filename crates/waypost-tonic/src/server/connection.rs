//! Accepted connections that can be aborted. tonic serves each in a task that it spawns and never
//! aborts, so the only way to end one is to fail its reads and writes.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep};
use tonic::codegen::tokio_stream::Stream;
use tonic::transport::server::{Connected, TcpConnectInfo};

use super::accept_log::AcceptLog;

/// Backoff of the listener after a failed accept, such as one for lack of descriptors.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// Guard that aborts all connections of one server, on order or when dropped.
#[derive(Debug, Default)]
pub(super) struct ConnectionGuard(Arc<Shared>);

/// State shared by a server's connections.
#[derive(Debug, Default)]
struct Shared {
    aborted: AtomicBool,
    wake: Notify,
    open: AtomicUsize,
}

impl ConnectionGuard {
    /// Aborts every connection, and returns the number that were open.
    pub(super) fn abort(&self) -> usize {
        self.0.aborted.store(true, Ordering::SeqCst);
        self.0.wake.notify_waiters();
        self.0.open.load(Ordering::SeqCst)
    }

    /// Returns the connections that `listener` accepts, each under this guard.
    pub(super) fn incoming(&self, listener: TcpListener) -> Incoming {
        Incoming {
            listener,
            shared: Arc::clone(&self.0),
            rest: None,
            log: AcceptLog::default(),
        }
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.abort();
    }
}

impl Shared {
    fn is_aborted(&self) -> bool {
        self.aborted.load(Ordering::SeqCst)
    }

    async fn until_aborted(self: Arc<Self>) {
        let mut woken = std::pin::pin!(self.wake.notified());
        woken.as_mut().enable();
        if !self.is_aborted() {
            woken.await;
        }
    }
}

/// Stream of accepted connections. It never ends, and backs off after an error.
pub(super) struct Incoming {
    listener: TcpListener,
    shared: Arc<Shared>,
    rest: Option<Pin<Box<Sleep>>>,
    log: AcceptLog,
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(rest) = &mut self.rest {
                ready!(rest.as_mut().poll(cx));
                self.rest = None;
            }
            match ready!(self.listener.poll_accept(cx)) {
                Ok((stream, _)) => {
                    self.log_accepted();
                    return Poll::Ready(Some(Ok(Connection::new(stream, &self.shared))));
                }
                // The peer ended its connection before it was accepted. The next one may be
                // accepted at once.
                Err(error) if is_of_the_peer(&error) => {
                    tracing::debug!(%error, "connection ended by the peer before it was accepted");
                }
                Err(error) => {
                    self.log_failure(&error);
                    self.rest = Some(Box::pin(sleep(ACCEPT_REST)));
                }
            }
        }
    }
}

impl Incoming {
    fn log_failure(&mut self, error: &io::Error) {
        if let Some(failures) = self.log.on_failure(Instant::now()) {
            let address = self.listener.local_addr().ok();
            tracing::warn!(?address, failures, %error, "cannot accept connections; retrying");
        }
    }

    fn log_accepted(&mut self) {
        if self.log.on_accepted() {
            tracing::info!(address = ?self.listener.local_addr().ok(), "accepting connections again");
        }
    }
}

fn is_of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}

/// Accepted connection.
pub(super) struct Connection {
    stream: TcpStream,
    shared: Arc<Shared>,
    until_aborted: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Connection {
    fn new(stream: TcpStream, shared: &Arc<Shared>) -> Self {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY not set");
        }
        shared.open.fetch_add(1, Ordering::SeqCst);
        Self {
            stream,
            shared: Arc::clone(shared),
            until_aborted: Box::pin(Arc::clone(shared).until_aborted()),
        }
    }

    /// Returns the client's address.
    #[cfg(feature = "tls")]
    pub(super) fn peer(&self) -> Option<std::net::SocketAddr> {
        self.stream.peer_addr().ok()
    }

    /// Runs `io` unless the connection is aborted, and wakes on an abort while `io` is pending.
    fn poll_io<T>(
        &mut self,
        cx: &mut Context<'_>,
        io: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if self.shared.is_aborted() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let polled = io(Pin::new(&mut self.stream), cx);
        if polled.is_pending() && self.until_aborted.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        polled
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_io(cx, |stream, cx| stream.poll_read(cx, buffer))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_io(cx, |stream, cx| stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_io(cx, |stream, cx| stream.poll_write_vectored(cx, bytes))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_io(cx, AsyncWrite::poll_flush)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_io(cx, AsyncWrite::poll_shutdown)
    }
}
