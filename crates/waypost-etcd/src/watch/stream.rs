//! State of the watch stream: its opening, its progress requests, its timeout, and the report of
//! its outages. Pure.

use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;

use crate::error::EtcdError;
use crate::timing::Timing;

/// Interval between two progress requests that check the stream; ± 20 %.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);
/// Time after which a progress request without a response may be repeated.
const PROGRESS_RETRY: Duration = Duration::from_millis(300);
/// Interval between two progress requests for barriers.
const BARRIER_INTERVAL: Duration = Duration::from_millis(50);
/// Time from a request without any response after which the stream is dead. It doubles with each
/// stream that ends so, at most this often: a slow etcd must not be made slower.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(3);
const MAX_DOUBLINGS: u32 = 3;
/// Maximum number of breaks that count.
const MAX_BREAKS: u32 = 10;
/// Duration of an outage before listeners get an error.
const ERROR_DELAY: Duration = Duration::from_secs(1);
/// Minimum life of a successful stream. If it ends earlier, backoff and timeout grow.
const MIN_LIFETIME: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct StreamState {
    timing: Timing,
    stream: Option<LiveStream>,
    outage: Option<StreamOutage>,
    retry_at: Option<Instant>,
    failures: u32,
    /// Number of consecutive streams that ended without a response in time.
    silent_ends: u32,
    /// True once another response of etcd has shortened the backoff. Reset when a stream has
    /// lasted.
    was_hastened: bool,
}

/// Current stream.
#[derive(Debug)]
struct LiveStream {
    opened_at: Instant,
    /// Time of the first request since the last response; none if a response has followed.
    waiting_since: Option<Instant>,
    /// True once it has received a response.
    is_up: bool,
    /// Last revision of a progress response: etcd sends these and events in one order.
    progress: i64,
    /// Last revision of a `created` response. They have an order of their own, and may overtake
    /// events and progress.
    created: i64,
    progress_sent: Instant,
    /// Time of the next progress request that checks the stream.
    next_check: Instant,
    in_flight: bool,
    /// Progress is needed soon: a list or a heartbeat waits for it.
    barrier: bool,
}

/// Source of etcd's revision; each source is ordered in itself only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Marker {
    Created,
    Progress,
}

/// Outage: no stream that has received a response.
#[derive(Debug)]
struct StreamOutage {
    since: Instant,
    error: EtcdError,
}

impl StreamState {
    pub(super) fn new(timing: Timing) -> Self {
        Self {
            timing,
            stream: None,
            outage: None,
            retry_at: None,
            failures: 0,
            silent_ends: 0,
            was_hastened: false,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.stream.is_some()
    }

    /// Returns true if the stream has received a response.
    pub(super) fn is_up(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| stream.is_up)
    }

    pub(super) fn may_open(&self, now: Instant) -> bool {
        self.stream.is_none() && self.retry_at.is_none_or(|at| at <= now)
    }

    pub(super) fn open(&mut self, now: Instant, rng: &mut Rng) {
        self.stream = Some(LiveStream {
            opened_at: now,
            waiting_since: Some(now),
            is_up: false,
            progress: 0,
            created: 0,
            progress_sent: now,
            next_check: next_check(now, rng),
            in_flight: false,
            barrier: false,
        });
    }

    /// Drops the stream, which is no longer needed.
    pub(super) fn close(&mut self) {
        (self.stream, self.outage) = (None, None);
    }

    /// Records a response. Returns true if it is the first on this stream.
    pub(super) fn on_response(&mut self, now: Instant) -> bool {
        let Some(stream) = &mut self.stream else {
            return false;
        };
        stream.waiting_since = None;
        if now >= stream.opened_at + MIN_LIFETIME {
            self.silent_ends = 0;
        }
        let is_first = !std::mem::replace(&mut stream.is_up, true);
        if is_first {
            (self.outage, self.retry_at) = (None, None);
        }
        is_first
    }

