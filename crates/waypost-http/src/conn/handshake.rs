//! Handshake of a connection: windows, and the server's SETTINGS.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use h2::client::{self, SendRequest};

use super::connect::BoxIo;
use super::frames::{FrameCounter, FrameCounts};

/// Stream window: maximum number of unread bytes of one stream.
pub(super) const STREAM_WINDOW: u32 = 2 << 20;

/// Connection window: maximum number of unread bytes of all streams of a connection, as in Go's
/// client. A stream that is not read blocks itself and no other, until 512 full ones are unread.
/// The windows of the streams bound the memory.
const CONNECTION_WINDOW: u32 = 1 << 30;

/// Budget of small DATA frames, unlimited. When it is exceeded, h2 closes the connection with all
/// its calls. h2 counts frames that are unread, and those ignored since the connection was opened
/// because their streams had been cancelled. Unread frames are bounded by the windows; ignored ones
/// cost nothing.
const DATA_FRAME_BUDGET: usize = usize::MAX;

/// Number of cancelled streams that are remembered for a second, so that their late frames are
/// ignored. A late frame of a forgotten stream is answered by a reset. h2 would close the
/// connection at the 1 024th; that limit is disabled.
const REMEMBERED_RESETS: usize = 1_024;

/// Connection on which both sides have sent SETTINGS.
pub(crate) struct Handshake {
    pub(crate) send: SendRequest<Bytes>,
    pub(crate) h2: client::Connection<FrameCounter, Bytes>,
    pub(crate) counts: Arc<FrameCounts>,
}

/// Error of a connection on which the server's SETTINGS never arrived.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    /// The server answered the preface with a TLS record.
    #[error("the server speaks TLS: its first bytes are a TLS record, not an HTTP/2 frame")]
    SpeaksTls,
    /// The server closed the connection in order.
    #[error("the peer closed the connection before its SETTINGS")]
    Closed,
    /// The byte stream failed, or the bytes are not HTTP/2.
    #[error(transparent)]
    Failed(#[from] h2::Error),
}

/// Sends the preface and waits for the server's SETTINGS. A TCP connection alone proves nothing: a
/// frozen process accepts connections too.
///
/// # Errors
/// The byte stream ended or failed, or the peer does not speak HTTP/2.
pub(crate) async fn handshake(io: BoxIo) -> Result<Handshake, HandshakeError> {
    let (io, counts) = FrameCounter::new(io);
    let (send, mut h2) = client::Builder::new()
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .data_frame_budget(DATA_FRAME_BUDGET)
        .max_concurrent_reset_streams(REMEMBERED_RESETS)
        .max_local_error_reset_streams(None)
        .handshake(io)
        .await?;
    poll_fn(|cx| {
        let polled = Pin::new(&mut h2).poll(cx);
        if counts.starts_with_tls() {
            return Poll::Ready(Err(HandshakeError::SpeaksTls));
        }
        match polled {
            Poll::Ready(Ok(())) => Poll::Ready(Err(HandshakeError::Closed)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
            Poll::Pending if counts.totals().settings > 0 => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        }
    })
    .await?;
    Ok(Handshake { send, h2, counts })
}
