//! One connection of a hostile server, which reads frames, and responds or misbehaves as its
//! behavior requires.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::behavior::Behavior;
use super::counters::Counters;
use super::frame::{
    ACK, DATA, ENHANCE_YOUR_CALM, ERROR_CODES, Frame, GREATEST_ID, MAX_CONCURRENT_STREAMS, PING,
    PREFACE, REFUSED_STREAM, RST_STREAM, SETTINGS,
};

/// Interval of the periodic actions of a behavior.
const TICK: Duration = Duration::from_millis(20);
/// Pause of a slow reader, and the number of bytes that it reads between two pauses.
const PAUSE: Duration = Duration::from_millis(10);
const SIP: usize = 48;
/// Limit of concurrent streams of a well connection; generous.
const WELL_LIMIT: u32 = 100;
/// Maximum number of one-byte DATA frames in one connection, below the smallest flow-control
/// window.
const TINY_FRAMES: u32 = 20_000;
const TINY_FRAMES_PER_TICK: u32 = 64;
/// Bytes of an empty gRPC message.
const EMPTY_MESSAGE: &[u8] = &[0; 5];

/// Accepted connection.
pub(super) struct Connection {
    pub(super) io: TcpStream,
    pub(super) behavior: Behavior,
    pub(super) rng: fastrand::Rng,
    pub(super) healed: watch::Receiver<bool>,
    pub(super) counters: Arc<Counters>,
    state: State,
}

#[derive(Default)]
struct State {
    read: Vec<u8>,
    bytes_read: usize,
    requests: u32,
    /// Streams that receive endless one-byte DATA frames.
    dripping: Vec<u32>,
    /// Streams that get their response once the server is healed.
    waiting: Vec<u32>,
    dripped: u32,
    healed: bool,
}