    /// Records the revision that etcd reports. Returns true if it was higher before.
    pub(super) fn record_revision(&mut self, marker: Marker, revision: i64) -> bool {
        let Some(stream) = &mut self.stream else {
            return false;
        };
        let last = match marker {
            Marker::Created => &mut stream.created,
            Marker::Progress => &mut stream.progress,
        };
        std::mem::replace(last, revision) > revision
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
    pub(super) fn on_broken(&mut self, now: Instant, error: EtcdError, rng: &mut Rng) -> bool {
        let Some(stream) = self.stream.take() else {
            return false;
        };
        if stream.is_up && now >= stream.opened_at + MIN_LIFETIME {
            (self.failures, self.was_hastened) = (0, false);
        }
        if let EtcdError::Timeout(_) = error {
            self.silent_ends = self.silent_ends.saturating_add(1);
        }
        self.retry_at = Some(now + self.timing.backoff_after_failover(rng, self.failures));
        self.failures = self.failures.saturating_add(1);
        match &mut self.outage {
            Some(outage) => outage.error = error,
            None => self.outage = Some(StreamOutage { since: now, error }),
        }
        true
    }

    /// Returns 1 after a single end of a stream, and twice as much after each further one, until a
    /// stream has lasted.
    pub(super) fn recent_breaks_factor(&self) -> u32 {
        1 << self.failures.saturating_sub(1).min(MAX_BREAKS)
    }

    /// Records a response to another request: the stream can soon be opened.
    pub(super) fn on_other_response(&mut self, now: Instant) {
        let Some(outage) = &mut self.outage else {
            return;
        };
        outage.since = now;
        if !std::mem::replace(&mut self.was_hastened, true) {
            self.retry_at = self.retry_at.map(|at| at.min(now));
        }
    }

    /// Returns the time without any response, if it exceeds the timeout.
    pub(super) fn overdue(&self, now: Instant) -> Option<Duration> {
        let waiting_since = self.stream.as_ref()?.waiting_since?;
        Some(now.saturating_duration_since(waiting_since))
            .filter(|overdue| *overdue >= self.response_timeout())
    }

    fn response_timeout(&self) -> Duration {
        RESPONSE_TIMEOUT * (1 << self.silent_ends.min(MAX_DOUBLINGS))
    }

    /// Returns the error that listeners must get.
    pub(super) fn due_error(&self, now: Instant) -> Option<&EtcdError> {
        self.outage
            .as_ref()
            .filter(|outage| now >= outage.since + ERROR_DELAY)
            .map(|outage| &outage.error)
    }

    /// Records that another response has shown no revision beyond the progress: nothing can be
    /// missing, so that the stream need not be checked now.
    pub(super) fn postpone_check(&mut self, now: Instant, rng: &mut Rng) {
        if let Some(stream) = &mut self.stream {
            stream.next_check = next_check(now, rng);
        }
    }

    /// Returns true if a progress request is due, and records it as sent.
    pub(super) fn begin_progress(&mut self, now: Instant, rng: &mut Rng) -> bool {
        let Some(stream) = self
            .stream
            .as_mut()
            .filter(|stream| stream.is_up && now >= progress_at(stream))
        else {
            return false;
        };
        (stream.progress_sent, stream.in_flight, stream.barrier) = (now, true, false);
        stream.next_check = next_check(now, rng);
        stream.waiting_since.get_or_insert(now);
        true
    }

    /// Records a progress response. Returns its revision if it was requested.
    pub(super) fn end_progress(&mut self) -> Option<i64> {
        let stream = self.stream.as_mut()?;
        std::mem::take(&mut stream.in_flight).then_some(stream.progress)
    }

    /// Returns the time of the next step. `needs_stream`: a stream is needed; `errors_pending`: a
    /// listener has not yet got the error.
    pub(super) fn deadline(&self, needs_stream: bool, errors_pending: bool) -> Option<Instant> {
        let stream = self.stream.iter().flat_map(|stream| {
            let progress = stream.is_up.then(|| progress_at(stream));
            let timeout = stream
                .waiting_since
                .map(|since| since + self.response_timeout());
            [timeout, progress].into_iter().flatten()
        });
        let retry = self
            .retry_at
            .filter(|_| self.stream.is_none() && needs_stream);
        let error = self
            .outage
            .as_ref()
            .filter(|_| errors_pending)
            .map(|outage| outage.since + ERROR_DELAY);
        stream.chain(retry).chain(error).min()
    }
}

/// Returns the time of the next progress request.
fn progress_at(stream: &LiveStream) -> Instant {
    match (stream.barrier, stream.in_flight) {
        (true, false) => stream.progress_sent + BARRIER_INTERVAL,
        (true, true) => stream.progress_sent + PROGRESS_RETRY,
        (false, _) => stream.next_check,
    }
}

/// Returns the time of the next progress request that checks the stream.
fn next_check(now: Instant, rng: &mut Rng) -> Instant {
    now + PROGRESS_INTERVAL.mul_f64(0.8 + 0.4 * rng.f64())
}
