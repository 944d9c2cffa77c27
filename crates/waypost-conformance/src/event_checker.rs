//! Receiver of a watcher that checks every event against the contract.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};
use waypost_core::record::{Entry, Key, Service};
use waypost_core::registry::{AnyRegistry, Error, Event, NodeSet, Result, WatchOptions, Watcher};

use crate::time::Time;

/// Time without events after which the node set is compared with a fresh list.
const COMPARE: Duration = Duration::from_millis(50);

pub(crate) struct EventChecker {
    watcher: Watcher,
    options: WatchOptions,
    patience: Duration,
    /// True once the watchers were disconnected: from then on the watcher may report an outage.
    cut: Arc<AtomicBool>,
    pub(crate) nodes: NodeSet,
    /// All events except the first `Reset`.
    pub(crate) received: Vec<Event>,
}

impl EventChecker {
    pub(crate) async fn open(
        registry: &AnyRegistry,
        options: WatchOptions,
        time: Time,
        cut: Arc<AtomicBool>,
    ) -> Self {
        let watcher = registry.watch(&options).await.expect("a watch opens");
        let (patience, nodes, received) = (time.patience(), NodeSet::default(), Vec::new());
        let mut checker = Self {
            watcher,
            options,
            patience,
            cut,
            nodes,
            received,
        };
        let first = checker.step("the first item").await;
        assert!(
            matches!(first, Event::Reset(_)),
            "the first item is {first:?}"
        );
        checker.received.clear();
        checker
    }

    /// Returns the next event, checked and applied.
    pub(crate) async fn step(&mut self, what: &str) -> Event {
        loop {
            match timeout(self.patience, self.watcher.next()).await {
                Ok(Some(item)) => {
                    if let Some(event) = self.take(what, item) {
                        return event;
                    }
                }
                Ok(None) => panic!("waiting for {what}: the watcher ended"),
                Err(_) => panic!("waiting for {what}: no event; received {:?}", self.received),
            }
        }
    }

    /// Checks an item and applies it. Returns none for an outage, which a watcher reports if it
    /// lasts for a while after a disconnect.
    fn take(&mut self, what: &str, item: Result<Event>) -> Option<Event> {
        match item {
            Ok(event) => Some(self.fold(event)),
            Err(error) => {
                let is_outage = matches!(error, Error::Unavailable { .. } | Error::Timeout { .. });
                assert!(
                    is_outage && self.cut.load(Relaxed),
                    "waiting for {what}: {}",
                    error.chain()
                );
                None
            }
        }
    }

    /// Polls the watcher once and drops the future, ready or not.
    pub(crate) async fn poke(&mut self) {
        if let Ok(Some(Ok(event))) = timeout(Duration::ZERO, self.watcher.next()).await {
            self.fold(event);
        }
    }

    /// Steps until the node set is as wanted.
    pub(crate) async fn until(&mut self, what: &str, wanted: impl Fn(&NodeSet) -> bool) {
        while !wanted(&self.nodes) {
            self.step(what).await;
        }
    }

    pub(crate) async fn until_there(&mut self, key: &Key) {
        self.until("a node", |nodes| nodes.get(key).is_some()).await;
    }

    pub(crate) async fn until_gone(&mut self, key: &Key) {
        self.until("the end of a node", |nodes| nodes.get(key).is_none())
            .await;
    }

    /// Steps until a `Reset` arrives.
    pub(crate) async fn until_reset(&mut self) {
        while !matches!(self.step("a reset").await, Event::Reset(_)) {}
    }

    /// Waits until the node set equals a fresh list.
    pub(crate) async fn until_equal(&mut self, registry: &AnyRegistry) {
        let deadline = Instant::now() + self.patience;
        loop {
            let fresh = self.fresh(registry).await;
            if self.nodes == fresh {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "the node set differs from a fresh list:\n{:#?}",
                self.nodes.events_to(&fresh)
            );
            let deadline = Instant::now() + COMPARE;
            while let Ok(Some(item)) = timeout_at(deadline, self.watcher.next()).await {
                self.take("a node set that equals a fresh list", item);
            }
        }
    }

    /// Waits until the watcher has ended.
    pub(crate) async fn ended(&mut self) {
        loop {
            match timeout(self.patience, self.watcher.next())
                .await
                .expect("it ends")
            {
                None => return,
                Some(event) => drop(self.fold(event.expect("no error"))),
            }
        }
    }

    /// Returns the events received for one node.
    pub(crate) fn received_for(&self, key: &Key) -> Vec<&Event> {
        self.received
            .iter()
            .filter(|event| about(event).as_ref() == Some(key))
            .collect()
    }

    async fn fresh(&self, registry: &AnyRegistry) -> NodeSet {
        let services = match &self.options.service {
            None => registry.list_services().await,
            Some(name) => match registry.get_service(name).await {
                Err(Error::NotFound { .. }) => Ok(Vec::new()),
                answer => answer,
            },
        };
        services
            .expect("a list")
            .iter()
            .flat_map(Service::entries)
            .collect()
    }

    fn fold(&mut self, event: Event) -> Event {
        self.check_contract(&event);
        self.received.push(event.clone());
        self.nodes.apply(event.clone());
        event
    }

    fn check_contract(&self, event: &Event) {
        let known = about(event).and_then(|key| self.nodes.get(&key));
        let covered = |entry: &Entry| self.options.covers(&entry.service.name);
        match event {
            Event::Reset(entries) => {
                assert!(
                    entries.iter().all(covered),
                    "a reset contains another service: {entries:?}"
                );
                assert_eq!(
                    NodeSet::from_iter(entries.clone()).len(),
                    entries.len(),
                    "a reset names a node twice"
                );
            }
            Event::Created(entry) => {
                assert!(known.is_none(), "created twice: {entry:?}");
                assert!(covered(entry), "not watched: {entry:?}");
            }
            Event::Updated(entry) => {
                assert!(known.is_some(), "updated, never created: {entry:?}");
                assert_ne!(known, Some(entry), "emitted twice");
            }
            Event::Deleted(key) => assert!(known.is_some(), "deleted, but not there: {key:?}"),
        }
    }
}

fn about(event: &Event) -> Option<Key> {
    match event {
        Event::Reset(_) => None,
        Event::Created(entry) | Event::Updated(entry) => Some(entry.key()),
        Event::Deleted(key) => Some(key.clone()),
    }
}
