//! Task that drives a connection.
//!
//! The socket is read until it would block before liveness is evaluated, so that a client that is
//! short of CPU does not blame its servers.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{self, SendRequest};
use h2::{Ping, PingPong, Reason};
use tokio::task::coop::has_budget_remaining;
use tokio::time::{Instant, Sleep, sleep_until};

use super::calm::EnhanceYourCalm;
use super::cancel::CancelQueue;
use super::config::ConnectionConfig;
use super::connection::{Connection, Liveness};
use super::event::{EventSender, GoAway};
use super::frames::{FrameCounter, FrameCounts, FrameTotals};
use super::handshake::{Handshake, STREAM_WINDOW};
use super::keepalive::{Activity, KeepAlive, KeepAliveAction, KeepAliveEvent};

/// Driver of one connection after its handshake.
pub(crate) struct Driver {
    /// Connection handle. First field, so that it is marked as ended before h2 ends the streams.
    connection: Ended,
    h2: client::Connection<FrameCounter, Bytes>,
    probe: SendRequest<Bytes>,
    ping: Option<PingPong>,
    counts: Arc<FrameCounts>,
    seen: FrameTotals,
    settings_acks: u64,
    opened: u64,
    keep_alive: KeepAlive,
    cancelled: CancelQueue,
    liveness: Liveness,
    going_away: bool,
    proof_wanted: bool,
    ending: Option<Result<(), String>>,
    close_timeout: Duration,
}

/// Drop guard that marks the connection as ended before h2 ends its streams.
struct Ended(Arc<Connection>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.set_ended("the task of the connection was aborted");
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver")
            .field("connection", &self.connection.0)
            .finish_non_exhaustive()
    }
}

enum Turn {
    GoAway(GoAway),
    Liveness,
    Capacity,
    Ended(Result<(), String>),
    Again,
}

impl Driver {
    /// Creates the driver of a connection whose dial began at `begun`.
    pub(crate) fn new(
        handshake: Handshake,
        config: &ConnectionConfig,
        calm: EnhanceYourCalm,
        begun: Instant,
    ) -> (Self, Arc<Connection>) {
        let Handshake {
            send,
            mut h2,
            counts,
        } = handshake;
        let now = Instant::now();
        let connection = Arc::new(Connection::new(send.clone(), now, config.idle_timeout));
        connection.set_max_header_list_size(counts.max_header_list_size());
        let driver = Self {
            connection: Ended(Arc::clone(&connection)),
            ping: h2.ping_pong(),
            h2,
            probe: send,
            seen: counts.totals(),
            counts,
            settings_acks: 0,
            opened: 0,
            keep_alive: KeepAlive::new(config, calm, now, now.saturating_duration_since(begun)),
            cancelled: CancelQueue::default(),
            liveness: Liveness::Alive,
            going_away: false,
            proof_wanted: false,
            ending: None,
            close_timeout: config.close_timeout,
        };
        (driver, connection)
    }

    /// Drives the connection until it ends, and returns the reason.
    pub(crate) async fn run(mut self, events: &mut EventSender) -> Result<(), String> {
        let connection = Arc::clone(&self.connection.0);
        let mut timer = std::pin::pin!(sleep_until(Instant::now()));
        loop {
            let turn = tokio::select! {
                biased;
                turn = poll_fn(|cx| self.poll(cx, timer.as_mut())) => turn,
                () = connection.state.wake.notified() => Turn::Again,
            };
            match turn {
                Turn::GoAway(go_away) => events.go_away(go_away),
                Turn::Liveness => events.liveness_changed(&connection),
                Turn::Capacity => events.capacity_changed(&connection),
                Turn::Ended(result) => return self.end(result),
                Turn::Again if connection.is_draining() && connection.streams() == 0 => {
                    return self.end(Ok(()));
                }
                Turn::Again => {}
            }
        }
    }

    fn end(self, result: Result<(), String>) -> Result<(), String> {
        let reason = result
            .as_ref()
            .err()
            .map_or("the connection was closed", String::as_str);
        self.connection.0.set_ended(reason);
        result
    }

