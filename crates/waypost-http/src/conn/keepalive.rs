//! Keep-alive: the times at which a connection is probed by a PING, and the consequences.
//!
//! ```text
//!             slow call, silence, idle: PING        nothing read in time
//!   Alive ──────────────────────────────▶ Probing ───────────────────────▶ Unresponsive ──▶ Close
//!     ▲ ◀─────────── anything read ──────────┘                                  │
//!     └─────────────────────────── anything read ───────────────────────────────┘
//! ```
//!
//! A default grpc-go server closes the connection at the fourth PING without response headers or
//! data in between. A connection therefore has a budget of three PINGs. Headers and data restore
//! it, less the PING that is outstanding; PING acknowledgements do not.

use std::time::Duration;

use tokio::time::Instant;

use super::calm::EnhanceYourCalm;
use super::config::{ConnectionConfig, Silence};
use super::connection::Liveness;

const PINGS: u8 = 3;
/// Minimum period of [`Silence::Every`], so that no setting sends PINGs in a loop.
const MIN_SILENCE: Duration = Duration::from_millis(10);
const SLOW_PING_INTERVAL: Duration = Duration::from_secs(1);
/// Number of round trips after which the PING that verifies an idle connection is late.
const PROOF_ROUND_TRIPS: u32 = 8;

/// Event of a connection that affects its liveness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeepAliveEvent {
    /// The socket was read until it would block.
    Read(Activity),
    /// A call waits longer than expected, and the socket has been read since.
    Slow,
    /// Another connection that was idle as long turned out to be dead.
    Prove,
}

/// Activity since the last event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Activity {
    /// True if bytes were read.
    pub(super) bytes: bool,
    /// True if response headers or data were read.
    pub(super) answers: bool,
    /// True if the acknowledgement of our PING was read.
    pub(super) pong: bool,
    /// True if streams were opened.
    pub(super) opened: bool,
    /// Current number of calls in flight.
    pub(super) calls: usize,
}

/// Action that follows an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeepAliveAction {
    None,
    Ping,
    /// Close the connection with all its calls: a PING was not acknowledged within the close
    /// timeout.
    Close,
}

/// Keep-alive state machine of a connection. Pure: time is an argument.
#[derive(Clone, Debug)]
pub(super) struct KeepAlive {
    times: Times,
    silence: Silence,
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
    /// True for the PING that verifies an idle connection. The connection stays alive until its
    /// acknowledgement is late.
    is_proof: bool,
}

/// Period without response headers or data while calls are in flight.
#[derive(Clone, Copy, Debug)]
struct Quiet {
    since: Instant,
    pinged: usize,
}

impl KeepAlive {
    /// Creates the keep-alive of a connection that was opened at `now` to a peer with this calm
    /// state, and whose first round trip took at most `rtt`.
    pub(super) fn new(
        config: &ConnectionConfig,
        calm: EnhanceYourCalm,
        now: Instant,
        rtt: Duration,
    ) -> Self {
        Self {
            times: Times {
                idle: config.idle_timeout,
                proof: config.proof_timeout,
                ping: config.ping_timeout,
                close: config.close_timeout,
            },
            silence: config.silence,
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

    /// Returns the liveness of the connection.
    pub(super) fn liveness(&self) -> Liveness {
        match (self.unresponsive, self.probe) {
            (true, _) => Liveness::Unresponsive,
            (false, Some(probe)) if !probe.is_proof => Liveness::Probing,
            (false, _) => Liveness::Alive,
        }
    }

    /// Returns true if a PING is outstanding since which nothing was read.
    pub(super) fn is_asking(&self) -> bool {
        self.probe.is_some()
    }

    /// Handles an event. [`Read`](KeepAliveEvent::Read) must precede any other event of the same
    /// time.
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

    /// Returns the time of the next check if no event occurs before.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        let answer = self.probe.and_then(|probe| {
            after(
                probe.sent,
                if self.unresponsive {
                    self.times.close
                } else {
                    probe.timeout
                },
            )
        });
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
            self.quiet = Some(Quiet {
                since: now,
                pinged: 0,
            });
        }
    }

    /// Skips the silences that passed while a PING was outstanding: its acknowledgement covers them
    /// too.
    fn skip_silences(&mut self, now: Instant) {
        while matches!(self.silence, Silence::Sparse(_))
            && self.next_silence().is_some_and(|at| now >= at)
        {
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
            return self.ping(Probe {
                sent: now,
                timeout: self.times.ping,
                is_proof: false,
            });
        }
        KeepAliveAction::None
    }

    fn on_slow(&mut self, now: Instant) -> KeepAliveAction {
        if let Some(probe) = &mut self.probe {
            probe.is_proof = false;
        }
        let interval = SLOW_PING_INTERVAL.saturating_mul(self.factor);
        let too_soon = self
            .last_slow_ping
            .is_some_and(|last| now.saturating_duration_since(last) < interval);
        if too_soon || !self.may_ping() {
            return KeepAliveAction::None;
        }
        self.last_slow_ping = Some(now);
        self.ping(Probe {
            sent: now,
            timeout: self.times.ping,
            is_proof: false,
        })
    }

    fn prove(&mut self, now: Instant) -> KeepAliveAction {
        if !self.may_ping() {
            return KeepAliveAction::None;
        }
        let timeout = self
            .times
            .proof
            .max(self.rtt.saturating_mul(PROOF_ROUND_TRIPS));
        self.ping(Probe {
            sent: now,
            timeout,
            is_proof: true,
        })
    }

    fn may_ping(&self) -> bool {
        let allowed = self.pings_left > 0 || matches!(self.silence, Silence::Every(_));
        self.probe.is_none() && !self.ping_out && allowed
    }

    fn ping(&mut self, probe: Probe) -> KeepAliveAction {
        self.pings_left = self.pings_left.saturating_sub(1);
        self.ping_out = true;
        self.probe = Some(probe);
        KeepAliveAction::Ping
    }

    fn next_silence(&self) -> Option<Instant> {
        let quiet = self.quiet?;
        match self.silence {
            Silence::Sparse(periods) => after(
                quiet.since,
                periods.get(quiet.pinged)?.saturating_mul(self.factor),
            ),
            Silence::Every(period) => {
                after(quiet.since.max(self.last_read), period.max(MIN_SILENCE))
            }
        }
    }
}

fn after(at: Instant, duration: Duration) -> Option<Instant> {
    at.checked_add(duration)
}

#[cfg(test)]
#[path = "tests/keepalive.rs"]
mod tests;
