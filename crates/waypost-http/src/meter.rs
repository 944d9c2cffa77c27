//! Counts what arrives on a connection, frame by frame, on its way into h2.
//!
//! h2 does not tell when SETTINGS, an answer or a pong was read. The frame's nine-byte header does (RFC 9113, 4.1).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::connect::BoxIo;

/// What has arrived so far. Written and read by the connection's own task.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    bytes: AtomicU64,
    answers: AtomicU64,
    pongs: AtomicU64,
    settings: AtomicU64,
}

/// [`Arrivals`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) bytes: u64,
    pub(crate) answers: u64,
    pub(crate) pongs: u64,
    pub(crate) settings: u64,
}

impl Arrivals {
    pub(crate) fn count(&self) -> Count {
        Count {
            bytes: self.bytes.load(Relaxed),
            answers: self.answers.load(Relaxed),
            pongs: self.pongs.load(Relaxed),
            settings: self.settings.load(Relaxed),
        }
    }
}

/// A stream of bytes whose incoming frames are counted.
pub(crate) struct Metered {
    io: BoxIo,
    arrivals: Arc<Arrivals>,
    frames: Frames,
}

impl Metered {
    pub(crate) fn new(io: BoxIo) -> (Self, Arc<Arrivals>) {
        let arrivals = Arc::new(Arrivals::default());
        (Self { io, arrivals: Arc::clone(&arrivals), frames: Frames::default() }, arrivals)
    }
}

/// Where in the stream of frames we are.
#[derive(Default)]
struct Frames {
    header: [u8; 9],
    filled: usize,
    payload_left: usize,
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const ACK: u8 = 1;

impl Frames {
    fn read(&mut self, mut bytes: &[u8], arrivals: &Arrivals) {
        while !bytes.is_empty() {
            let skipped = self.payload_left.min(bytes.len());
            self.payload_left -= skipped;
            bytes = &bytes[skipped..];
            let taken = (9 - self.filled).min(bytes.len());
            self.header[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled == 9 {
                self.note(arrivals);
            }
        }
    }

    fn note(&mut self, arrivals: &Arrivals) {
        let [a, b, c, kind, flags, ..] = self.header;
        self.payload_left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        self.filled = 0;
        let counter = match (kind, flags & ACK) {
            (DATA | HEADERS, _) => &arrivals.answers,
            (SETTINGS, 0) => &arrivals.settings,
            (PING, ACK) => &arrivals.pongs,
            _ => return,
        };
        counter.fetch_add(1, Relaxed);
    }
}

impl AsyncRead for Metered {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let result = Pin::new(&mut this.io).poll_read(cx, buf);
        let read = &buf.filled()[before..];
        if !read.is_empty() {
            this.arrivals.bytes.fetch_add(read.len() as u64, Relaxed);
            this.frames.read(read, &this.arrivals);
        }
        result
    }
}

impl AsyncWrite for Metered {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let mut bytes = vec![0, u8::try_from(payload >> 8).unwrap(), (payload & 0xff) as u8, kind, flags, 0, 0, 0, 1];
        bytes.extend(std::iter::repeat_n(0xaa, payload));
        bytes
    }

    #[test]
    fn frames_are_counted_however_they_are_cut() {
        let stream: Vec<u8> = [
            frame(SETTINGS, 0, 12),
            frame(SETTINGS, ACK, 0),
            frame(HEADERS, 4, 300),
            frame(DATA, 0, 5),
            frame(PING, ACK, 8),
            frame(PING, 0, 8),
            frame(DATA, 1, 0),
        ]
        .concat();
        for size in [1, 2, 7, 9, 10, 64, 1000] {
            let arrivals = Arrivals::default();
            let mut frames = Frames::default();
            for piece in stream.chunks(size) {
                frames.read(piece, &arrivals);
            }
            assert_eq!(arrivals.count(), Count { bytes: 0, answers: 3, pongs: 1, settings: 1 }, "pieces of {size}");
        }
    }
}
