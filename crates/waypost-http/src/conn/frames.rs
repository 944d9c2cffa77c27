//! Counter of the frames that arrive on a connection, on their way into h2.
//!
//! h2 reports neither when SETTINGS, a response or a PING acknowledgement was read, nor the header
//! list size that the peer accepts. Both are read from the nine-byte frame header (RFC 9113, 4.1)
//! and the payload of SETTINGS (6.5).

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connect::BoxIo;
use super::panic::panic_message;

/// Counts of the bytes and frames that have arrived. Written by the connection's own task only, and
/// therefore without read-modify-write operations.
#[derive(Debug)]
pub(crate) struct FrameCounts {
    bytes: AtomicU64,
    answers: AtomicU64,
    pongs: AtomicU64,
    settings: AtomicU64,
    settings_acks: AtomicU64,
    write_blocked: AtomicBool,
    starts_with_tls: AtomicBool,
    highest_answered: AtomicU32,
    max_header_list_size: AtomicU32,
}

impl Default for FrameCounts {
    fn default() -> Self {
        Self {
            bytes: AtomicU64::new(0),
            answers: AtomicU64::new(0),
            pongs: AtomicU64::new(0),
            settings: AtomicU64::new(0),
            settings_acks: AtomicU64::new(0),
            write_blocked: AtomicBool::new(false),
            starts_with_tls: AtomicBool::new(false),
            highest_answered: AtomicU32::new(0),
            max_header_list_size: AtomicU32::new(u32::MAX),
        }
    }
}

/// [`FrameCounts`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FrameTotals {
    pub(crate) bytes: u64,
    /// Number of HEADERS and DATA frames.
    pub(crate) answers: u64,
    pub(crate) pongs: u64,
    pub(crate) settings: u64,
    /// Number of acknowledgements of our SETTINGS.
    pub(crate) settings_acks: u64,
}

impl FrameCounts {
    pub(crate) fn totals(&self) -> FrameTotals {
        FrameTotals {
            bytes: self.bytes.load(Relaxed),
            answers: self.answers.load(Relaxed),
            pongs: self.pongs.load(Relaxed),
            settings: self.settings.load(Relaxed),
            settings_acks: self.settings_acks.load(Relaxed),
        }
    }

    /// Returns true if the last write is incomplete: queued frames may not have been sent.
    pub(super) fn is_write_blocked(&self) -> bool {
        self.write_blocked.load(Relaxed)
    }

    /// Returns true if the peer's first byte is that of a TLS record. As the first byte of a frame, it
    /// would announce more than a megabyte, 80 times the limit.
    pub(super) fn starts_with_tls(&self) -> bool {
        self.starts_with_tls.load(Relaxed)
    }

    /// Returns the highest id of a stream that has received a response.
    pub(super) fn highest_answered(&self) -> u32 {
        self.highest_answered.load(Relaxed)
    }

    /// Returns the peer's SETTINGS_MAX_HEADER_LIST_SIZE; `u32::MAX` if it set none.
    pub(super) fn max_header_list_size(&self) -> u32 {
        self.max_header_list_size.load(Relaxed)
    }
}

fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Relaxed) + n, Relaxed);
}

/// Byte stream whose incoming frames are counted, and whose panics become errors: h2 writes while
/// it holds the lock of all streams, and a panic there would panic each of their calls.
pub(crate) struct FrameCounter {
    io: BoxIo,
    counts: Arc<FrameCounts>,
    parser: Parser,
}

impl FrameCounter {
    pub(crate) fn new(io: BoxIo) -> (Self, Arc<FrameCounts>) {
        let counts = Arc::new(FrameCounts::default());
        (
            Self {
                io,
                counts: Arc::clone(&counts),
                parser: Parser::default(),
            },
            counts,
        )
    }
}

const HEADER: usize = 9;
const SETTING: usize = 6;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const ACK: u8 = 1;

const MAX_HEADER_LIST_SIZE: u16 = 6;

/// Content types of the TLS records that a server may send first: an alert, or a handshake message
/// (RFC 8446, 5.1).
const TLS_RECORDS: [u8; 2] = [0x15, 0x16];

/// Position of the parser in the stream of frames.
#[derive(Default)]
struct Parser {
    header: [u8; HEADER],
    filled: usize,
    payload_left: usize,
    setting: [u8; SETTING],
    setting_filled: usize,
    in_settings: bool,
}

impl Parser {
    fn read(&mut self, mut bytes: &[u8], counts: &FrameCounts) {
        while !bytes.is_empty() {
            let (payload, rest) = bytes.split_at(self.payload_left.min(bytes.len()));
            self.payload_left -= payload.len();
            if self.in_settings {
                self.read_settings(payload, counts);
            }
            let (header, rest) = rest.split_at((HEADER - self.filled).min(rest.len()));
            self.header[self.filled..self.filled + header.len()].copy_from_slice(header);
            self.filled += header.len();
            bytes = rest;
            if self.filled == HEADER {
                self.begin_frame(counts);
            }
        }
    }

