//! When a connection is asked by a PING whether it lives, and what follows.
//!
//! ```text
//!             slow call, silence, idle: PING        nothing read in time
//!   Alive ──────────────────────────────▶ Probing ───────────────────────▶ Unresponsive ──▶ Close
//!     ▲ ◀─────────── anything read ──────────┘                                  │
//!     └─────────────────────────── anything read ───────────────────────────────┘
//! ```
//!
//! A default grpc-go server closes the connection at the fourth PING that no response headers or data came between. So a connection has
//! three, restored by headers and data and not by answers to PINGs, less the one that is out.

use std::time::Duration;

use tokio::time::Instant;

use super::calm::EnhanceYourCalm;
use super::config::ConnectionConfig;
use super::connection::Liveness;

const PINGS: u8 = 3;
const SLOW_PING_INTERVAL: Duration = Duration::from_secs(1);
const SILENCES: [Duration; 3] = [Duration::from_secs(5), Duration::from_secs(15), Duration::from_secs(45)];
/// Round trips after which the PING that proves an idle connection is late.
const PROOF_ROUND_TRIPS: u32 = 8;

/// Event of a connection that concerns its liveness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeepAliveEvent {
    /// The socket was read until nothing was left.
    Read(Activity),
    /// A call waits longer than it should, and the socket was read since.
    Slow,
    /// A connection that was idle as long turned out to be dead.
    Prove,
}

/// Activity since the last event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Activity {
    /// Bytes were read.
    pub(super) bytes: bool,
    /// Response headers or data were read.
    pub(super) answers: bool,
    /// The answer to our PING was read.
    pub(super) pong: bool,
    /// Streams were opened.
    pub(super) opened: bool,
    /// Calls in flight now.
    pub(super) calls: usize,
}

/// Action that an event demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeepAliveAction {
    None,
    Ping,
    /// A PING was not answered for too long: close the connection with all its calls.
    Close,
}

/// Timers of a connection's liveness. Pure: time is an argument.
#[derive(Clone, Debug)]
pub(super) struct KeepAlive {
    times: Times,
    calm: EnhanceYourCalm,
    factor: u32,
    pings_left: u8,
    ping_out: bool,
    probe: Option<Probe>,
    unresponsive: bool,
    quiet: Option<Quiet>,
    last_slow_ping: Option<Instant>,
    last_read: Instant,
    rtt: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Times {
    idle: Duration,
    proof: Duration,
    ping: Duration,
    close: Duration,
}

/// PING since which nothing was read.
#[derive(Clone, Copy, Debug)]
struct Probe {
    sent: Instant,
    timeout: Duration,
    /// Sent as a proof of an idle connection, which is not doubted before the answer is late.
    is_proof: bool,
}

/// Time without response headers or data while calls are in flight.
#[derive(Clone, Copy, Debug)]
struct Quiet {
    since: Instant,
    pinged: usize,
}

impl KeepAlive {
    /// Creates the timers of a connection that was opened at `now` to a peer of this calm, and whose first round trip took at most `rtt`.
    pub(super) fn new(config: &ConnectionConfig, calm: EnhanceYourCalm, now: Instant, rtt: Duration) -> Self {
        Self {
            times: Times {
                idle: config.idle_timeout,
                proof: config.proof_timeout,
                ping: config.ping_timeout,
                close: config.close_timeout,
            },
            calm,
            factor: calm.factor(now),
            pings_left: PINGS,
            ping_out: false,
            probe: None,
            unresponsive: false,
            quiet: None,
            last_slow_ping: None,
            last_read: now,
            rtt,
        }
    }

    /// Returns whether the connection answers.
    pub(super) fn liveness(&self) -> Liveness {
        match (self.unresponsive, self.probe) {
            (true, _) => Liveness::Unresponsive,
            (false, Some(probe)) if !probe.is_proof => Liveness::Probing,
            (false, _) => Liveness::Alive,
        }
    }

    /// Returns whether a PING is out since which nothing was read.
    pub(super) fn is_asking(&self) -> bool {
        self.probe.is_some()
    }

