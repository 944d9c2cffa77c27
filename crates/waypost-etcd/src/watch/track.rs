//! One service that is followed, or all: a picture that events move on and lists verify. Pure.
//!
//! A list says what there was at one revision, while events go on arriving. So what arrives from the question to the answer is kept, and
//! what is newer than the list is put on top of it: the sum is what there is, whichever came first.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use waypost_core::record::{Entry, Key};
use waypost_core::registry::{Change, Event, Feed, Newest, NodeSet};

use crate::trouble::Trouble;

/// How long a watch must be there to be a success; before, the next one is made after a rest.
const LASTING: Duration = Duration::from_secs(1);

/// What there was at one revision.
#[derive(Debug, Default)]
pub(crate) struct Listed {
    pub(crate) revision: i64,
    pub(crate) entries: Vec<Entry>,
}

#[derive(Debug)]
pub(super) struct Track {
    pub(super) feed: Feed,
    /// Everything up to here is in the picture; 0 before the first list.
    pub(super) revision: i64,
    /// Its watch on the stream there is.
    pub(super) watch: Option<i64>,
    /// Since when etcd has said that the watch is there.
    pub(super) created: Option<Instant>,
    /// And has had the time to tell what it had missed.
    pub(super) settled: bool,
    /// Something was missed, that is known: the next list is told as a reset, whatever it says.
    pub(super) gap: bool,
    /// Its listeners were told of trouble.
    pub(super) told: bool,
    /// They were told what one member has, for want of better.
    pub(super) unverified: bool,
    pub(super) relist_at: Instant,
    pub(super) failures: u32,
    question: Option<Question>,
}

/// A list that was asked for.
#[derive(Debug)]
struct Question {
    /// Who listened when it was asked, and what was known: no answer can be older, but of another history.
    newest: Newest,
    known: i64,
    /// What was heard since.
    heard: Vec<(i64, Change)>,
    answer: Option<(Instant, Listed)>,
    /// What was heard since may have holes: the answer is of no use.
    void: bool,
    /// Somebody came who must hear of a later moment.
    again: bool,
}

/// What a list has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Merged {
    /// The history is another: the watch must begin anew.
    pub(super) rewritten: bool,
    /// What the watch had missed, without anybody knowing.
    pub(super) missed: Option<Missed>,
    /// Another list is wanted at once.
    pub(super) again: bool,
}

/// What a list found that the watch had not told: how much of each kind, and the first by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Missed {
    pub(super) created: usize,
    pub(super) changed: usize,
    pub(super) gone: usize,
    pub(super) first: Vec<String>,
}

/// How many of those that were missed are named, and how much of each name.
const NAMED: usize = 5;
const LONGEST_NAME: usize = 80;

impl Missed {
    fn of(changes: &[Event]) -> Option<Self> {
        let mut missed = Self::default();
        for change in changes {
            let (count, what, key) = match change {
                Event::Created(entry) => (&mut missed.created, "created", entry.key()),
                Event::Updated(entry) => (&mut missed.changed, "changed", entry.key()),
                Event::Deleted(key) => (&mut missed.gone, "gone", key.clone()),
                Event::Reset(_) => continue,
            };
            *count += 1;
            if missed.first.len() < NAMED {
                let name: String = format!("{}/{}", key.service, key.id).chars().take(LONGEST_NAME).collect();
                missed.first.push(format!("{what} {name}"));
            }
        }
        (!changes.is_empty()).then_some(missed)
    }

    /// How many changes.
    pub(super) fn count(&self) -> usize {
        self.created + self.changed + self.gone
    }
}

