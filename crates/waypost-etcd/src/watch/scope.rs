//! Node set of one watched service, or of all: events update it, and lists verify it. Pure.
//!
//! A list gives the nodes at one revision, while events continue to arrive. Events that arrive
//! between the request and the response of a list are kept, and those newer than the list are
//! applied on top of it. The result is correct in either order.

use std::collections::BTreeMap;
use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;
use waypost_core::record::{Entry, Key};
use waypost_core::registry::{Broadcaster, Change, Event, Newest, NodeSet};

use crate::error::EtcdError;
use crate::list::RecordList;

/// Minimum life of a successful watch. If it ends earlier, the next one waits for a backoff.
const MIN_LIFETIME: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct ScopeState {
    pub(super) broadcaster: Broadcaster,
    /// Revision up to which the node set is complete; 0 before the first list.
    pub(super) revision: i64,
    /// Watch on the current stream.
    pub(super) watch: Option<i64>,
    /// Time at which etcd created the watch.
    pub(super) created_at: Option<Instant>,
    /// True once the watch has had the time to catch up.
    pub(super) caught_up: bool,
    /// True after a known gap: the next list is emitted as a reset, even without changes.
    pub(super) gap: bool,
    /// True if the listeners got an error.
    pub(super) error_sent: bool,
    /// True if that was the error of the stream: it ends when the stream resumes.
    pub(super) in_stream_outage: bool,
    /// True if the listeners got the result of a serializable list.
    pub(super) serializable: bool,
    pub(super) relist_at: Instant,
    pub(super) failures: u32,
    list: Option<PendingList>,
}

/// List in flight.
#[derive(Debug)]
struct PendingList {
    /// Listeners and revision at the time of the request. A lower revision in the response means
    /// another history.
    newest: Newest,
    known_revision: i64,
    /// Events received since the request.
    events: Vec<(i64, Change)>,
    response: Option<(Instant, RecordList)>,
    /// True if events since the request may be missing: the response must be discarded.
    is_stale: bool,
    /// True if a new listener needs a later list.
    needs_another: bool,
}

/// Result of a merged list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MergedList {
    /// True if the history is another one: the watch must start again.
    pub(super) history_changed: bool,
    /// Changes that the watch had missed, without a known gap.
    pub(super) missed: Option<Missed>,
    /// True if another list is needed at once.
    pub(super) needs_another: bool,
}

/// Changes that a list found and the watch had not delivered: the number of each kind, and the
/// names of the first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Missed {
    pub(super) created: usize,
    pub(super) updated: usize,
    pub(super) deleted: usize,
    pub(super) first: Vec<String>,
}

/// Number of missed changes that are named, and the maximum length of a name in characters.
const MAX_NAMED: usize = 5;
const MAX_NAME: usize = 80;

impl Missed {
    fn of(changes: &[Event]) -> Option<Self> {
        let mut missed = Self::default();
        for change in changes {
            let (count, what, key) = match change {
                Event::Created(entry) => (&mut missed.created, "created", entry.key()),
                Event::Updated(entry) => (&mut missed.updated, "updated", entry.key()),
                Event::Deleted(key) => (&mut missed.deleted, "deleted", key.clone()),
                Event::Reset(_) => continue,
            };
            *count += 1;
            if missed.first.len() < MAX_NAMED {
                let name: String = format!("{}/{}", key.service, key.id)
                    .chars()
                    .take(MAX_NAME)
                    .collect();
                missed.first.push(format!("{what} {name}"));
            }
        }
        (!changes.is_empty()).then_some(missed)
    }

    /// Returns the number of changes.
    pub(super) fn count(&self) -> usize {
        self.created + self.updated + self.deleted
    }
}

impl ScopeState {
    pub(super) fn new(broadcaster: Broadcaster, relist_at: Instant) -> Self {
        Self {
            broadcaster,
            revision: 0,
            watch: None,
            created_at: None,
            caught_up: false,
            gap: false,
            error_sent: false,
            in_stream_outage: false,
            serializable: false,
            relist_at,
            failures: 0,
            list: None,
        }
    }