impl Connection {
    pub(super) fn new(
        io: TcpStream,
        behavior: Behavior,
        rng: fastrand::Rng,
        healed: watch::Receiver<bool>,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            io,
            behavior,
            rng,
            healed,
            counters,
            state: State::default(),
        }
    }

    /// Serves until the connection, its client or the hostility ends.
    pub(super) async fn run(mut self) {
        let mut healed = self.healed.clone();
        let ends = !self.behavior.survives_healing();
        let reset = tokio::select! {
            end = self.serve() => end.is_err(),
            _ = healed.wait_for(|healed| *healed), if ends => true,
        };
        if reset {
            let _ = self.io.set_zero_linger();
        }
    }

    /// Serves the connection; an error ends it by RST.
    async fn serve(&mut self) -> io::Result<()> {
        match self.behavior {
            Behavior::Mute => std::future::pending().await,
            Behavior::CloseAfterHello => {
                self.send(&[Frame::settings(None)]).await?;
                self.hesitate().await;
                if self.rng.bool() {
                    self.close().await
                } else {
                    Err(closed())
                }
            }
            Behavior::Calm => {
                self.send(&[Frame::settings(None), Frame::goaway(0, ENHANCE_YOUR_CALM)])
                    .await?;
                self.close().await
            }
            _ => self.speak().await,
        }
    }

    /// Waits for a random time, often zero, so that the client sees the end at any point of its own
    /// work.
    async fn hesitate(&mut self) {
        match self.rng.u8(0..4) {
            0 => {}
            1 => sleep(Duration::from_millis(self.rng.u64(1..10))).await,
            _ => {
                for _ in 0..self.rng.u8(1..40) {
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    /// Closes gracefully: sends nothing more and reads what remains.
    async fn close(&mut self) -> io::Result<()> {
        self.io.shutdown().await?;
        while self.io.read(&mut [0; 1024]).await? > 0 {}
        Ok(())
    }

    async fn speak(&mut self) -> io::Result<()> {
        let reset_at = (self.behavior == Behavior::Reset).then(|| self.rng.usize(0..1_500));
        if reset_at != Some(0) {
            let limit = if let Behavior::Limit(limit) = self.behavior {
                limit
            } else {
                WELL_LIMIT
            };
            self.send(&[Frame::settings(Some((MAX_CONCURRENT_STREAMS, limit)))])
                .await?;
        }
        // An idle server must cost nothing, so that a client beside it can be measured.
        let ticks = self.behavior.acts_by_itself();
        let mut tick = tokio::time::interval(TICK);
        loop {
            let frame = tokio::select! {
                frame = self.next_frame() => frame?,
                _ = tick.tick(), if ticks => {
                    self.on_tick().await?;
                    continue;
                }
            };
            let Some(frame) = frame else { return Ok(()) };
            if reset_at.is_some_and(|at| self.state.bytes_read >= at) {
                return Err(closed());
            }
            if self.on_frame(frame).await?.is_break() {
                return self.close().await;
            }
        }
    }

    /// Returns the next frame, or `None` at the end of the connection.
    ///
    /// Cancel safe: bytes that were read are kept.
    async fn next_frame(&mut self) -> io::Result<Option<Frame>> {
        loop {
            let state = &mut self.state;
            if state.read.starts_with(PREFACE) {
                state.read.drain(..PREFACE.len());
            }
            if let Some((frame, length)) = Frame::parse(&state.read) {
                state.read.drain(..length);
                return Ok(Some(frame));
            }
            let slow = self.behavior == Behavior::ReadSlowly && !*self.healed.borrow();
            if slow {
                sleep(PAUSE).await;
            }
            let mut buffer = [0; 16 * 1024];
            let most = if slow { SIP } else { buffer.len() };
            let n = self.io.read(&mut buffer[..most]).await?;
            if n == 0 {
                return Ok(None);
            }
            self.state.read.extend_from_slice(&buffer[..n]);
            self.state.bytes_read += n;
        }
    }

    async fn on_tick(&mut self) -> io::Result<()> {
        match self.behavior {
            Behavior::ChangeLimits => self.change_limit().await,
            Behavior::TinyData => self.drip().await,
            Behavior::Limit(_) => self.raise_limit().await,
            _ => Ok(()),
        }
    }

    async fn change_limit(&mut self) -> io::Result<()> {
        if self.state.healed {
            return Ok(());
        }
        self.state.healed = *self.healed.borrow();
        let limit = match self.state.healed {
            true => WELL_LIMIT,
            false if self.rng.u8(..) < 220 => return Ok(()),
            false => *self.rng.choice(&[0, 0, 1, 2, 100]).unwrap_or(&0),
        };
        self.send(&[Frame::settings(Some((MAX_CONCURRENT_STREAMS, limit)))])
            .await
    }

    async fn raise_limit(&mut self) -> io::Result<()> {
        if self.state.healed || !*self.healed.borrow() {
            return Ok(());
        }
        self.state.healed = true;
        self.send(&[Frame::settings(Some((MAX_CONCURRENT_STREAMS, WELL_LIMIT)))])
            .await?;
        for stream in std::mem::take(&mut self.state.waiting) {
            self.answer(stream).await?;
        }
        Ok(())
    }

    async fn drip(&mut self) -> io::Result<()> {
        for stream in self.state.dripping.clone() {
            let most = TINY_FRAMES
                .saturating_sub(self.state.dripped)
                .min(TINY_FRAMES_PER_TICK);
            let frames: Vec<_> = (0..most).map(|_| Frame::data(stream, &[0])).collect();
            self.state.dripped += most;
            self.send(&frames).await?;
        }
        Ok(())
    }

    /// Handles one frame; breaks if the connection is to be closed gracefully.
    async fn on_frame(&mut self, frame: Frame) -> io::Result<std::ops::ControlFlow<()>> {
        match frame.kind {
            SETTINGS if frame.flags & ACK == 0 => self.send(&[Frame::settings_ack()]).await?,
            PING if frame.flags & ACK == 0 => self.send(&[Frame::pong(frame.clone())]).await?,
            RST_STREAM => self.state.dripping.retain(|stream| *stream != frame.stream),
            DATA => self.make_room(&frame).await?,
            _ => {}
        }
        if frame.ends_stream() {
            self.on_request(frame.stream).await
        } else {
            Ok(std::ops::ControlFlow::Continue(()))
        }
    }

    async fn make_room(&mut self, frame: &Frame) -> io::Result<()> {
        let bytes = u32::try_from(frame.payload.len()).unwrap_or_default();
        if bytes == 0 {
            Ok(())
        } else {
            self.send(&[Frame::window_update(0, bytes)]).await
        }
    }

    async fn on_request(&mut self, stream: u32) -> io::Result<std::ops::ControlFlow<()>> {
        self.counters.requests.fetch_add(1, Relaxed);
        self.state.requests += 1;
        match self.behavior {
            Behavior::RefuseStreams => self.send(&[Frame::reset(stream, REFUSED_STREAM)]).await?,
            Behavior::AnswerThenReset => {
                let code = self.rng.u32(0..ERROR_CODES);
                self.send(&[Frame::response(stream), Frame::reset(stream, code)])
                    .await?;
            }
            Behavior::TinyData => {
                self.send(&[Frame::response(stream)]).await?;
                self.state.dripping.push(stream);
            }
            Behavior::Limit(_) if !self.state.healed => self.state.waiting.push(stream),
            Behavior::Hang => std::future::pending().await,
            Behavior::GoAway if self.rng.u8(0..4) == 0 => return self.go_away(stream).await,
            Behavior::Freeze if self.rng.u8(0..4) == 0 => {
                self.freeze().await;
                self.answer(stream).await?;
            }
            _ => self.answer(stream).await?,
        }
        Ok(std::ops::ControlFlow::Continue(()))
    }

    async fn answer(&mut self, stream: u32) -> io::Result<()> {
        self.send(&[
            Frame::response(stream),
            Frame::data(stream, EMPTY_MESSAGE),
            Frame::trailers(stream),
        ])
        .await?;
        self.counters.answered.fetch_add(1, Relaxed);
        Ok(())
    }

    async fn go_away(&mut self, stream: u32) -> io::Result<std::ops::ControlFlow<()>> {
        let last = *self
            .rng
            .choice(&[0, stream.saturating_sub(2), stream, GREATEST_ID])
            .unwrap_or(&0);
        let code = self.rng.u32(0..ERROR_CODES);
        self.send(&[Frame::goaway(last, code)]).await?;
        if last >= stream && self.rng.bool() {
            self.answer(stream).await?;
        }
        if self.rng.bool() {
            Err(closed())
        } else {
            Ok(std::ops::ControlFlow::Break(()))
        }
    }

    /// Neither reads nor writes for a while; healing the server ends the freeze at once.
    async fn freeze(&mut self) {
        let time = Duration::from_millis(self.rng.u64(100..3_000));
        let _ = timeout(time, self.healed.wait_for(|healed| *healed)).await;
    }

    async fn send(&mut self, frames: &[Frame]) -> io::Result<()> {
        let bytes: Vec<u8> = frames.iter().flat_map(Frame::to_bytes).collect();
        self.io.write_all(&bytes).await
    }
}

fn closed() -> io::Error {
    io::ErrorKind::ConnectionAborted.into()
}