    fn begin_frame(&mut self, counts: &FrameCounts) {
        let [a, b, c, kind, flags, id @ ..] = self.header;
        self.payload_left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        self.filled = 0;
        self.setting_filled = 0;
        self.in_settings = kind == SETTINGS && flags & ACK == 0;
        let counter = match (kind, flags & ACK) {
            (DATA | HEADERS, _) => {
                let answered = counts
                    .highest_answered
                    .load(Relaxed)
                    .max(u32::from_be_bytes(id) & (u32::MAX >> 1));
                counts.highest_answered.store(answered, Relaxed);
                &counts.answers
            }
            (SETTINGS, 0) => &counts.settings,
            (SETTINGS, _) => &counts.settings_acks,
            (PING, ACK) => &counts.pongs,
            _ => return,
        };
        add(counter, 1);
    }

    fn read_settings(&mut self, payload: &[u8], counts: &FrameCounts) {
        for byte in payload {
            self.setting[self.setting_filled] = *byte;
            self.setting_filled += 1;
            if self.setting_filled == SETTING {
                self.setting_filled = 0;
                let [a, b, value @ ..] = self.setting;
                if u16::from_be_bytes([a, b]) == MAX_HEADER_LIST_SIZE {
                    counts
                        .max_header_list_size
                        .store(u32::from_be_bytes(value), Relaxed);
                }
            }
        }
    }
}

impl AsyncRead for FrameCounter {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let result = contain(|| Pin::new(&mut this.io).poll_read(cx, buf));
        let read = &buf.filled()[before..];
        if let Some(first) = read.first() {
            if this.counts.bytes.load(Relaxed) == 0 && TLS_RECORDS.contains(first) {
                this.counts.starts_with_tls.store(true, Relaxed);
            }
            add(&this.counts.bytes, read.len() as u64);
            this.parser.read(read, &this.counts);
        }
        result
    }
}

impl FrameCounter {
    fn written<T>(&self, result: Poll<T>) -> Poll<T> {
        self.counts
            .write_blocked
            .store(result.is_pending(), Relaxed);
        result
    }
}

impl AsyncWrite for FrameCounter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = contain(|| Pin::new(&mut self.io).poll_write(cx, buf));
        self.written(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = contain(|| Pin::new(&mut self.io).poll_write_vectored(cx, bufs));
        self.written(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = contain(|| Pin::new(&mut self.io).poll_flush(cx));
        self.written(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        contain(|| Pin::new(&mut self.io).poll_shutdown(cx))
    }
}

/// Converts a panic of the user's byte stream into an error.
fn contain<T>(poll: impl FnOnce() -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
    let failed = |panic: Box<dyn Any + Send>| {
        io::Error::other(format!("panicked: {}", panic_message(panic.as_ref())))
    };
    catch_unwind(AssertUnwindSafe(poll)).unwrap_or_else(|panic| Poll::Ready(Err(failed(panic))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![
            0,
            u8::try_from(payload.len() >> 8).unwrap(),
            (payload.len() & 0xff) as u8,
            kind,
            flags,
            0,
            0,
            0,
            1,
        ];
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn frames_are_counted_however_they_are_cut() {
        let settings = [0, 3, 0, 0, 0, 100, 0, 6, 0, 0, 32, 0, 0, 4, 0, 1, 0, 0];
        let stream: Vec<u8> = [
            frame(SETTINGS, 0, &settings),
            frame(SETTINGS, ACK, &[]),
            frame(HEADERS, 4, &[0xaa; 300]),
            frame(DATA, 0, &[0, 6, 0, 0, 0, 0]),
            frame(PING, ACK, &[7; 8]),
            frame(PING, 0, &[7; 8]),
            frame(DATA, 1, &[]),
        ]
        .concat();
        for size in [1, 2, 5, 7, 9, 10, 64, 1000] {
            let counts = FrameCounts::default();
            let mut parser = Parser::default();
            for piece in stream.chunks(size) {
                parser.read(piece, &counts);
            }
            assert_eq!(
                counts.totals(),
                FrameTotals {
                    bytes: 0,
                    answers: 3,
                    pongs: 1,
                    settings: 1,
                    settings_acks: 1
                },
                "pieces of {size}"
            );
            assert_eq!(
                (counts.max_header_list_size(), counts.highest_answered()),
                (8192, 1),
                "pieces of {size}"
            );
        }
    }

    #[test]
    fn a_peer_that_sets_no_header_limit_has_none() {
        let counts = FrameCounts::default();
        Parser::default().read(&frame(SETTINGS, 0, &[0, 3, 0, 0, 0, 1]), &counts);
        assert_eq!(counts.max_header_list_size(), u32::MAX);
    }
}