    /// Takes an event. [`Read`](KeepAliveEvent::Read) comes before any other at the same time.
    pub(super) fn step(&mut self, now: Instant, event: KeepAliveEvent) -> KeepAliveAction {
        self.factor = self.calm.factor(now);
        match event {
            KeepAliveEvent::Read(activity) => {
                self.record(now, activity);
                match activity.opened && self.is_idle(now) && self.may_ping() {
                    true => self.prove(now),
                    false => self.check(now),
                }
            }
            KeepAliveEvent::Slow => self.on_slow(now),
            KeepAliveEvent::Prove if self.is_idle(now) => self.prove(now),
            KeepAliveEvent::Prove => KeepAliveAction::None,
        }
    }

    /// Returns when to look again even if nothing happens.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        let answer =
            self.probe.and_then(|probe| after(probe.sent, if self.unresponsive { self.times.close } else { probe.timeout }));
        let silence = self.next_silence().filter(|_| self.may_ping());
        [answer, silence].into_iter().flatten().min()
    }

    fn is_idle(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last_read) >= self.times.idle
    }

    fn record(&mut self, now: Instant, activity: Activity) {
        if activity.pong {
            self.ping_out = false;
            if let Some(probe) = self.probe {
                self.rtt = now.saturating_duration_since(probe.sent);
            }
        }
        if activity.bytes {
            self.last_read = now;
            self.unresponsive = false;
            if self.probe.take().is_some() {
                self.skip_silences(now);
            }
        }
        if activity.answers {
            self.pings_left = PINGS - u8::from(self.ping_out);
        }
        if activity.calls == 0 {
            self.quiet = None;
        } else if activity.answers || self.quiet.is_none() {
            self.quiet = Some(Quiet { since: now, pinged: 0 });
        }
    }

    /// Skips the silences that passed while a PING was out: its answer is theirs too.
    fn skip_silences(&mut self, now: Instant) {
        while self.next_silence().is_some_and(|at| now >= at) {
            self.count_silence();
        }
    }

    fn count_silence(&mut self) {
        if let Some(quiet) = &mut self.quiet {
            quiet.pinged += 1;
        }
    }

    fn check(&mut self, now: Instant) -> KeepAliveAction {
        if let Some(probe) = self.probe {
            let waited = now.saturating_duration_since(probe.sent);
            if waited >= self.times.close {
                return KeepAliveAction::Close;
            }
            self.unresponsive |= waited >= probe.timeout;
        }
        if self.may_ping() && self.next_silence().is_some_and(|at| now >= at) {
            self.count_silence();
            return self.ping(Probe { sent: now, timeout: self.times.ping, is_proof: false });
        }
        KeepAliveAction::None
    }

    fn on_slow(&mut self, now: Instant) -> KeepAliveAction {
        if let Some(probe) = &mut self.probe {
            probe.is_proof = false;
        }
        let interval = SLOW_PING_INTERVAL.saturating_mul(self.factor);
        let too_soon = self.last_slow_ping.is_some_and(|last| now.saturating_duration_since(last) < interval);
        if too_soon || !self.may_ping() {
            return KeepAliveAction::None;
        }
        self.last_slow_ping = Some(now);
        self.ping(Probe { sent: now, timeout: self.times.ping, is_proof: false })
    }

    fn prove(&mut self, now: Instant) -> KeepAliveAction {
        if !self.may_ping() {
            return KeepAliveAction::None;
        }
        let timeout = self.times.proof.max(self.rtt.saturating_mul(PROOF_ROUND_TRIPS));
        self.ping(Probe { sent: now, timeout, is_proof: true })
    }

    fn may_ping(&self) -> bool {
        self.probe.is_none() && !self.ping_out && self.pings_left > 0
    }

    fn ping(&mut self, probe: Probe) -> KeepAliveAction {
        self.pings_left -= 1;
        self.ping_out = true;
        self.probe = Some(probe);
        KeepAliveAction::Ping
    }

    fn next_silence(&self) -> Option<Instant> {
        let quiet = self.quiet?;
        after(quiet.since, SILENCES.get(quiet.pinged)?.saturating_mul(self.factor))
    }
}

fn after(at: Instant, duration: Duration) -> Option<Instant> {
    at.checked_add(duration)
}

#[cfg(test)]
#[path = "tests/keepalive.rs"]
mod tests;
