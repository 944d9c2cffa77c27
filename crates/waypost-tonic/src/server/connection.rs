//! Accepted connections that can be cut. tonic serves each in a task that it spawns and never aborts, so the way to end one is to fail
//! its reads and writes.

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
use tokio::time::{Sleep, sleep};
use tonic::codegen::tokio_stream::Stream;
use tonic::transport::server::{Connected, TcpConnectInfo};

/// How long the listener rests after a failed accept, such as for want of descriptors.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// Cuts all connections of one server: when told to, or when dropped.
#[derive(Debug, Default)]
pub(super) struct Cutter(Arc<Line>);

/// What a server's connections share.
#[derive(Debug, Default)]
struct Line {
    cut: AtomicBool,
    wake: Notify,
    open: AtomicUsize,
}

impl Cutter {
    /// Ends every connection, now; returns how many were open.
    pub(super) fn cut(&self) -> usize {
        self.0.cut.store(true, Ordering::SeqCst);
        self.0.wake.notify_waiters();
        self.0.open.load(Ordering::SeqCst)
    }

    /// The connections that `listener` accepts, each under this cutter.
    pub(super) fn incoming(&self, listener: TcpListener) -> Incoming {
        Incoming { listener, line: Arc::clone(&self.0), rest: None }
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.cut();
    }
}

impl Line {
    fn is_cut(&self) -> bool {
        self.cut.load(Ordering::SeqCst)
    }

    async fn until_cut(self: Arc<Self>) {
        let mut woken = std::pin::pin!(self.wake.notified());
        woken.as_mut().enable();
        if !self.is_cut() {
            woken.await;
        }
    }
}

/// The stream of accepted connections; it never ends, and rests after an error.
pub(super) struct Incoming {
    listener: TcpListener,
    line: Arc<Line>,
    rest: Option<Pin<Box<Sleep>>>,
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
                Ok((stream, _)) => return Poll::Ready(Some(Ok(Connection::new(stream, &self.line)))),
                Err(error) => {
                    tracing::debug!(%error, "accepting failed");
                    self.rest = Some(Box::pin(sleep(ACCEPT_REST)));
                }
            }
        }
    }
}

/// One accepted connection.
pub(super) struct Connection {
    stream: TcpStream,
    line: Arc<Line>,
    until_cut: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Connection {
    fn new(stream: TcpStream, line: &Arc<Line>) -> Self {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY refused");
        }
        line.open.fetch_add(1, Ordering::SeqCst);
        Self { stream, line: Arc::clone(line), until_cut: Box::pin(Arc::clone(line).until_cut()) }
    }

    /// Runs `io` unless the line is cut, and wakes for the cut while `io` is pending.
    fn poll_io<T>(
        &mut self,
        cx: &mut Context<'_>,
        io: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if self.line.is_cut() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let polled = io(Pin::new(&mut self.stream), cx);
        if polled.is_pending() && self.until_cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        polled
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.line.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll_io(cx, |stream, cx| stream.poll_read(cx, buffer))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_io(cx, |stream, cx| stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
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
