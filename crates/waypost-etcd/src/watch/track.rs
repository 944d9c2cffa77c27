//! Node set of one watched service, or of all: events update it, and lists verify it. Pure.
//!
//! A list gives the nodes at one revision, while events continue to arrive. Events that arrive
//! between the request and the response of a list are kept, and those newer than the list are
//! applied on top of it. The result is correct in either order.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use waypost_core::record::{Entry, Key};
use waypost_core::registry::{Broadcaster, Change, Event, Newest, NodeSet};

use crate::trouble::Trouble;

/// Minimum life of a successful watch. If it ends earlier, the next one waits for a backoff.
const LASTING: Duration = Duration::from_secs(1);

/// Records at one revision.
#[derive(Debug, Default)]
pub(crate) struct Listed {
    pub(crate) revision: i64,
    pub(crate) entries: Vec<Entry>,
}

#[derive(Debug)]
pub(super) struct Track {
    pub(super) broadcaster: Broadcaster,
    /// Revision up to which the node set is complete; 0 before the first list.
    pub(super) revision: i64,
    /// Watch on the current stream.
    pub(super) watch: Option<i64>,
    /// Time at which etcd created the watch.
    pub(super) created: Option<Instant>,
    /// True once the watch has had the time to catch up.
    pub(super) settled: bool,
    /// True after a known gap: the next list is emitted as a reset, even without changes.
    pub(super) gap: bool,
    /// True if the listeners got an error.
    pub(super) told: bool,
    /// True if the listeners got the result of a serializable list.
    pub(super) unverified: bool,
    pub(super) relist_at: Instant,
    pub(super) failures: u32,
    question: Option<Question>,
}

/// List in flight.
#[derive(Debug)]
struct Question {
    /// Listeners and revision at the time of the request. A lower revision in the response means
    /// another history.
    newest: Newest,
    known: i64,
    /// Events received since the request.
    heard: Vec<(i64, Change)>,
    answer: Option<(Instant, Listed)>,
    /// True if events since the request may be missing: the response must be discarded.
    void: bool,
    /// True if a new listener needs a later list.
    again: bool,
}

/// Result of a merged list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Merged {
    /// True if the history is another one: the watch must start again.
    pub(super) rewritten: bool,
    /// Changes that the watch had missed, without a known gap.
    pub(super) missed: Option<Missed>,
    /// True if another list is needed at once.
    pub(super) again: bool,
}

/// Changes that a list found and the watch had not delivered: the number of each kind, and the
/// names of the first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Missed {
    pub(super) created: usize,
    pub(super) changed: usize,
    pub(super) gone: usize,
    pub(super) first: Vec<String>,
}

/// Number of missed changes that are named, and the maximum length of a name in characters.
const NAMED: usize = 5;
const LONGEST_NAME: usize = 80;

impl Missed {
    fn of(changes: &[Event]) -> Option<Self> {
        let mut missed = Self::default();
        for change in changes {
            let (count, what, key) = match change {
                Event::Created(entry) => (&mut missed.created, "created", entry.key()),
                Event::Updated(entry) => (&mut missed.changed, "updated", entry.key()),
                Event::Deleted(key) => (&mut missed.gone, "deleted", key.clone()),
                Event::Reset(_) => continue,
            };
            *count += 1;
            if missed.first.len() < NAMED {
                let name: String = format!("{}/{}", key.service, key.id)
                    .chars()
                    .take(LONGEST_NAME)
                    .collect();
                missed.first.push(format!("{what} {name}"));
            }
        }
        (!changes.is_empty()).then_some(missed)
    }

    /// Returns the number of changes.
    pub(super) fn count(&self) -> usize {
        self.created + self.changed + self.gone
    }
}

impl Track {
    pub(super) fn new(broadcaster: Broadcaster, relist_at: Instant) -> Self {
        Self {
            broadcaster,
            revision: 0,
            watch: None,
            created: None,
            settled: false,
            gap: false,
            told: false,
            unverified: false,
            relist_at,
            failures: 0,
            question: None,
        }
    }

