//! Server side of a connection in memory, whose process may freeze, and which a firewall may drop
//! silently.

use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::watch;

use crate::net::Host;

/// Server side of a connection. It neither reads nor writes while its process is frozen, and counts
/// the PINGs that it reads.
pub(crate) struct Freezing {
    io: DuplexStream,
    frozen: watch::Receiver<bool>,
    thaw: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    forgotten: usize,
    host: Host,
    seen: Vec<u8>,
    /// Number of PINGs; none before the first frame.
    pings: Option<usize>,
}

impl Freezing {
    pub(crate) fn new(io: DuplexStream, host: Host) -> Self {
        let (frozen, forgotten) = (host.frozen.subscribe(), host.forgotten.load(Relaxed));
        Self {
            io,
            frozen,
            thaw: None,
            forgotten,
            host,
            seen: Vec::new(),
            pings: None,
        }
    }

    fn poll_thawed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.host.forgotten.load(Relaxed) > self.forgotten {
            return Poll::Pending;
        }
        if !*self.frozen.borrow() && self.thaw.is_none() {
            return Poll::Ready(());
        }
        let mut frozen = self.frozen.clone();
        let thaw = self.thaw.get_or_insert_with(|| {
            Box::pin(async move {
                let _ = frozen.wait_for(|frozen| !frozen).await;
            })
        });
        let thawed = thaw.as_mut().poll(cx);
        if thawed.is_ready() {
            self.thaw = None;
        }
        thawed
    }

    /// Counts the PINGs among the complete frames, and buffers the incomplete one.
    fn count_pings(&mut self, bytes: &[u8]) {
        const PREFACE: usize = 24;
        self.seen.extend_from_slice(bytes);
        let mut at = if self.pings.is_none() { PREFACE } else { 0 };
        while let Some([a, b, c, kind, flags, ..]) = self.seen.get(at..) {
            let end = at + 9 + (usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c));
            if self.seen.len() < end {
                break;
            }
            *self.pings.get_or_insert(0) += usize::from(*kind == 6 && flags & 1 == 0);
            at = end;
        }
        if let Some(pings) = self.pings {
            self.seen.drain(..at);
            self.host.pings.fetch_max(pings, Relaxed);
        }
    }
}

impl AsyncRead for Freezing {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_thawed(cx));
        let before = buf.filled().len();
        let result = Pin::new(&mut self.io).poll_read(cx, buf);
        let read = buf.filled()[before..].to_vec();
        self.count_pings(&read);
        result
    }
}

impl AsyncWrite for Freezing {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.poll_thawed(cx));
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