impl Track {
    pub(super) fn new(feed: Feed, relist_at: Instant) -> Self {
        Self {
            feed,
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

    /// Asks for a list. False if one is under way, which is then followed by another if `again`.
    pub(super) fn ask(&mut self, again: bool) -> bool {
        if let Some(question) = &mut self.question {
            question.again |= again;
            return false;
        }
        let newest = self.feed.newest();
        let known = self.revision;
        self.question = Some(Question { newest, known, heard: Vec::new(), answer: None, void: false, again: false });
        true
    }

    pub(super) fn is_asking(&self) -> bool {
        self.question.is_some()
    }

    /// The list came.
    pub(super) fn answered(&mut self, now: Instant, listed: Listed) {
        if let Some(question) = &mut self.question {
            question.answer = Some((now, listed));
        }
    }

    /// The list did not come.
    pub(super) fn unanswered(&mut self) {
        self.question = None;
    }

    /// A list that came and was not merged: since when it is there, and of which revision.
    pub(super) fn unmerged(&self) -> Option<(Instant, i64)> {
        let (since, listed) = self.question.as_ref()?.answer.as_ref()?;
        Some((*since, listed.revision))
    }

    /// Its watch has been there for a while.
    pub(super) fn lasted(&self, now: Instant) -> bool {
        self.created.is_some_and(|at| now >= at + LASTING)
    }

    /// Its watch is no more.
    pub(super) fn broke(&mut self) {
        let was_watched = self.watch.take().is_some();
        (self.created, self.settled) = (None, false);
        if let Some(question) = &mut self.question {
            question.void |= was_watched;
        }
    }

    /// What the watch tells, of one revision each, in order.
    pub(super) fn hear(&mut self, changes: Vec<(i64, Change)>) {
        let fresh: Vec<_> = changes.into_iter().filter(|(revision, _)| *revision >= self.revision).collect();
        if let Some((last, _)) = fresh.last() {
            self.revision = *last;
        }
        if let Some(question) = &mut self.question {
            question.heard.extend(fresh.iter().cloned());
        }
        self.feed.apply(fresh.into_iter().map(|(_, change)| change));
    }

    /// Trouble that its listeners must know of.
    pub(super) fn fail(&mut self, trouble: &Trouble) {
        self.told = true;
        let trouble = trouble.clone();
        self.feed.fail(move || trouble.clone().error("watching it"));
    }

    /// What one member has, while the cluster cannot say: only where nothing is known at all.
    pub(super) fn take_unverified(&mut self, listed: Listed, trouble: Trouble) {
        if self.revision == 0 {
            self.unverified = true;
            let picture = NodeSet::from_iter(listed.entries);
            self.feed
                .reset_unverified(picture, move || trouble.clone().error("watching it; what one member has is not verified"));
        }
    }

    /// Makes the list that came the picture. None if there is none, or it is of no use and must be asked for again.
    pub(super) fn merge(&mut self) -> Option<Merged> {
        let Question { newest, known, heard, answer, void, again } = self.question.take()?;
        let (_, listed) = answer?;
        if void {
            return None;
        }
        let rewritten = listed.revision < known;
        let newer = heard.into_iter().filter(|(revision, _)| !rewritten && *revision > listed.revision);
        let next = picture(listed.entries, newer.map(|(_, change)| change));
        let missed = self.tell(next);
        self.feed.refreshed(newest);
        self.revision = if rewritten { listed.revision } else { self.revision.max(listed.revision) };
        (self.gap, self.told) = (false, false);
        Some(Merged { rewritten, missed, again })
    }

    /// Tells the listeners, if it is news. What nobody knew to be missed, where there is a watch that could have told it.
    fn tell(&self, next: NodeSet) -> Option<Missed> {
        let Some(known) = self.feed.picture() else {
            self.feed.reset(next);
            return None;
        };
        let changes = known.events_to(&next);
        if !changes.is_empty() || self.gap {
            self.feed.reset(next);
        }
        Missed::of(&changes).filter(|_| !self.gap && self.watch.is_some())
    }
}

fn picture(entries: Vec<Entry>, newer: impl Iterator<Item = Change>) -> NodeSet {
    let mut nodes: BTreeMap<Key, Entry> = entries.into_iter().map(|entry| (entry.key(), entry)).collect();
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
        let feed = Feed::default();
        let watcher = feed.subscribe_to_fresh(&WatchOptions::all());
        (Track::new(feed, Instant::now()), watcher)
    }

    /// A list of a track that is watched.
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
        assert_eq!(merged, Merged { rewritten: false, missed: None, again: false });
        assert_eq!((heard(&mut watcher), track.revision), (vec![], 9));
    }

    #[tokio::test]
    async fn what_the_watch_missed_is_counted_and_told_as_a_reset() {
        let (mut track, mut watcher) = track();
        list(&mut track, 5, vec![entry("1", "h:1"), entry("2", "h:1")]);
        heard(&mut watcher);
        assert_eq!(list(&mut track, 9, vec![entry("2", "h:2"), entry("3", "h:1")]).missed.unwrap().count(), 3);
        assert_eq!(heard(&mut watcher), [Event::Reset(vec![entry("2", "h:2"), entry("3", "h:1")])]);
    }

    #[tokio::test]
    async fn what_is_newer_than_the_list_stays() {
        let (mut track, mut watcher) = track();
        list(&mut track, 5, vec![entry("1", "h:1")]);
        track.ask(false);
        track.hear(vec![put(7, "2"), put(9, "3"), lose(10, "1")]);
        track.answered(Instant::now(), Listed { revision: 8, entries: vec![entry("1", "h:1"), entry("2", "h:7")] });
        assert_eq!(track.merge().unwrap().missed, None);
        assert_eq!(track.revision, 10);
        heard(&mut watcher);
        assert_eq!(track.feed.picture().unwrap(), NodeSet::from_iter([entry("2", "h:7"), entry("3", "h:9")]));
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
        track.answered(Instant::now(), Listed { revision: 3, entries: vec![entry("3", "h:1")] });
        let merged = track.merge().unwrap();
        assert!(merged.rewritten);
        assert_eq!((track.revision, track.feed.picture().unwrap()), (3, NodeSet::from_iter([entry("3", "h:1")])));
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
        track.answered(Instant::now(), Listed { revision: 9, entries: Vec::new() });
        assert_eq!(track.merge(), None);
        assert!(track.ask(false), "it can be asked for again");
    }

    proptest::proptest! {
        /// Whatever the order of events, lists and breaks, the picture ends as what there is.
        #[test]
        fn it_converges(steps in proptest::collection::vec((0..6_u8, 0..5_u8), 1..120)) {
            converge(&steps);
        }
    }

    /// A world of five nodes, its history, a stream that delivers it, and lists that are answered late.
    fn converge(steps: &[(u8, u8)]) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (mut track, _watcher) = track();
            let mut history: Vec<(i64, Change)> = Vec::new();
            let (mut delivered, mut listed_at) = (0_usize, None);
            let at = |history: &[(i64, Change)], revision: i64| {
                let upto = history.iter().filter(|(r, _)| *r <= revision).map(|(_, change)| change.clone());
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
                assert_eq!(track.feed.picture().unwrap(), at(&history, i64::MAX));
            }
        });
    }
}
