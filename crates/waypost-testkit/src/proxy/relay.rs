//! One connection through the proxy: two pipes, until one of them ends, or a reset.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::Counters;
use super::mode::{Direction, Mode, until};

/// Maximum amount in transit in one direction: 64 chunks of 16 KiB.
const CHUNK_BYTES: usize = 16 * 1024;
const CHUNKS: usize = 64;
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);

/// End of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Graceful end: each side sent its end, or the client left.
    Closed,
    /// Failure of one side, or a reset by the proxy: both sides are reset.
    Reset,
}

/// Serves `client` to its end. Resets and half-opens before this call do not affect the connection.
pub(super) fn run(
    mut client: TcpStream,
    mode: watch::Receiver<Mode>,
    counters: Arc<Counters>,
) -> impl Future<Output = ()> + Send + 'static {
    let born = mode.borrow().clone();
    async move {
        // A reset does not cancel the dial: the target may have accepted already and must see the
        // reset too.
        let mut server = if swallows(&mode) {
            None
        } else {
            dial(born.target).await
        };
        let serving = async {
            // Round trip of the TCP handshake.
            sleep(born.delay * 2).await;
            serve(&mut client, &mut server, &mode, &counters, born.half_opens).await
        };
        let end = tokio::select! {
            biased;
            () = until(&mode, |mode| mode.cuts != born.cuts) => End::Reset,
            end = serving => end,
        };
        if end == End::Reset {
            for stream in server.iter().chain([&client]) {
                let _ = stream.set_zero_linger();
            }
        }
    }
}

fn swallows(mode: &watch::Receiver<Mode>) -> bool {
    mode.borrow().swallows(Direction::ToTarget)
}

async fn dial(target: SocketAddr) -> Option<TcpStream> {
    timeout(DIAL_TIMEOUT, TcpStream::connect(target))
        .await
        .ok()?
        .ok()
}

async fn serve(
    client: &mut TcpStream,
    server: &mut Option<TcpStream>,
    mode: &watch::Receiver<Mode>,
    counters: &Counters,
    half_opens: u64,
) -> End {
    let Some(dialled) = server else {
        tokio::select! {
            () = discard(client) => {}
            () = until(mode, |mode| !mode.swallows(Direction::ToTarget)) => {}
        }
        return End::Reset;
    };
    tokio::select! {
        biased;
        () = until(mode, |mode| mode.half_opens != half_opens) => {}
        end = pipes(client, dialled, mode, counters) => return end,
    }
    *server = None;
    discard(client).await;
    End::Closed
}

/// Reads and discards until the sender closes.
async fn discard(from: &mut (impl AsyncRead + Unpin)) {
    let mut chunk = vec![0; CHUNK_BYTES];
    while matches!(from.read(&mut chunk).await, Ok(1..)) {}
}

async fn pipes(
    client: &mut TcpStream,
    server: &mut TcpStream,
    mode: &watch::Receiver<Mode>,
    counters: &Counters,
) -> End {
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (client_read, client_write) = client.split();
    let (server_read, server_write) = server.split();
    let there = pipe(
        client_read,
        server_write,
        mode,
        Direction::ToTarget,
        &counters.to_target,
    );
    let back = pipe(
        server_read,
        client_write,
        mode,
        Direction::ToClient,
        &counters.to_client,
    );
    if tokio::try_join!(there, back).is_ok() {
        End::Closed
    } else {
        End::Reset
    }
}

/// Forwards one direction: reads chunks, and writes each when it is due.
async fn pipe(
    from: ReadHalf<'_>,
    to: WriteHalf<'_>,
    mode: &watch::Receiver<Mode>,
    direction: Direction,
    bytes: &AtomicU64,
) -> io::Result<()> {
    let (sender, receiver) = mpsc::channel(CHUNKS);
    tokio::try_join!(
        take(from, sender, mode, direction),
        hand_on(to, receiver, mode, bytes)
    )
    .map(drop)
}

/// Bytes, and the time at which they are to be written.
struct Chunk {
    due: Instant,
    bytes: Vec<u8>,
}

async fn take(
    mut from: ReadHalf<'_>,
    chunks: mpsc::Sender<Chunk>,
    mode: &watch::Receiver<Mode>,
    direction: Direction,
) -> io::Result<()> {
    loop {
        until(mode, |mode| !mode.frozen).await;
        let mut bytes = vec![0; CHUNK_BYTES];
        let length = from.read(&mut bytes).await?;
        bytes.truncate(length);
        let (delay, swallowed) = { (mode.borrow().delay, mode.borrow().swallows(direction)) };
        if swallowed {
            tokio::select! {
                () = discard(&mut from) => until(mode, |mode| !mode.swallows(direction)).await,
                () = until(mode, |mode| !mode.swallows(direction)) => {}
            }
            // TCP delivers everything or breaks: no byte may follow a lost one.
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if chunks
            .send(Chunk {
                due: Instant::now() + delay,
                bytes,
            })
            .await
            .is_err()
            || length == 0
        {
            return Ok(());
        }
    }
}

async fn hand_on(
    mut to: WriteHalf<'_>,
    mut chunks: mpsc::Receiver<Chunk>,
    mode: &watch::Receiver<Mode>,
    counter: &AtomicU64,
) -> io::Result<()> {
    while let Some(Chunk { due, bytes }) = chunks.recv().await {
        sleep_until(due).await;
        until(mode, |mode| !mode.frozen).await;
        to.write_all(&bytes).await?;
        counter.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    }
    to.shutdown().await
}