    /// Makes the next list due at a random time within `spread`, unless it is due earlier.
    pub(super) fn relist_within(&mut self, now: Instant, spread: Duration, rng: &mut Rng) {
        self.relist_at = self.relist_at.min(now + spread.mul_f64(rng.f64()));
    }

    /// Starts a list. Returns false if one is in flight; with `needs_another`, another follows it.
    pub(super) fn begin_list(&mut self, needs_another: bool) -> bool {
        if let Some(pending) = &mut self.list {
            pending.needs_another |= needs_another;
            return false;
        }
        let newest = self.broadcaster.newest();
        let known_revision = self.revision;
        self.list = Some(PendingList {
            newest,
            known_revision,
            events: Vec::new(),
            response: None,
            is_stale: false,
            needs_another: false,
        });
        true
    }

    pub(super) fn is_listing(&self) -> bool {
        self.list.is_some()
    }

    /// Records the response of the list.
    pub(super) fn on_listed(&mut self, now: Instant, listed: RecordList) {
        if let Some(pending) = &mut self.list {
            pending.response = Some((now, listed));
        }
    }

    /// Records the failure of the list.
    pub(super) fn list_failed(&mut self) {
        self.list = None;
    }

    /// Returns arrival time and revision of a list that is not yet merged.
    pub(super) fn pending(&self) -> Option<(Instant, i64)> {
        let (since, listed) = self.list.as_ref()?.response.as_ref()?;
        Some((*since, listed.revision))
    }

    /// Returns true if the watch has lasted.
    pub(super) fn has_lasted(&self, now: Instant) -> bool {
        self.created_at.is_some_and(|at| now >= at + MIN_LIFETIME)
    }

    /// Removes the watch.
    pub(super) fn remove_watch(&mut self) {
        let was_watched = self.watch.take().is_some();
        (self.created_at, self.caught_up) = (None, false);
        if let Some(pending) = &mut self.list {
            pending.is_stale |= was_watched;
        }
    }

    /// Applies events of the watch, with their revisions, in order.
    pub(super) fn apply(&mut self, changes: Vec<(i64, Change)>) {
        let fresh: Vec<_> = changes
            .into_iter()
            .filter(|(revision, _)| *revision >= self.revision)
            .collect();
        if let Some((last, _)) = fresh.last() {
            self.revision = *last;
        }
        if let Some(pending) = &mut self.list {
            pending.events.extend(fresh.iter().cloned());
        }
        self.broadcaster
            .apply(fresh.into_iter().map(|(_, change)| change));
    }

    /// Emits an error to the listeners.
    pub(super) fn send_error(&mut self, error: &EtcdError) {
        self.error_sent = true;
        let error = error.clone();
        self.broadcaster
            .fail(move || error.clone().into_registry_error("watching"));
    }

    /// Emits the error of the stream to the listeners.
    pub(super) fn send_stream_error(&mut self, error: &EtcdError) {
        self.send_error(error);
        self.in_stream_outage = true;
    }

    /// Ends the outage of the stream: its successor continues the watch at the last revision, so that
    /// nothing is missed.
    pub(super) fn resume(&mut self) {
        if std::mem::take(&mut self.in_stream_outage) && self.revision > 0 {
            self.error_sent = false;
            self.broadcaster.resume();
        }
    }

    /// Emits the result of a serializable list, if no other is known.
    pub(super) fn apply_serializable(&mut self, listed: RecordList, error: EtcdError) {
        if self.revision == 0 {
            self.serializable = true;
            let nodes = NodeSet::from_iter(listed.entries);
            self.broadcaster.reset_unverified(nodes, move || {
                error.clone().into_registry_error(
                    "watching; the records are from one member, read without a quorum",
                )
            });
        }
    }