    /// Starts a list. Returns false if one is in flight; with `again`, another follows it.
    pub(super) fn ask(&mut self, again: bool) -> bool {
        if let Some(question) = &mut self.question {
            question.again |= again;
            return false;
        }
        let newest = self.broadcaster.newest();
        let known = self.revision;
        self.question = Some(Question {
            newest,
            known,
            heard: Vec::new(),
            answer: None,
            void: false,
            again: false,
        });
        true
    }

    pub(super) fn is_asking(&self) -> bool {
        self.question.is_some()
    }

    /// Records the response of the list.
    pub(super) fn answered(&mut self, now: Instant, listed: Listed) {
        if let Some(question) = &mut self.question {
            question.answer = Some((now, listed));
        }
    }

    /// Records the failure of the list.
    pub(super) fn unanswered(&mut self) {
        self.question = None;
    }

    /// Returns arrival time and revision of a list that is not yet merged.
    pub(super) fn unmerged(&self) -> Option<(Instant, i64)> {
        let (since, listed) = self.question.as_ref()?.answer.as_ref()?;
        Some((*since, listed.revision))
    }

    /// Returns true if the watch has lasted.
    pub(super) fn lasted(&self, now: Instant) -> bool {
        self.created.is_some_and(|at| now >= at + LASTING)
    }

    /// Removes the watch.
    pub(super) fn broke(&mut self) {
        let was_watched = self.watch.take().is_some();
        (self.created, self.settled) = (None, false);
        if let Some(question) = &mut self.question {
            question.void |= was_watched;
        }
    }

    /// Applies events of the watch, with their revisions, in order.
    pub(super) fn hear(&mut self, changes: Vec<(i64, Change)>) {
        let fresh: Vec<_> = changes
            .into_iter()
            .filter(|(revision, _)| *revision >= self.revision)
            .collect();
        if let Some((last, _)) = fresh.last() {
            self.revision = *last;
        }
        if let Some(question) = &mut self.question {
            question.heard.extend(fresh.iter().cloned());
        }
        self.broadcaster
            .apply(fresh.into_iter().map(|(_, change)| change));
    }

    /// Emits an error to the listeners.
    pub(super) fn fail(&mut self, trouble: &Trouble) {
        self.told = true;
        let trouble = trouble.clone();
        self.broadcaster
            .fail(move || trouble.clone().error("watching"));
    }

    /// Emits the result of a serializable list, if no other is known.
    pub(super) fn take_unverified(&mut self, listed: Listed, trouble: Trouble) {
        if self.revision == 0 {
            self.unverified = true;
            let picture = NodeSet::from_iter(listed.entries);
            self.broadcaster.reset_unverified(picture, move || {
                trouble
                    .clone()
                    .error("watching; the records are from one member, read without a quorum")
            });
        }
    }

    /// Merges the list into the node set. Returns none if there is no list, or it must be discarded
    /// and requested again.
    pub(super) fn merge(&mut self) -> Option<Merged> {
        let Question {
            newest,
            known,
            heard,
            answer,
            void,
            again,
        } = self.question.take()?;
        let (_, listed) = answer?;
        if void {
            return None;
        }
        let rewritten = listed.revision < known;
        let newer = heard
            .into_iter()
            .filter(|(revision, _)| !rewritten && *revision > listed.revision);
        let next = picture(listed.entries, newer.map(|(_, change)| change));
        let missed = self.tell(next);
        self.broadcaster.refreshed(newest);
        self.revision = if rewritten {
            listed.revision
        } else {
            self.revision.max(listed.revision)
        };
        (self.gap, self.told) = (false, false);
        Some(Merged {
            rewritten,
            missed,
            again,
        })
    }

    /// Emits the new node set if it differs. Returns the missed changes, if a watch should have
    /// delivered them.
    fn tell(&self, next: NodeSet) -> Option<Missed> {
        let Some(known) = self.broadcaster.nodes() else {
            self.broadcaster.reset(next);
            return None;
        };
        let changes = known.events_to(&next);
        if !changes.is_empty() || self.gap {
            self.broadcaster.reset(next);
        }
        Missed::of(&changes).filter(|_| !self.gap && self.watch.is_some())
    }
}

