//! Server with handwritten frames, for sequences that no library sends, or only by chance of
//! timing.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;

use h2::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::{Duration, sleep};

use crate::net::Host;

const PREFACE: usize = 24;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `:status: 200`, from HPACK's static table.
const STATUS_200: u8 = 0x88;

/// Steps of a server's response to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Response headers.
    Headers,
    /// DATA frame of the response.
    Data,
    Reset(Reason),
    /// GOAWAY whose last id is the request's id minus this.
    GoAway(Reason, u32),
    /// GOAWAY with the maximum id: nothing is refused yet.
    GoAwayAll,
    /// The end of the connection.
    Close,
}

/// Steps for each request; each step is sent on its own.
pub(crate) type Script = &'static [Step];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn go_away(last: u32, reason: Reason) -> Vec<u8> {
    frame(
        GOAWAY,
        0,
        0,
        &[last.to_be_bytes(), u32::from(reason).to_be_bytes()].concat(),
    )
}

impl Step {
    fn bytes(self, stream: u32) -> Option<Vec<u8>> {
        Some(match self {
            Self::Headers => frame(HEADERS, END_HEADERS, stream, &[STATUS_200]),
            Self::Data => frame(DATA, 0, stream, b"piece"),
            Self::Reset(reason) => frame(RST_STREAM, 0, stream, &u32::from(reason).to_be_bytes()),
            Self::GoAway(reason, below) => go_away(stream.saturating_sub(below), reason),
            Self::GoAwayAll => go_away(u32::MAX >> 1, Reason::NO_ERROR),
            Self::Close => return None,
        })
    }
}

/// Serves one connection; requests are counted at `host` once they have been received in full.
pub(crate) async fn serve(mut io: DuplexStream, host: Host, script: Script) -> std::io::Result<()> {
    let mut preface = [0; PREFACE];
    io.read_exact(&mut preface).await?;
    io.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    let mut open = BTreeMap::new();
    loop {
        let mut head = [0; 9];
        io.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, id @ ..] = head;
        let stream = u32::from_be_bytes(id);
        let mut payload = vec![0; usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap()];
        io.read_exact(&mut payload).await?;
        match kind {
            SETTINGS if flags & ACK == 0 => io.write_all(&frame(SETTINGS, ACK, 0, &[])).await?,
            PING if flags & ACK == 0 => io.write_all(&frame(PING, ACK, 0, &payload)).await?,
            HEADERS => _ = open.insert(stream, ()),
            _ => {}
        }
        if matches!(kind, HEADERS | DATA)
            && flags & END_STREAM != 0
            && open.remove(&stream).is_some()
        {
            host.requests.fetch_add(1, Relaxed);
            for step in script {
                let Some(bytes) = step.bytes(stream) else {
                    return Ok(());
                };
                io.write_all(&bytes).await?;
                sleep(Duration::from_millis(1)).await;
            }
        }
    }
}
