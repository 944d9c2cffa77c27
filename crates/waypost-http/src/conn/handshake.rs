//! The beginning of a connection: windows, and the server's SETTINGS.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use h2::client::{self, SendRequest};

use super::connect::BoxIo;
use super::frames::{FrameCounter, FrameCounts};

/// Bytes that a stream may hold unread.
const STREAM_WINDOW: u32 = 2 << 20;

/// Bytes that all streams of a connection may hold unread: the most that HTTP/2 knows (RFC 9113, 6.9.1). A stream that is not read then
/// blocks itself only, as in Go's client. Memory is bounded by the windows of the streams.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

/// h2 counts small DATA frames that nobody has read yet, those of cancelled streams for ever, and closes the connection with all its calls
/// when they are too many. The windows bound them already.
const DATA_FRAME_BUDGET: usize = usize::MAX;

/// A connection on which both sides have sent SETTINGS.
pub(crate) struct Handshake {
    pub(crate) send: SendRequest<Bytes>,
    pub(crate) h2: client::Connection<FrameCounter, Bytes>,
    pub(crate) counts: Arc<FrameCounts>,
}

/// Sends the preface and waits for the server's SETTINGS: a frozen process accepts connections too.
///
/// # Errors
/// The stream of bytes broke off, or the peer does not speak HTTP/2.
pub(crate) async fn handshake(io: BoxIo) -> Result<Handshake, String> {
    let (io, counts) = FrameCounter::new(io);
    let (send, mut h2) = client::Builder::new()
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .data_frame_budget(DATA_FRAME_BUDGET)
        .handshake(io)
        .await
        .map_err(|error| error.to_string())?;
    poll_fn(|cx| match Pin::new(&mut h2).poll(cx) {
        Poll::Ready(Ok(())) => Poll::Ready(Err("the peer closed the connection before its SETTINGS".to_owned())),
        Poll::Ready(Err(error)) => Poll::Ready(Err(error.to_string())),
        Poll::Pending if counts.totals().settings > 0 => Poll::Ready(Ok(())),
        Poll::Pending => Poll::Pending,
    })
    .await?;
    Ok(Handshake { send, h2, counts })
}