fn picture(entries: Vec<Entry>, newer: impl Iterator<Item = Change>) -> NodeSet {
    let mut nodes: BTreeMap<Key, Entry> = entries
        .into_iter()
        .map(|entry| (entry.key(), entry))
        .collect();
    for change in newer {
        match change {
            Change::Put(entry) => drop(nodes.insert(entry.key(), entry)),
            Change::Lose(key) | Change::Leave(key) => drop(nodes.remove(&key)),
        }
    }
    NodeSet::from_iter(nodes.into_values())
}

#[cfg(test)]
mod tests {
    use waypost_core::record::{Node, Service};
    use waypost_core::registry::{Event, WatchOptions, Watcher};

    use super::*;

    fn entry(id: &str, address: &str) -> Entry {
        let mut service = Service::new("s");
        service.nodes.push(Node::with_id("s", id, address));
        service.entries().remove(0)
    }

    fn put(revision: i64, id: &str) -> (i64, Change) {
        (revision, Change::Put(entry(id, &format!("h:{revision}"))))
    }

    fn lose(revision: i64, id: &str) -> (i64, Change) {
        (revision, Change::Lose(entry(id, "h:1").key()))
    }

    fn track() -> (Track, Watcher) {
        let broadcaster = Broadcaster::default();
        let watcher = broadcaster.subscribe_to_fresh(&WatchOptions::all());
        (Track::new(broadcaster, Instant::now()), watcher)
    }

    /// Merges a list of a watched track.
    fn list(track: &mut Track, revision: i64, entries: Vec<Entry>) -> Merged {
        track.watch.get_or_insert(1);
        track.ask(false);
        track.answered(Instant::now(), Listed { revision, entries });
        track.merge().unwrap()
    }

    fn heard(watcher: &mut Watcher) -> Vec<Event> {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        let mut events = Vec::new();
        while let std::task::Poll::Ready(Some(Ok(event))) =
            futures_core::Stream::poll_next(std::pin::Pin::new(&mut *watcher), &mut cx)
        {
            events.push(event);
        }
        events
    }

    #[tokio::test]
    async fn a_list_that_tells_nothing_new_is_not_told() {
        let (mut track, mut watcher) = track();
        list(&mut track, 5, vec![entry("1", "h:1")]);
        assert_eq!(heard(&mut watcher), [Event::Reset(vec![entry("1", "h:1")])]);
        let merged = list(&mut track, 9, vec![entry("1", "h:1")]);
        assert_eq!(
            merged,
            Merged {
                rewritten: false,
                missed: None,
                again: false
            }
        );
        assert_eq!((heard(&mut watcher), track.revision), (vec![], 9));
    }

    #[tokio::test]
    async fn what_the_watch_missed_is_counted_and_told_as_a_reset() {
        let (mut track, mut watcher) = track();
        list(&mut track, 5, vec![entry("1", "h:1"), entry("2", "h:1")]);
        heard(&mut watcher);
        assert_eq!(
            list(&mut track, 9, vec![entry("2", "h:2"), entry("3", "h:1")])
                .missed
                .unwrap()
                .count(),
            3
        );
        assert_eq!(
            heard(&mut watcher),
            [Event::Reset(vec![entry("2", "h:2"), entry("3", "h:1")])]
        );
    }

    #[tokio::test]
    async fn what_is_newer_than_the_list_stays() {
        let (mut track, mut watcher) = track();
        list(&mut track, 5, vec![entry("1", "h:1")]);
        track.ask(false);
        track.hear(vec![put(7, "2"), put(9, "3"), lose(10, "1")]);
        track.answered(
            Instant::now(),
            Listed {
                revision: 8,
                entries: vec![entry("1", "h:1"), entry("2", "h:7")],
            },
        );
        assert_eq!(track.merge().unwrap().missed, None);
        assert_eq!(track.revision, 10);
        heard(&mut watcher);
        assert_eq!(
            track.broadcaster.nodes().unwrap(),
            NodeSet::from_iter([entry("2", "h:7"), entry("3", "h:9")])
        );
    }

