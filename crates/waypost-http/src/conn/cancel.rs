//! Streams of abandoned calls, reset no faster than the server is known to accept streams.
//!
//! An h2 server closes the connection with all its calls when more than 20 streams are reset that
//! its application has not accepted yet. h2 cannot withdraw a stream whose HEADERS are still
//! queued, so its reset is delayed instead. Streams are accepted in order: once one has received a
//! response, all before it were accepted, and their resets cost nothing. Of the others, one batch
//! is reset. The next batch follows when the server has acknowledged a SETTINGS frame that was sent
//! after the batch. Time alone proves nothing: a server that is short of CPU reads everything that
//! has arrived before it accepts the first stream.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

/// Number of resets of streams without a response that are sent without a proof. One batch beyond
/// the proven ones stays within the 20 that an h2 server allows.
const BATCH: usize = 10;
/// Time within which a server accepts the streams that it has read when it acknowledges.
const ACCEPTED_WITHIN: Duration = Duration::from_millis(10);

/// Stream of an abandoned call: every handle whose drop resets it, and the permit that it holds
/// until then.
pub(crate) struct CancelledStream {
    id: u32,
    _handles: Box<dyn Any + Send>,
}

impl fmt::Debug for CancelledStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelledStream")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl CancelledStream {
    /// Wraps the h2 handles of the stream with this id, and its permit. They are dropped in the
    /// order of their fields; the permit must be last.
    pub(crate) fn new(id: h2::StreamId, handles: impl Send + 'static) -> Self {
        Self {
            id: id.as_u32(),
            _handles: Box::new(handles),
        }
    }
}

/// Queue of streams to be reset. Pure: time is an argument.
#[derive(Debug)]
pub(super) struct CancelQueue<T = CancelledStream> {
    waiting: BTreeMap<u32, T>,
    /// Number of streams reset since the last proof; the next field is the highest of their ids.
    unproven: usize,
    highest_unproven: u32,
    proof: Proof,
}

/// Proof that the streams that were reset have been accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Proof {
    #[default]
    Unasked,
    /// A SETTINGS frame was sent.
    Asked,
    /// The SETTINGS frame was acknowledged at this time.
    Acknowledged(Instant),
}

impl<T> Default for CancelQueue<T> {
    fn default() -> Self {
        Self {
            waiting: BTreeMap::new(),
            unproven: 0,
            highest_unproven: 0,
            proof: Proof::Unasked,
        }
    }
}

impl CancelQueue {
    pub(super) fn add(&mut self, stream: CancelledStream) {
        self.push(stream.id, stream);
    }
}

impl<T> CancelQueue<T> {
    fn push(&mut self, id: u32, stream: T) {
        self.waiting.insert(id, stream);
    }

    /// Returns true if no stream waits to be reset.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Returns the streams to be reset now. Streams up to the id `answered` are known to be
    /// accepted. While the peer is not known to be alive, only those are returned: a frozen server
    /// reads all resets at once when it resumes.
    pub(super) fn release(&mut self, now: Instant, answered: u32, alive: bool) -> Vec<T> {
        let unanswered = self.waiting.split_off(&answered.saturating_add(1));
        let mut released: Vec<T> = std::mem::replace(&mut self.waiting, unanswered)
            .into_values()
            .collect();
        if self.is_proven(now, answered) {
            (self.unproven, self.highest_unproven, self.proof) = (0, 0, Proof::Unasked);
        }
        while alive
            && self.unproven < BATCH
            && let Some((id, stream)) = self.waiting.pop_first()
        {
            self.unproven += 1;
            self.highest_unproven = self.highest_unproven.max(id);
            released.push(stream);
        }
        released
    }

    /// Returns true if [`release`](Self::release) would return any stream.
    pub(super) fn can_release(&self, now: Instant, answered: u32, alive: bool) -> bool {
        let Some((first, _)) = self.waiting.first_key_value() else {
            return false;
        };
        *first <= answered || alive && (self.unproven < BATCH || self.is_proven(now, answered))
    }