    fn poll(&mut self, cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> Poll<Turn> {
        if let Some(result) = self.ending.take() {
            return Poll::Ready(Turn::Ended(result));
        }
        self.reset_cancelled();
        let state = &self.connection.0.state;
        // The flag is cleared before the read: a call that sets it during the read needs another
        // read.
        let read_wanted = state.read_wanted.swap(false, SeqCst);
        if let Poll::Ready(result) = Pin::new(&mut self.h2).poll(cx) {
            return Poll::Ready(self.closed(result));
        }
        if !has_budget_remaining() {
            state.read_wanted.fetch_or(read_wanted, SeqCst);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if read_wanted {
            state.read_rounds.send_modify(|n| *n += 1);
        }
        let now = Instant::now();
        if self.reset_more(now) {
            return Poll::Ready(Turn::Again);
        }
        if let Some(turn) = self.take_go_away(cx) {
            return Poll::Ready(turn);
        }
        if self.limit_rose() {
            return Poll::Ready(Turn::Capacity);
        }
        if let Err(reason) = self.judge(cx, now) {
            return Poll::Ready(Turn::Ended(Err(reason)));
        }
        if self.keep_alive.liveness() != self.liveness {
            self.liveness = self.keep_alive.liveness();
            self.connection.0.set_liveness(self.liveness);
            return Poll::Ready(Turn::Liveness);
        }
        self.arm(cx, timer.as_mut())
    }

    /// Converts the end of h2's connection into a [`Turn`]. A GOAWAY that nothing follows arrives
    /// together with the end.
    fn closed(&mut self, result: Result<(), h2::Error>) -> Turn {
        match result {
            Err(error) if error.is_go_away() && !self.going_away => {
                self.ending = Some(Err(error.to_string()));
                self.going_away(&error)
            }
            result => Turn::Ended(result.map_err(|error| error.to_string())),
        }
    }

    /// Detects a GOAWAY. h2 refuses new streams from the moment it has read one, and reports it
    /// here before a call is affected.
    fn take_go_away(&mut self, cx: &mut Context<'_>) -> Option<Turn> {
        if self.going_away {
            return None;
        }
        let Poll::Ready(Err(error)) = self.probe.poll_ready(cx) else {
            return None;
        };
        Some(self.going_away(&error))
    }

    fn going_away(&mut self, error: &h2::Error) -> Turn {
        self.going_away = true;
        self.connection.0.state.draining.store(true, SeqCst);
        Turn::GoAway(GoAway {
            calm: error.is_remote() && error.reason() == Some(Reason::ENHANCE_YOUR_CALM),
        })
    }

    fn reset_cancelled(&mut self) {
        for stream in self.connection.0.take_cancelled() {
            self.cancelled.add(stream);
        }
        if self.cancelled.is_empty() {
            return;
        }
        let alive = self.is_alive();
        // Dropped here, outside of h2's own locks.
        drop(
            self.cancelled
                .release(Instant::now(), self.counts.highest_answered(), alive),
        );
    }

    /// Returns true if h2 must be polled again: there are streams to reset, or a SETTINGS frame is
    /// to be sent after those that were.
    fn reset_more(&mut self, now: Instant) -> bool {
        let acks = self.counts.totals().settings_acks;
        if acks != std::mem::replace(&mut self.settings_acks, acks) {
            self.cancelled.acknowledged(now);
        }
        // Sent after the resets: with no write blocked, h2 has written all of them. h2 has at most
        // one unacknowledged SETTINGS frame; the acknowledgement of another one wakes this task.
        if self.cancelled.wants_proof()
            && !self.counts.is_write_blocked()
            && self.h2.set_initial_window_size(STREAM_WINDOW).is_ok()
        {
            self.cancelled.asked();
            return true;
        }
        self.cancelled
            .can_release(now, self.counts.highest_answered(), self.is_alive())
    }

    fn is_alive(&self) -> bool {
        self.keep_alive.liveness() == Liveness::Alive
    }

    fn limit_rose(&mut self) -> bool {
        let connection = &self.connection.0;
        let limit = connection.max_send_streams();
        connection.state.limit.swap(limit, SeqCst) < limit
    }

    fn judge(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<(), String> {
        let activity = self.activity(cx, now);
        self.act(now, KeepAliveEvent::Read(activity))?;
        let state = &self.connection.0.state;
        if state.slow.load(SeqCst) && state.slow.swap(false, SeqCst) {
            self.act(now, KeepAliveEvent::Slow)?;
        }
        let state = &self.connection.0.state;
        if state.prove.load(SeqCst) && state.prove.swap(false, SeqCst) {
            self.act(now, KeepAliveEvent::Prove)?;
            self.proof_wanted = true;
        }
        self.notify_proof();
        Ok(())
    }

    /// Notifies the calls that wait for the verification once no PING is outstanding.
    fn notify_proof(&mut self) {
        if self.proof_wanted && !self.keep_alive.is_asking() {
            self.proof_wanted = false;
            self.connection.0.state.proofs.send_modify(|n| *n += 1);
        }
    }

    fn activity(&mut self, cx: &mut Context<'_>, now: Instant) -> Activity {
        let totals = self.counts.totals();
        let seen = std::mem::replace(&mut self.seen, totals);
        let opened = self.connection.0.state.opened.load(SeqCst);
        let activity = Activity {
            bytes: totals.bytes > seen.bytes,
            answers: totals.answers > seen.answers,
            pong: totals.pongs > seen.pongs,
            opened: opened != std::mem::replace(&mut self.opened, opened),
            calls: self.connection.0.streams(),
        };
        if activity.bytes {
            self.connection.0.set_last_read(now);
        }
        if activity.pong
            && let Some(ping) = &mut self.ping
        {
            // Takes the acknowledgement, so that another PING may be sent.
            let _ = ping.poll_pong(cx);
        }
        activity
    }

    fn act(&mut self, now: Instant, event: KeepAliveEvent) -> Result<(), String> {
        match self.keep_alive.step(now, event) {
            KeepAliveAction::None => {}
            KeepAliveAction::Ping => {
                if let Some(ping) = &mut self.ping {
                    // The keep-alive sends one PING at a time, so h2 never refuses this one.
                    let _ = ping.send_ping(Ping::opaque());
                }
            }
            KeepAliveAction::Close => {
                return Err(format!(
                    "no answer to a PING within {:?}",
                    self.close_timeout
                ));
            }
        }
        Ok(())
    }

    /// Arms the timer for the next check. A timer that fires early only causes an additional check.
    fn arm(&self, cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> Poll<Turn> {
        let wakes = [
            self.keep_alive.next_wake(),
            self.cancelled.next_wake(self.is_alive()),
        ];
        let Some(at) = wakes.into_iter().flatten().min() else {
            return Poll::Pending;
        };
        if timer.is_elapsed() || timer.deadline() > at {
            timer.as_mut().reset(at);
        }
        timer.poll(cx).map(|()| Turn::Again)
    }
}