    /// Merges the list into the node set. Returns none if there is no list, or it must be discarded
    /// and requested again.
    pub(super) fn merge(&mut self) -> Option<MergedList> {
        let PendingList {
            newest,
            known_revision,
            events,
            response,
            is_stale,
            needs_another,
        } = self.list.take()?;
        let (_, listed) = response?;
        if is_stale {
            return None;
        }
        let history_changed = listed.revision < known_revision;
        let newer = events
            .into_iter()
            .filter(|(revision, _)| !history_changed && *revision > listed.revision);
        let next = node_set(listed.entries, newer.map(|(_, change)| change));
        let missed = self.emit(next);
        self.broadcaster.refreshed(newest);
        self.revision = if history_changed {
            listed.revision
        } else {
            self.revision.max(listed.revision)
        };
        (self.gap, self.error_sent, self.in_stream_outage) = (false, false, false);
        Some(MergedList {
            history_changed,
            missed,
            needs_another,
        })
    }

    /// Emits the new node set if it differs. Returns the missed changes, if a watch should have
    /// delivered them.
    fn emit(&self, next: NodeSet) -> Option<Missed> {
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

fn node_set(entries: Vec<Entry>, newer: impl Iterator<Item = Change>) -> NodeSet {
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

    fn state() -> (ScopeState, Watcher) {
        let broadcaster = Broadcaster::default();
        let watcher = broadcaster.subscribe_to_fresh(&WatchOptions::all());
        (ScopeState::new(broadcaster, Instant::now()), watcher)
    }

    /// Merges a list of a watched track.
    fn list(state: &mut ScopeState, revision: i64, entries: Vec<Entry>) -> MergedList {
        state.watch.get_or_insert(1);
        state.begin_list(false);
        state.on_listed(Instant::now(), RecordList { revision, entries });
        state.merge().unwrap()
    }

    fn received(watcher: &mut Watcher) -> Vec<Event> {
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
    async fn a_list_without_changes_emits_nothing() {
        let (mut state, mut watcher) = state();
        list(&mut state, 5, vec![entry("1", "h:1")]);
        assert_eq!(
            received(&mut watcher),
            [Event::Reset(vec![entry("1", "h:1")])]
        );
        let merged = list(&mut state, 9, vec![entry("1", "h:1")]);
        assert_eq!(
            merged,
            MergedList {
                history_changed: false,
                missed: None,
                needs_another: false
            }
        );
        assert_eq!((received(&mut watcher), state.revision), (vec![], 9));
    }

    #[tokio::test]
    async fn missed_changes_are_counted_and_emitted_as_a_reset() {
        let (mut state, mut watcher) = state();
        list(&mut state, 5, vec![entry("1", "h:1"), entry("2", "h:1")]);
        received(&mut watcher);
        assert_eq!(
            list(&mut state, 9, vec![entry("2", "h:2"), entry("3", "h:1")])
                .missed
                .unwrap()
                .count(),
            3
        );
        assert_eq!(
            received(&mut watcher),
            [Event::Reset(vec![entry("2", "h:2"), entry("3", "h:1")])]
        );
    }

    #[tokio::test]
    async fn events_newer_than_the_list_are_kept() {
        let (mut state, mut watcher) = state();
        list(&mut state, 5, vec![entry("1", "h:1")]);
        state.begin_list(false);
        state.apply(vec![put(7, "2"), put(9, "3"), lose(10, "1")]);
        state.on_listed(
            Instant::now(),
            RecordList {
                revision: 8,
                entries: vec![entry("1", "h:1"), entry("2", "h:7")],
            },
        );
        assert_eq!(state.merge().unwrap().missed, None);
        assert_eq!(state.revision, 10);
        received(&mut watcher);
        assert_eq!(
            state.broadcaster.nodes().unwrap(),
            NodeSet::from_iter([entry("2", "h:7"), entry("3", "h:9")])
        );
    }

    #[tokio::test]
    async fn a_repeated_event_is_emitted_once() {
        let (mut state, mut watcher) = state();
        list(&mut state, 5, vec![entry("1", "h:5")]);
        received(&mut watcher);
        state.apply(vec![put(4, "1"), put(5, "1")]);
        assert_eq!(received(&mut watcher), []);
        state.apply(vec![put(6, "1")]);
        assert_eq!(received(&mut watcher).len(), 1);
    }

    #[tokio::test]
    async fn events_of_an_earlier_history_are_discarded() {
        let (mut state, _watcher) = state();
        list(&mut state, 50, vec![entry("1", "h:1")]);
        state.begin_list(false);
        state.apply(vec![put(51, "2")]);
        state.on_listed(
            Instant::now(),
            RecordList {
                revision: 3,
                entries: vec![entry("3", "h:1")],
            },
        );
        let merged = state.merge().unwrap();
        assert!(merged.history_changed);
        assert_eq!(
            (state.revision, state.broadcaster.nodes().unwrap()),
            (3, NodeSet::from_iter([entry("3", "h:1")]))
        );
    }

    #[tokio::test]
    async fn a_known_gap_is_emitted_even_without_changes() {
        let (mut state, mut watcher) = state();
        list(&mut state, 5, vec![entry("1", "h:1")]);
        received(&mut watcher);
        state.gap = true;
        assert_eq!(list(&mut state, 9, vec![entry("1", "h:1")]).missed, None);
        assert_eq!(
            received(&mut watcher),
            [Event::Reset(vec![entry("1", "h:1")])]
        );
    }

    #[tokio::test]
    async fn a_list_during_a_disconnect_is_requested_again() {
        let (mut state, _watcher) = state();
        list(&mut state, 5, Vec::new());
        state.begin_list(false);
        state.remove_watch();
        state.on_listed(
            Instant::now(),
            RecordList {
                revision: 9,
                entries: Vec::new(),
            },
        );
        assert_eq!(state.merge(), None);
        assert!(state.begin_list(false), "the list can be requested again");
    }

    proptest::proptest! {
        /// For any order of events, lists and disconnects, the node set converges to the history.
        #[test]
        fn the_node_set_converges(steps in proptest::collection::vec((0..6_u8, 0..5_u8), 1..120)) {
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
            let (mut state, _watcher) = state();
            let mut history: Vec<(i64, Change)> = Vec::new();
            let (mut delivered, mut listed_at) = (0_usize, None);
            let at = |history: &[(i64, Change)], revision: i64| {
                let upto = history
                    .iter()
                    .filter(|(r, _)| *r <= revision)
                    .map(|(_, change)| change.clone());
                node_set(Vec::new(), upto)
            };
            for (step, id) in steps {
                let revision = history.len() as i64;
                match step {
                    0 => history.push(put(revision + 1, &id.to_string())),
                    1 => history.push(lose(revision + 1, &id.to_string())),
                    2 if state.watch.is_some() => {
                        let upto = history.len().min(delivered + usize::from(*id));
                        state.apply(history[delivered.min(upto)..upto].to_vec());
                        delivered = delivered.max(upto);
                    }
                    3 if state.begin_list(false) => listed_at = Some(revision),
                    4 if state.is_listing() => {
                        let revision = listed_at.unwrap();
                        let entries = at(&history, revision).iter().cloned().collect();
                        state.on_listed(Instant::now(), RecordList { revision, entries });
                        if state.merge().is_some() && state.watch.is_none() {
                            state.watch = Some(1);
                            delivered = usize::try_from(state.revision).unwrap().saturating_sub(1);
                        }
                    }
                    5 => {
                        let listed = state.revision > 0;
                        state.remove_watch();
                        if listed {
                            state.watch = Some(2);
                            delivered = usize::try_from(state.revision).unwrap().saturating_sub(1);
                        }
                    }
                    _ => {}
                }
            }
            if state.watch.is_some() {
                state.apply(history[delivered..].to_vec());
                assert_eq!(state.broadcaster.nodes().unwrap(), at(&history, i64::MAX));
            }
        });
    }
}