    fn is_proven(&self, now: Instant, answered: u32) -> bool {
        let acknowledged = |at| now.saturating_duration_since(at) >= ACCEPTED_WITHIN;
        answered >= self.highest_unproven
            || matches!(self.proof, Proof::Acknowledged(at) if acknowledged(at))
    }

    /// Returns true if a SETTINGS frame is to be sent after the streams that were reset.
    pub(super) fn wants_proof(&self) -> bool {
        self.proof == Proof::Unasked && self.unproven >= BATCH && !self.waiting.is_empty()
    }

    /// Records that the SETTINGS frame was sent.
    pub(super) fn asked(&mut self) {
        self.proof = Proof::Asked;
    }

    /// Records that a SETTINGS frame was acknowledged.
    pub(super) fn acknowledged(&mut self, now: Instant) {
        if self.proof == Proof::Asked {
            self.proof = Proof::Acknowledged(now);
        }
    }

    /// Returns the time at which to release more even if no event occurs.
    pub(super) fn next_wake(&self, alive: bool) -> Option<Instant> {
        match self.proof {
            Proof::Acknowledged(at) if alive && !self.waiting.is_empty() => {
                at.checked_add(ACCEPTED_WITHIN)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(ids: impl IntoIterator<Item = u32>) -> CancelQueue<u32> {
        let mut queue = CancelQueue::default();
        ids.into_iter().for_each(|id| queue.push(id, id));
        queue
    }

    #[tokio::test(start_paused = true)]
    async fn unanswered_streams_are_reset_ten_for_each_acknowledgement() {
        let start = Instant::now();
        let mut queue = queue(1..=25);
        assert_eq!(queue.release(start, 0, true).len(), 10);
        let mut now = start + Duration::from_secs(60);
        assert!(
            queue.release(now, 0, true).is_empty(),
            "time proves nothing"
        );
        for left in [10, 5] {
            assert!(queue.wants_proof() && !queue.can_release(now, 0, true));
            queue.asked();
            assert!(!queue.wants_proof() && queue.next_wake(true).is_none());
            queue.acknowledged(now);
            assert!(queue.release(now, 0, true).is_empty());
            assert_eq!(queue.next_wake(true), Some(now + ACCEPTED_WITHIN));
            now += ACCEPTED_WITHIN;
            assert!(queue.can_release(now, 0, true));
            assert_eq!(queue.release(now, 0, true).len(), left);
        }
        assert!(!queue.wants_proof() && queue.next_wake(true).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_streams_need_no_acknowledgement_and_all_of_a_batch_count() {
        let start = Instant::now();
        let mut queue = queue([]);
        for id in 1..=10 {
            queue.push(id, id);
            assert_eq!(queue.release(start, 0, true), [id]);
            assert!(!queue.wants_proof());
        }
        queue.push(11, 11);
        assert!(queue.release(start, 0, true).is_empty() && queue.wants_proof());
        queue.asked();
        // A response on a later stream proves the same.
        assert_eq!(queue.release(start, 10, true), [11]);
        queue.acknowledged(start);
        assert_eq!((queue.unproven, queue.proof), (1, Proof::Unasked));
    }

    #[tokio::test(start_paused = true)]
    async fn a_later_stream_that_was_answered_frees_all_before_it() {
        let start = Instant::now();
        let mut queue = queue([3, 5, 9].into_iter().chain(100..160));
        assert!(queue.can_release(start, 7, false) && !queue.can_release(start, 2, false));
        assert_eq!(queue.release(start, 7, false), [3, 5]);
        assert_eq!(queue.release(start, 120, false).len(), 22);
        assert_eq!(queue.next_wake(false), None);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_reset_while_the_peer_is_in_doubt() {
        let start = Instant::now();
        let mut queue = queue(1..=5);
        assert!(queue.release(start, 0, false).is_empty() && !queue.can_release(start, 0, false));
        assert_eq!(queue.release(start, 0, true).len(), 5);
    }
}
