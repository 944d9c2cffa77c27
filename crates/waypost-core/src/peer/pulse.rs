//! When a connection that says nothing is asked whether it still lives.
//!
//! ```text
//!            waiting or silence: PING              nothing read for 2 s
//!   Fine ─────────────────────────────▶ Asked ─────────────────────────▶ Silent
//!    ▲ ◀──────── anything read ─────────  │                                │
//!    └────────────────────────────────────┴────────── anything read ───────┘
//! ```
//!
//! A PING is dear: a default grpc-go server closes the connection at the fourth that no response headers or data came between. So a
//! connection has three, given back by headers and data and not by pongs, less the one that is out.

use std::time::Duration;

use tokio::time::Instant;

const PINGS: u8 = 3;
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
const STALL_AT_MOST_EVERY: Duration = Duration::from_secs(1);
const SILENCES: [Duration; 3] = [Duration::from_secs(5), Duration::from_secs(15), Duration::from_secs(45)];

/// Whether a connection answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Nobody doubts it.
    Fine,
    /// A PING is out; no new calls.
    Asked,
    /// The PING was not answered in time; calls that may move, move.
    Silent,
}

/// What happened on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// The socket was read dry; what was read since the last time.
    Dry(Read),
    /// A call waits longer than it should, and the socket has been read dry since.
    Waiting,
}

/// What was read since the last time, and who waits for more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// Something was read.
    pub bytes: bool,
    /// Response headers or data were read.
    pub answers: bool,
    /// The answer to our PING was read.
    pub pong: bool,
    /// Calls in flight now.
    pub calls: usize,
}

/// The clockwork of one connection.
#[derive(Clone, Debug)]
pub struct Pulse {
    patience: u32,
    pings_left: u8,
    out: bool,
    asked: Option<Instant>,
    silent: bool,
    quiet: Option<Quiet>,
    last_stall: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Quiet {
    since: Instant,
    pinged: usize,
}

impl Pulse {
    /// A pulse whose times are multiplied by `patience` (1, doubled for a peer that asked for calm).
    pub fn new(patience: u32) -> Self {
        Self {
            patience: patience.max(1),
            pings_left: PINGS,
            out: false,
            asked: None,
            silent: false,
            quiet: None,
            last_stall: None,
        }
    }

    /// Whether the connection answers.
    pub fn health(&self) -> Health {
        match (self.silent, self.asked) {
            (true, _) => Health::Silent,
            (false, Some(_)) => Health::Asked,
            (false, None) => Health::Fine,
        }
    }

    /// Takes what happened; returns whether a PING is to be sent now. Call it with `Dry` before any judgement.
    pub fn step(&mut self, now: Instant, event: Ask) -> bool {
        match event {
            Ask::Dry(read) => {
                self.note(now, read);
                self.judge(now)
            }
            Ask::Waiting => {
                let too_soon = self.last_stall.is_some_and(|last| now < last + STALL_AT_MOST_EVERY * self.patience);
                if too_soon || !self.may_ping() {
                    return false;
                }
                self.last_stall = Some(now);
                self.ping(now)
            }
        }
    }

    fn note(&mut self, now: Instant, read: Read) {
        if read.bytes {
            self.silent = false;
            if self.asked.take().is_some() {
                self.skip_silences(now);
            }
        }
        if read.pong {
            self.out = false;
        }
        if read.answers {
            self.pings_left = PINGS - u8::from(self.out);
        }
        if read.calls == 0 {
            self.quiet = None;
        } else if read.answers || self.quiet.is_none() {
            self.quiet = Some(Quiet { since: now, pinged: 0 });
        }
    }

    /// What was read has answered the silences that passed while a PING was out.
    fn skip_silences(&mut self, now: Instant) {
        while self.next_silence().is_some_and(|at| now >= at) {
            if let Some(quiet) = &mut self.quiet {
                quiet.pinged += 1;
            }
        }
    }

    fn judge(&mut self, now: Instant) -> bool {
        if self.asked.is_some_and(|at| now >= at + ANSWER_WITHIN * self.patience) {
            self.silent = true;
        }
        match self.next_silence() {
            Some(at) if now >= at && self.may_ping() => {
                if let Some(quiet) = &mut self.quiet {
                    quiet.pinged += 1;
                }
                self.ping(now)
            }
            _ => false,
        }
    }

