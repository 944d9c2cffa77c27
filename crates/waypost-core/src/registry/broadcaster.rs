//! Broadcast of one node set to many watchers: the part of a [`Watcher`]'s contract that all
//! backends share.
//!
//! A backend reports its observations ([`Change`]). The broadcaster compares them with the set that it has
//! emitted, so that each event is emitted once. Each listener has its own queue. If the queue
//! exceeds [`QUEUE`] events, a `Reset` replaces them.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures_core::Stream;

use super::{Error, Event, NodeSet, Result, WatchOptions, Watcher};
use crate::record::{Entry, Key, keys};

/// Maximum number of events queued for one listener. A longer queue takes more memory; a shorter
/// one causes more resets.
const QUEUE: usize = 1_024;

/// Observation of one node by a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The node exists with this record.
    Put(Entry),
    /// The node is gone without a deregistration: lost.
    Lose(Key),
    /// The node deregistered. Emitted as `Updated(leaving)` and `Deleted`.
    Leave(Key),
}

/// Broadcast of one node set to many watchers. Clones share the same state.
///
/// A new broadcaster is not synced: watchers wait for the first [`reset`](Broadcaster::reset).
#[derive(Clone, Default)]
pub struct Broadcaster(Arc<Mutex<State>>);

/// Id of the newest listener at some moment.
#[derive(Clone, Copy, Debug)]
pub struct Newest(u64);

type MakeError = Box<dyn Fn() -> Error + Send>;

#[derive(Default)]
struct State {
    nodes: NodeSet,
    known: bool,
    /// True if the set was emitted although it could not be verified.
    unverified: bool,
    outage: Option<MakeError>,
    closed: bool,
    next_id: u64,
    listeners: BTreeMap<u64, Listener>,
    /// Ids of the listeners of all services, and of each service. An event costs only the listeners
    /// that receive it.
    of_all: BTreeSet<u64>,
    of_service: HashMap<String, BTreeSet<u64>>,
    /// Wakers to be called after the lock is released.
    wakers: Vec<Waker>,
}

struct Listener {
    options: WatchOptions,
    queue: VecDeque<Event>,
    outage: Option<Error>,
    wants_reset: bool,
    /// True while the first reset waits for a refresh of the set.
    waits: bool,
    waker: Option<Waker>,
}

impl Broadcaster {
    /// Adds a listener. It receives a `Reset` first, preceded by an `Err` during an outage.
    pub fn subscribe(&self, options: &WatchOptions) -> Watcher {
        self.add(options, false)
    }

    /// Adds a listener whose `Reset` waits until the set has been refreshed. Intended for a backend
    /// that observes changes with a delay. The backend calls [`newest`](Broadcaster::newest), lists all
    /// records, and calls [`refreshed`](Broadcaster::refreshed).
    pub fn subscribe_to_fresh(&self, options: &WatchOptions) -> Watcher {
        self.add(options, true)
    }

    /// Returns the id of the newest listener, for [`refreshed`](Broadcaster::refreshed).
    pub fn newest(&self) -> Newest {
        Newest(self.lock().next_id)
    }

    /// Marks the set as fresh as of the call that returned `newest`. Listeners added before that
    /// call receive their `Reset`.
    pub fn refreshed(&self, newest: Newest) {
        self.update(|state| {
            state
                .listeners
                .range_mut(..newest.0)
                .for_each(|(_, listener)| listener.waits = false);
        });
    }

    fn add(&self, options: &WatchOptions, waits: bool) -> Watcher {
        let mut state = self.lock();
        let id = state.next_id;
        state.next_id += 1;
        let outage = state.outage.as_ref().map(|outage| outage());
        let mut listener = Listener {
            options: options.clone(),
            queue: VecDeque::new(),
            outage,
            wants_reset: true,
            waits,
            waker: None,
        };
        if state.unverified {
            listener.push_unverified(&state.nodes);
        }
        state.insert(id, listener);
        Watcher::new(Subscription {
            broadcaster: self.clone(),
            id,
        })
    }

