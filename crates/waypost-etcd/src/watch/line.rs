//! State of the watch stream: its opening, its progress requests, its timeout, and the report of
//! its outages. Pure.

use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;

use crate::rest;
use crate::trouble::Trouble;

/// Interval between two progress requests that check the stream.
const PROGRESS: Duration = Duration::from_secs(1);
/// Time after which a progress request without a response may be repeated.
const PROGRESS_AGAIN: Duration = Duration::from_millis(300);
/// Interval between two progress requests for barriers.
const BARRIER: Duration = Duration::from_millis(50);
/// Time without any response after which the stream is dead.
const SILENCE: Duration = Duration::from_secs(3);
/// Duration of an outage before listeners get an error.
const QUIET: Duration = Duration::from_secs(1);
/// Minimum life of a successful stream. If it ends earlier, the backoff grows.
const LASTING: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Line {
    stream: Option<Stream>,
    down: Option<Down>,
    retry_at: Option<Instant>,
    failures: u32,
    /// True once another response of etcd has shortened the backoff. Reset when a stream has
    /// lasted.
    hastened: bool,
}

/// Current stream.
#[derive(Debug)]
struct Stream {
    opened: Instant,
    heard: Instant,
    /// True once it has received a response.
    up: bool,
    /// Last revision of a progress response: etcd sends these and events in one order.
    progress: i64,
    /// Last revision of a `created` response. They have an order of their own, and may overtake
    /// events and progress.
    created: i64,
    asked: Instant,
    unanswered: bool,
    /// A barrier waits for the next response.
    barrier: bool,
}

/// Source of etcd's revision; each source is ordered in itself only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    Created,
    Progress,
}

/// Outage: no stream that has received a response.
#[derive(Debug)]
struct Down {
    since: Instant,
    why: Trouble,
}

impl Line {
    pub(super) fn is_open(&self) -> bool {
        self.stream.is_some()
    }

    /// Returns true if the stream has received a response.
    pub(super) fn is_up(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| stream.up)
    }

    pub(super) fn may_open(&self, now: Instant) -> bool {
        self.stream.is_none() && self.retry_at.is_none_or(|at| at <= now)
    }

    pub(super) fn open(&mut self, now: Instant) {
        self.stream = Some(Stream {
            opened: now,
            heard: now,
            up: false,
            progress: 0,
            created: 0,
            asked: now,
            unanswered: false,
            barrier: false,
        });
    }

    /// Drops the stream, which is no longer needed.
    pub(super) fn drop_it(&mut self) {
        (self.stream, self.down) = (None, None);
    }

    /// Records a response. Returns true if it is the first on this stream.
    pub(super) fn heard(&mut self, now: Instant) -> bool {
        let Some(stream) = &mut self.stream else {
            return false;
        };
        stream.heard = now;
        let is_first = !std::mem::replace(&mut stream.up, true);
        if is_first {
            (self.down, self.retry_at) = (None, None);
        }
        is_first
    }

    /// Records the revision that etcd reports. Returns true if it was higher before.
    pub(super) fn reaches(&mut self, sign: Sign, revision: i64) -> bool {
        let Some(stream) = &mut self.stream else {
            return false;
        };
        let reached = match sign {
            Sign::Created => &mut stream.created,
            Sign::Progress => &mut stream.progress,
        };
        std::mem::replace(reached, revision) > revision
    }

    /// Returns true if progress has reached this revision. If not, requests progress soon.
    pub(super) fn has_reached(&mut self, revision: i64) -> bool {
        let Some(stream) = &mut self.stream else {
            return false;
        };
        let has = stream.progress >= revision;
        stream.barrier |= !has;
        has
    }

    /// Records the end of the stream. Returns false if there was none.
    pub(super) fn broke(&mut self, now: Instant, why: Trouble, rng: &mut Rng) -> bool {
        let Some(stream) = self.stream.take() else {
            return false;
        };
        if stream.up && now >= stream.opened + LASTING {
            (self.failures, self.hastened) = (0, false);
        }
        self.retry_at = Some(now + rest::after_all_but_the_first(rng, self.failures));
        self.failures = self.failures.saturating_add(1);
        match &mut self.down {
            Some(down) => down.why = why,
            None => self.down = Some(Down { since: now, why }),
        }
        true
    }

    /// Records a response to another request: the stream can soon be opened.
    pub(super) fn etcd_answers(&mut self, now: Instant) {
        let Some(down) = &mut self.down else { return };
        down.since = now;
        if !std::mem::replace(&mut self.hastened, true) {
            self.retry_at = self.retry_at.map(|at| at.min(now));
        }
    }

    /// Returns the time without any response, if it exceeds the timeout.
    pub(super) fn silence(&self, now: Instant) -> Option<Duration> {
        self.stream
            .as_ref()
            .map(|stream| now - stream.heard)
            .filter(|silence| *silence >= SILENCE)
    }

    /// Returns the error that listeners must get.
    pub(super) fn trouble(&self, now: Instant) -> Option<&Trouble> {
        self.down
            .as_ref()
            .filter(|down| now >= down.since + QUIET)
            .map(|down| &down.why)
    }

    /// Requests a barrier. Returns false if the stream cannot provide one.
    pub(super) fn want_barrier(&mut self) -> bool {
        match &mut self.stream {
            Some(stream) if stream.up => {
                stream.barrier = true;
                true
            }
            _ => false,
        }
    }

    /// Returns true if a progress request is due, and records it as sent.
    pub(super) fn ask(&mut self, now: Instant) -> bool {
        let Some(stream) = self
            .stream
            .as_mut()
            .filter(|stream| stream.up && now >= ask_at(stream))
        else {
            return false;
        };
        (stream.asked, stream.unanswered, stream.barrier) = (now, true, false);
        true
    }

    /// Records a progress response. Returns true if it was requested.
    pub(super) fn answered(&mut self) -> bool {
        self.stream
            .as_mut()
            .is_some_and(|stream| std::mem::take(&mut stream.unanswered))
    }

    /// Returns the time of the next step. `wanted`: a stream is needed; `untold`: a listener has
    /// not yet got the error.
    pub(super) fn deadline(&self, wanted: bool, untold: bool) -> Option<Instant> {
        let stream = self.stream.iter().flat_map(|stream| {
            let ask = stream.up.then(|| ask_at(stream));
            [Some(stream.heard + SILENCE), ask].into_iter().flatten()
        });
        let retry = self.retry_at.filter(|_| self.stream.is_none() && wanted);
        let tell = self
            .down
            .as_ref()
            .filter(|_| untold)
            .map(|down| down.since + QUIET);
        stream.chain(retry).chain(tell).min()
    }
}

/// Returns the time of the next progress request.
fn ask_at(stream: &Stream) -> Instant {
    match (stream.barrier, stream.unanswered) {
        (true, false) => stream.asked + BARRIER,
        (true, true) => stream.asked + PROGRESS_AGAIN,
        (false, _) => stream.asked + PROGRESS,
    }
}