    fn may_ping(&self) -> bool {
        self.asked.is_none() && !self.out && self.pings_left > 0
    }

    fn ping(&mut self, now: Instant) -> bool {
        self.pings_left -= 1;
        self.out = true;
        self.asked = Some(now);
        true
    }

    fn next_silence(&self) -> Option<Instant> {
        let quiet = self.quiet?;
        SILENCES.get(quiet.pinged).map(|silence| quiet.since + *silence * self.patience)
    }

    /// When to look again even if nothing happens.
    pub fn next_wake(&self) -> Option<Instant> {
        let answer = self.asked.filter(|_| !self.silent).map(|at| at + ANSWER_WITHIN * self.patience);
        let silence = self.next_silence().filter(|_| self.may_ping());
        [answer, silence].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dry(bytes: bool, answers: bool, calls: usize) -> Ask {
        Ask::Dry(Read { bytes, answers, pong: bytes, calls })
    }

    fn run_quiet(pulse: &mut Pulse, start: Instant, seconds: u64) -> Vec<u64> {
        let mut pings = Vec::new();
        let mut pinged = false;
        for ms in (0..seconds * 1000).step_by(100) {
            let now = start + Duration::from_millis(ms);
            let sent = pulse.step(now, dry(pinged, false, 1));
            pinged = sent;
            if sent {
                pings.push(ms / 1000);
            }
        }
        pings
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_stream_is_pinged_at_5_15_and_45_seconds_and_never_again() {
        let mut pulse = Pulse::new(1);
        assert_eq!(run_quiet(&mut pulse, Instant::now(), 200), [5, 15, 45]);
        assert_eq!(pulse.health(), Health::Fine);
        assert_eq!(pulse.next_wake(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn patience_doubles_the_times() {
        let mut pulse = Pulse::new(2);
        assert_eq!(run_quiet(&mut pulse, Instant::now(), 200), [10, 30, 90]);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_in_flight_asks_nothing() {
        let mut pulse = Pulse::new(1);
        let now = Instant::now();
        pulse.step(now, dry(true, true, 1));
        pulse.step(now, dry(true, true, 0));
        assert_eq!(pulse.next_wake(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_unanswered_ping_is_silence_and_any_byte_ends_it() {
        let mut pulse = Pulse::new(1);
        let start = Instant::now();
        pulse.step(start, dry(false, false, 1));
        let asked = start + Duration::from_secs(1);
        assert!(pulse.step(asked, Ask::Waiting));
        assert_eq!(pulse.health(), Health::Asked);
        assert!(!pulse.step(asked, Ask::Waiting), "one PING at a time");
        assert_eq!(pulse.next_wake(), Some(asked + ANSWER_WITHIN));
        pulse.step(asked + ANSWER_WITHIN, dry(false, false, 1));
        assert_eq!(pulse.health(), Health::Silent);
        pulse.step(asked + Duration::from_secs(9), dry(true, false, 1));
        assert_eq!(pulse.health(), Health::Fine);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_stalls_at_most_once_a_second_and_three_times_without_an_answer() {
        let mut pulse = Pulse::new(1);
        let start = Instant::now();
        let mut pings = 0;
        for ms in (0..4900).step_by(100) {
            let now = start + Duration::from_millis(ms);
            pulse.step(now, dry(true, false, 1));
            pings += u32::from(pulse.step(now, Ask::Waiting));
        }
        assert_eq!(pings, 3);
        let later = start + Duration::from_secs(5);
        assert!(!pulse.step(later, Ask::Waiting), "with none left, waiting alone does not stall");
        assert_eq!(pulse.health(), Health::Fine);
        pulse.step(later, dry(true, true, 1));
        assert!(pulse.step(later, Ask::Waiting), "an answer gives them back");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_gives_back_all_but_the_one_that_is_out() {
        let mut pulse = Pulse::new(1);
        let now = Instant::now();
        pulse.step(now, dry(false, false, 2));
        assert!(pulse.step(now, Ask::Waiting));
        pulse.step(now, Ask::Dry(Read { bytes: true, answers: true, pong: false, calls: 2 }));
        assert_eq!(pulse.pings_left, 2);
        assert!(!pulse.step(now + Duration::from_secs(2), Ask::Waiting), "the last one is still out");
    }
}