    /// Applies changes in order, and emits an event for each that changes the set.
    pub fn apply(&self, changes: impl IntoIterator<Item = Change>) {
        let mut state = self.lock();
        changes.into_iter().for_each(|change| state.apply(change));
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Replaces the set, initially or after a gap. Ends an outage. Every listener receives a
    /// `Reset`.
    pub fn reset(&self, nodes: NodeSet) {
        self.update(|state| {
            (state.nodes, state.known, state.unverified) = (nodes, true, false);
            state.outage = None;
            state.listeners.values_mut().for_each(Listener::want_reset);
        });
    }

    /// Reports an error of the registry. Every listener, including later ones, receives one `Err`.
    /// The set is not synced until the next [`reset`](Broadcaster::reset).
    pub fn fail(&self, outage: impl Fn() -> Error + Send + 'static) {
        self.update(|state| {
            state.known = false;
            for listener in state.listeners.values_mut() {
                listener.outage = Some(outage());
                listener.want_reset();
            }
            state.outage = Some(Box::new(outage));
        });
    }

    /// Ends an outage in which nothing was missed: the set is that of before. Every listener receives
    /// a `Reset`.
    pub fn resume(&self) {
        self.update(|state| {
            if state.outage.take().is_some() && !state.unverified {
                state.known = true;
            }
        });
    }

    /// Replaces the set by one that cannot be verified, with the reason. Every listener, including
    /// later ones, receives a `Reset` and then one `Err`. The broadcaster accepts no changes until the
    /// next [`reset`](Broadcaster::reset).
    pub fn reset_unverified(&self, nodes: NodeSet, outage: impl Fn() -> Error + Send + 'static) {
        self.update(|state| {
            (state.nodes, state.known, state.unverified) = (nodes, false, true);
            for listener in state.listeners.values_mut() {
                listener.push_unverified(&state.nodes);
                listener.outage = Some(outage());
            }
            state.outage = Some(Box::new(outage));
        });
    }

    /// Clears the set without an event. Intended for a backend that stops observing while there is
    /// no listener.
    pub fn forget(&self) {
        let mut state = self.lock();
        (state.known, state.unverified) = (false, false);
        state.nodes = NodeSet::default();
    }

    /// Drops the queued events of every listener. Each receives a `Reset` in their place.
    pub fn force_reset(&self) {
        self.update(|state| {
            for listener in state.listeners.values_mut() {
                listener.queue.clear();
                listener.want_reset();
            }
        });
    }

    /// Ends every watcher, including later ones.
    pub fn close(&self) {
        self.update(|state| state.closed = true);
    }

    /// Returns the number of listeners.
    pub fn listeners(&self) -> usize {
        self.lock().listeners.len()
    }

    /// Returns the current set, or none while the broadcaster is not synced.
    pub fn nodes(&self) -> Option<NodeSet> {
        let state = self.lock();
        state.known.then(|| state.nodes.clone())
    }

    /// Returns the emitted entry of one node.
    pub fn get(&self, key: &Key) -> Option<Entry> {
        self.lock().nodes.get(key).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies a change that concerns all listeners, and wakes them.
    fn update(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let wakers: Vec<_> = state
            .listeners
            .values_mut()
            .filter_map(|listener| listener.waker.take())
            .collect();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl fmt::Debug for Broadcaster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Broadcaster")
            .field("nodes", &state.nodes.len())
            .field("listeners", &state.listeners.len())
            .finish()
    }
}

impl State {
    fn insert(&mut self, id: u64, listener: Listener) {
        match &listener.options.service {
            None => self.of_all.insert(id),
            Some(service) => self
                .of_service
                .entry(service.clone())
                .or_default()
                .insert(id),
        };
        self.listeners.insert(id, listener);
    }

    fn remove(&mut self, id: u64) -> Option<Listener> {
        let listener = self.listeners.remove(&id)?;
        self.of_all.remove(&id);
        if let Some(service) = &listener.options.service
            && let Some(ids) = self.of_service.get_mut(service)
        {
            ids.remove(&id);
            if ids.is_empty() {
                self.of_service.remove(service);
            }
        }
        Some(listener)
    }

    fn apply(&mut self, change: Change) {
        if !self.known {
            return;
        }
        match change {
            Change::Put(entry) => self.put(entry),
            Change::Lose(key) => self.delete(key),
            Change::Leave(key) => {
                if let Some(leaving) = self.nodes.get(&key).map(leaving) {
                    self.put(leaving);
                }
                self.delete(key);
            }
        }
    }

    fn put(&mut self, entry: Entry) {
        match self.nodes.get_node(&entry.service.name, &entry.node.id) {
            None => self.emit(Event::Created(entry)),
            Some(old) if *old != entry => self.emit(Event::Updated(entry)),
            Some(_) => {}
        }
    }

    fn delete(&mut self, key: Key) {
        if self.nodes.get(&key).is_some() {
            self.emit(Event::Deleted(key));
        }
    }

    fn emit(&mut self, event: Event) {
        let service = match &event {
            Event::Created(entry) | Event::Updated(entry) => entry.service.name.as_str(),
            Event::Deleted(key) => key.service.as_str(),
            Event::Reset(_) => return,
        };
        for id in self
            .of_all
            .iter()
            .chain(self.of_service.get(service).into_iter().flatten())
        {
            if let Some(listener) = self.listeners.get_mut(id) {
                listener.push(&event);
                self.wakers.extend(listener.waker.take());
            }
        }
        self.nodes.apply(event);
    }

    fn poll(&mut self, id: u64, cx: &Context<'_>) -> Poll<Option<Result<Event>>> {
        if self.closed {
            return Poll::Ready(None);
        }
        let Some(listener) = self.listeners.get_mut(&id) else {
            return Poll::Ready(None);
        };
        if let Some(event) = listener.queue.pop_front() {
            return Poll::Ready(Some(Ok(event)));
        }
        if let Some(outage) = listener.outage.take() {
            return Poll::Ready(Some(Err(outage)));
        }
        if self.known && listener.wants_reset && !listener.waits {
            listener.wants_reset = false;
            return Poll::Ready(Some(Ok(listener.everything(&self.nodes))));
        }
        listener.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Listener {
    fn want_reset(&mut self) {
        self.wants_reset = true;
    }

    fn everything(&self, nodes: &NodeSet) -> Event {
        Event::Reset(match &self.options.service {
            Some(service) => nodes.service(service).cloned().collect(),
            None => nodes.iter().cloned().collect(),
        })
    }

    fn push_unverified(&mut self, nodes: &NodeSet) {
        self.queue = VecDeque::from([self.everything(nodes)]);
        self.want_reset();
    }

    fn push(&mut self, event: &Event) {
        if self.wants_reset {
            return;
        }
        self.queue.push_back(event.clone());
        if self.queue.len() > QUEUE {
            self.queue.clear();
            self.want_reset();
        }
    }
}

fn leaving(entry: &Entry) -> Entry {
    let mut node = (*entry.node).clone();
    node.metadata.insert(keys::STATE, keys::LEAVING);
    Entry {
        service: Arc::clone(&entry.service),
        node: Arc::new(node),
    }
}

struct Subscription {
    broadcaster: Broadcaster,
    id: u64,
}

impl Stream for Subscription {
    type Item = Result<Event>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.broadcaster.lock().poll(self.id, cx)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let listener = self.broadcaster.lock().remove(self.id);
        drop(listener);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::task::Wake;

    use super::*;
    use crate::record::{Node, Service};

    fn entry(id: &str, address: &str) -> Entry {
        let mut service = Service::new("s");
        service.nodes.push(Node::with_id("s", id, address));
        service.entries().remove(0)
    }

    fn poll(watcher: &mut Watcher) -> Poll<Option<Result<Event>>> {
        Pin::new(watcher).poll_next(&mut Context::from_waker(Waker::noop()))
    }

    fn next(watcher: &mut Watcher) -> Event {
        match poll(watcher) {
            Poll::Ready(Some(Ok(event))) => event,
            other => panic!("{other:?}"),
        }
    }

    fn known() -> (Broadcaster, Watcher) {
        let broadcaster = Broadcaster::default();
        broadcaster.reset(NodeSet::default());
        let mut watcher = broadcaster.subscribe(&WatchOptions::all());
        assert_eq!(next(&mut watcher), Event::Reset(Vec::new()));
        (broadcaster, watcher)
    }

    #[test]
    fn events_are_emitted_once_and_in_order() {
        let (broadcaster, mut watcher) = known();
        let (one, two) = (entry("1", "h:1"), entry("1", "h:2"));
        broadcaster.apply([
            Change::Put(one.clone()),
            Change::Put(one.clone()),
            Change::Put(two.clone()),
        ]);
        broadcaster.apply([Change::Lose(two.key()), Change::Lose(two.key())]);
        assert_eq!(next(&mut watcher), Event::Created(one));
        assert_eq!(next(&mut watcher), Event::Updated(two.clone()));
        assert_eq!(next(&mut watcher), Event::Deleted(two.key()));
        assert!(poll(&mut watcher).is_pending());
    }

    #[test]
    fn a_leave_is_marked_first() {
        let (broadcaster, mut watcher) = known();
        let one = entry("1", "h:1");
        broadcaster.apply([Change::Put(one.clone()), Change::Leave(one.key())]);
        assert_eq!(next(&mut watcher), Event::Created(one.clone()));
        let Event::Updated(marked) = next(&mut watcher) else {
            panic!("not marked")
        };
        assert!(marked.node.is_leaving());
        assert_eq!(next(&mut watcher), Event::Deleted(one.key()));
    }

    #[test]
    fn a_listener_that_lags_is_reset_and_loses_nothing() {
        let (broadcaster, mut watcher) = known();
        for number in 0..=QUEUE {
            broadcaster.apply([Change::Put(entry(&number.to_string(), "h:1"))]);
        }
        let Event::Reset(entries) = next(&mut watcher) else {
            panic!("no reset")
        };
        assert_eq!(entries.len(), QUEUE + 1);
        assert!(poll(&mut watcher).is_pending());
    }

    #[test]
    fn trouble_is_reported_once_also_to_late_subscribers() {
        let (broadcaster, mut early) = known();
        broadcaster.apply([Change::Put(entry("1", "h:1"))]);
        broadcaster.fail(|| Error::Closed);
        broadcaster.apply([Change::Put(entry("2", "h:1"))]);
        let mut late = broadcaster.subscribe(&WatchOptions::all());
        assert_eq!(next(&mut early), Event::Created(entry("1", "h:1")));
        for watcher in [&mut early, &mut late] {
            assert!(matches!(
                poll(watcher),
                Poll::Ready(Some(Err(Error::Closed)))
            ));
            assert!(poll(watcher).is_pending());
        }
        broadcaster.reset(NodeSet::from_iter([entry("3", "h:1")]));
        for watcher in [&mut early, &mut late] {
            assert_eq!(next(watcher), Event::Reset(vec![entry("3", "h:1")]));
        }
    }

    #[test]
    fn an_unverified_picture_is_reported_with_its_trouble_and_replaced_by_the_next() {
        let broadcaster = Broadcaster::default();
        let mut early = broadcaster.subscribe(&WatchOptions::all());
        broadcaster.reset_unverified(NodeSet::from_iter([entry("1", "h:1")]), || Error::Closed);
        let mut late = broadcaster.subscribe_to_fresh(&WatchOptions::all());
        for watcher in [&mut early, &mut late] {
            assert_eq!(next(watcher), Event::Reset(vec![entry("1", "h:1")]));
            assert!(matches!(
                poll(watcher),
                Poll::Ready(Some(Err(Error::Closed)))
            ));
            assert!(poll(watcher).is_pending());
        }
        assert_eq!(broadcaster.nodes(), None);
        let newest = broadcaster.newest();
        broadcaster.reset(NodeSet::from_iter([entry("2", "h:1")]));
        broadcaster.refreshed(newest);
        for watcher in [&mut early, &mut late] {
            assert_eq!(next(watcher), Event::Reset(vec![entry("2", "h:1")]));
        }
    }

    #[test]
    fn who_waits_for_a_fresh_picture_gets_no_older_one() {
        let (broadcaster, _) = known();
        let mut waits = broadcaster.subscribe_to_fresh(&WatchOptions::all());
        let newest = broadcaster.newest();
        let mut later = broadcaster.subscribe_to_fresh(&WatchOptions::all());
        broadcaster.reset(NodeSet::default());
        broadcaster.apply([Change::Put(entry("1", "h:1"))]);
        assert!(poll(&mut waits).is_pending());
        broadcaster.refreshed(newest);
        assert_eq!(next(&mut waits), Event::Reset(vec![entry("1", "h:1")]));
        assert!(poll(&mut waits).is_pending() && poll(&mut later).is_pending());
    }

    /// Waker that counts its wakes.
    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn an_event_wakes_only_the_listeners_of_its_service() {
        let broadcaster = Broadcaster::default();
        broadcaster.reset(NodeSet::default());
        let scopes = [
            WatchOptions::all(),
            WatchOptions::service("s"),
            WatchOptions::service("other"),
        ];
        let mut listeners =
            scopes.map(|options| (broadcaster.subscribe(&options), Arc::<Wakes>::default()));
        let mut poll_all = || {
            listeners.each_mut().map(|(watcher, wakes)| {
                let waker = Waker::from(Arc::clone(wakes));
                while Pin::new(&mut *watcher)
                    .poll_next(&mut Context::from_waker(&waker))
                    .is_ready()
                {}
                wakes.0.swap(0, Relaxed)
            })
        };
        poll_all();
        broadcaster.apply([
            Change::Put(entry("1", "h:1")),
            Change::Put(entry("2", "h:1")),
        ]);
        assert_eq!(poll_all(), [1, 1, 0]);
        broadcaster.force_reset();
        assert_eq!(poll_all(), [1, 1, 1]);
        drop(listeners);
        let state = broadcaster.lock();
        assert!(state.of_all.is_empty() && state.of_service.is_empty());
    }

    #[test]
    fn it_ends_when_closed_and_is_forgotten_when_dropped() {
        let (broadcaster, mut watcher) = known();
        broadcaster.close();
        assert!(matches!(poll(&mut watcher), Poll::Ready(None)));
        drop(watcher);
        assert_eq!(broadcaster.listeners(), 0);
    }
}