    #[tokio::test]
    async fn an_old_event_is_heard_once() {
        let (mut track, mut watcher) = track();
        list(&mut track, 5, vec![entry("1", "h:5")]);
        heard(&mut watcher);
        track.hear(vec![put(4, "1"), put(5, "1")]);
        assert_eq!(heard(&mut watcher), []);
        track.hear(vec![put(6, "1")]);
        assert_eq!(heard(&mut watcher).len(), 1);
    }

    #[tokio::test]
    async fn another_history_forgets_what_was_heard_of_the_old() {
        let (mut track, _watcher) = track();
        list(&mut track, 50, vec![entry("1", "h:1")]);
        track.ask(false);
        track.hear(vec![put(51, "2")]);
        track.answered(
            Instant::now(),
            Listed {
                revision: 3,
                entries: vec![entry("3", "h:1")],
            },
        );
        let merged = track.merge().unwrap();
        assert!(merged.rewritten);
        assert_eq!(
            (track.revision, track.broadcaster.nodes().unwrap()),
            (3, NodeSet::from_iter([entry("3", "h:1")]))
        );
    }

    #[tokio::test]
    async fn a_known_gap_is_told_even_if_nothing_is_missing() {
        let (mut track, mut watcher) = track();
        list(&mut track, 5, vec![entry("1", "h:1")]);
        heard(&mut watcher);
        track.gap = true;
        assert_eq!(list(&mut track, 9, vec![entry("1", "h:1")]).missed, None);
        assert_eq!(heard(&mut watcher), [Event::Reset(vec![entry("1", "h:1")])]);
    }

    #[tokio::test]
    async fn a_list_over_a_broken_stream_is_asked_for_again() {
        let (mut track, _watcher) = track();
        list(&mut track, 5, Vec::new());
        track.ask(false);
        track.broke();
        track.answered(
            Instant::now(),
            Listed {
                revision: 9,
                entries: Vec::new(),
            },
        );
        assert_eq!(track.merge(), None);
        assert!(track.ask(false), "it can be asked for again");
    }

    proptest::proptest! {
        /// For any order of events, lists and disconnects, the node set converges to the history.
        #[test]
        fn it_converges(steps in proptest::collection::vec((0..6_u8, 0..5_u8), 1..120)) {
            converge(&steps);
        }
    }

    /// Runs a model of five nodes: a history, a stream that delivers it, and lists with late
    /// responses.
    fn converge(steps: &[(u8, u8)]) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let (mut track, _watcher) = track();
            let mut history: Vec<(i64, Change)> = Vec::new();
            let (mut delivered, mut listed_at) = (0_usize, None);
            let at = |history: &[(i64, Change)], revision: i64| {
                let upto = history
                    .iter()
                    .filter(|(r, _)| *r <= revision)
                    .map(|(_, change)| change.clone());
                picture(Vec::new(), upto)
            };
            for (step, id) in steps {
                let revision = history.len() as i64;
                match step {
                    0 => history.push(put(revision + 1, &id.to_string())),
                    1 => history.push(lose(revision + 1, &id.to_string())),
                    2 if track.watch.is_some() => {
                        let upto = history.len().min(delivered + usize::from(*id));
                        track.hear(history[delivered.min(upto)..upto].to_vec());
                        delivered = delivered.max(upto);
                    }
                    3 if track.ask(false) => listed_at = Some(revision),
                    4 if track.is_asking() => {
                        let revision = listed_at.unwrap();
                        let entries = at(&history, revision).iter().cloned().collect();
                        track.answered(Instant::now(), Listed { revision, entries });
                        if track.merge().is_some() && track.watch.is_none() {
                            track.watch = Some(1);
                            delivered = usize::try_from(track.revision).unwrap().saturating_sub(1);
                        }
                    }
                    5 => {
                        let listed = track.revision > 0;
                        track.broke();
                        if listed {
                            track.watch = Some(2);
                            delivered = usize::try_from(track.revision).unwrap().saturating_sub(1);
                        }
                    }
                    _ => {}
                }
            }
            if track.watch.is_some() {
                track.hear(history[delivered..].to_vec());
                assert_eq!(track.broadcaster.nodes().unwrap(), at(&history, i64::MAX));
            }
        });
    }
}
