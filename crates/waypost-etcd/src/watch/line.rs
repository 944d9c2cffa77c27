//! The one stream of watches, as far as it lives or not: when it is opened, asked, given up, and when its trouble is told. Pure.

use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;

use crate::rest;
use crate::trouble::Trouble;

/// Between two questions whether the stream lives.
const PROGRESS: Duration = Duration::from_secs(1);
/// A question that was not answered for so long may be asked again.
const PROGRESS_AGAIN: Duration = Duration::from_millis(300);
/// Between two questions that somebody waits for.
const BARRIER: Duration = Duration::from_millis(50);
/// A stream on which nothing was heard for so long is dead.
const SILENCE: Duration = Duration::from_secs(3);
/// How long the stream may be down before listeners are told.
const QUIET: Duration = Duration::from_secs(1);
/// A stream that told something and was over sooner than this is no success: the next one rests longer.
const LASTING: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Line {
    stream: Option<Stream>,
    down: Option<Down>,
    retry_at: Option<Instant>,
    failures: u32,
    /// Something else was answered, and the rest cut short for it; once, until a stream has lasted.
    hastened: bool,
}

/// The stream there is.
#[derive(Debug)]
struct Stream {
    opened: Instant,
    heard: Instant,
    /// It has told something.
    up: bool,
    /// How far it said it has got: etcd sends these answers and events in one order.
    progress: i64,
    /// How far etcd was when it last said that a watch is there: in an order of its own, ahead of events and of progress.
    created: i64,
    asked: Instant,
    unanswered: bool,
    /// Somebody waits for the next answer.
    barrier: bool,
}

/// What says how far etcd has got, each in order by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    Created,
    Progress,
}

/// There is no stream that tells anything.
#[derive(Debug)]
struct Down {
    since: Instant,
    why: Trouble,
}

impl Line {
    pub(super) fn is_open(&self) -> bool {
        self.stream.is_some()
    }

    /// There is one, and it has told something.
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

    /// Nobody needs it.
    pub(super) fn drop_it(&mut self) {
        (self.stream, self.down) = (None, None);
    }

    /// Something came. Whether it is the first on this stream.
    pub(super) fn heard(&mut self, now: Instant) -> bool {
        let Some(stream) = &mut self.stream else { return false };
        stream.heard = now;
        let is_first = !std::mem::replace(&mut stream.up, true);
        if is_first {
            (self.down, self.retry_at) = (None, None);
        }
        is_first
    }

    /// etcd says that it has got so far. Whether it was further before.
    pub(super) fn reaches(&mut self, sign: Sign, revision: i64) -> bool {
        let Some(stream) = &mut self.stream else { return false };
        let reached = match sign {
            Sign::Created => &mut stream.created,
            Sign::Progress => &mut stream.progress,
        };
        std::mem::replace(reached, revision) > revision
    }

    /// Whether it has got so far. If not, it is asked soon.
    pub(super) fn has_reached(&mut self, revision: i64) -> bool {
        let Some(stream) = &mut self.stream else { return false };
        let has = stream.progress >= revision;
        stream.barrier |= !has;
        has
    }

    /// The stream is over. False if there was none.
    pub(super) fn broke(&mut self, now: Instant, why: Trouble, rng: &mut Rng) -> bool {
        let Some(stream) = self.stream.take() else { return false };
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

    /// etcd answered something else: the stream will be there soon.
    pub(super) fn etcd_answers(&mut self, now: Instant) {
        let Some(down) = &mut self.down else { return };
        down.since = now;
        if !std::mem::replace(&mut self.hastened, true) {
            self.retry_at = self.retry_at.map(|at| at.min(now));
        }
    }

    /// For how long nothing was heard, if that is too long.
    pub(super) fn silence(&self, now: Instant) -> Option<Duration> {
        self.stream.as_ref().map(|stream| now - stream.heard).filter(|silence| *silence >= SILENCE)
    }

    /// What listeners must be told of.
    pub(super) fn trouble(&self, now: Instant) -> Option<&Trouble> {
        self.down.as_ref().filter(|down| now >= down.since + QUIET).map(|down| &down.why)
    }

    /// Somebody wants to know how far it has got. False if it cannot say.
    pub(super) fn want_barrier(&mut self) -> bool {
        match &mut self.stream {
            Some(stream) if stream.up => {
                stream.barrier = true;
                true
            }
            _ => false,
        }
    }

    /// Whether it is to be asked now how far it has got; it is then taken for asked.
    pub(super) fn ask(&mut self, now: Instant) -> bool {
        let Some(stream) = self.stream.as_mut().filter(|stream| stream.up && now >= ask_at(stream)) else { return false };
        (stream.asked, stream.unanswered, stream.barrier) = (now, true, false);
        true
    }

    /// It said how far it has got. Whether it was asked.
    pub(super) fn answered(&mut self) -> bool {
        self.stream.as_mut().is_some_and(|stream| std::mem::take(&mut stream.unanswered))
    }

    /// When to look again; `wanted` if a stream is needed, `untold` if somebody does not know of the trouble yet.
    pub(super) fn deadline(&self, wanted: bool, untold: bool) -> Option<Instant> {
        let stream = self.stream.iter().flat_map(|stream| {
            let ask = stream.up.then(|| ask_at(stream));
            [Some(stream.heard + SILENCE), ask].into_iter().flatten()
        });
        let retry = self.retry_at.filter(|_| self.stream.is_none() && wanted);
        let tell = self.down.as_ref().filter(|_| untold).map(|down| down.since + QUIET);
        stream.chain(retry).chain(tell).min()
    }
}

/// When the stream is to be asked how far it has got.
fn ask_at(stream: &Stream) -> Instant {
    match (stream.barrier, stream.unanswered) {
        (true, false) => stream.asked + BARRIER,
        (true, true) => stream.asked + PROGRESS_AGAIN,
        (false, _) => stream.asked + PROGRESS,
    }
}
