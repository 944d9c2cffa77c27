//! Listener that checks its events against the contract of a watcher.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use futures_core::Stream;
use waypost_core::record::{Entry, Key};
use waypost_core::registry::{Event, NodeSet, Watcher};

use super::truth::Truth;
use crate::watch::Scope;

#[derive(Debug)]
pub(super) struct Listener {
    pub(super) scope: Scope,
    watcher: Watcher,
    pub(super) picture: NodeSet,
    /// True if the last item was an event, not an error.
    pub(super) knows: bool,
    /// History and revision at which it began to listen.
    since: Option<(usize, i64)>,
    /// Oldest serial that may be emitted, for each node.
    floor: BTreeMap<Key, u64>,
}

/// Returns the serial number of a record in this model; own records have none.
pub(super) fn serial(entry: &Entry) -> Option<u64> {
    entry.node.metadata.get("serial")?.parse().ok()
}

impl Listener {
    pub(super) fn new(scope: Scope, watcher: Watcher, since: Option<(usize, i64)>) -> Self {
        let picture = NodeSet::default();
        Self {
            scope,
            watcher,
            picture,
            knows: false,
            since,
            floor: BTreeMap::new(),
        }
    }

    /// Receives all pending events.
    pub(super) fn listen(&mut self, truth: &Truth) {
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(item) = Pin::new(&mut self.watcher).poll_next(&mut cx) {
            match item.expect("a watcher does not end by itself") {
                Ok(event) => {
                    self.knows = true;
                    self.hold_to_promise(&event, truth);
                    self.picture.apply(event);
                }
                Err(_) => self.knows = false,
            }
        }
    }

    /// Allows older records, since a serializable list may be emitted.
    pub(super) fn may_hear_older(&mut self) {
        self.since = None;
    }

    fn hold_to_promise(&mut self, event: &Event, truth: &Truth) {
        match event {
            Event::Reset(entries) => self.reset(entries, truth),
            Event::Created(entry) => {
                assert_eq!(self.picture.get(&entry.key()), None, "created twice");
                self.not_older(entry, truth);
            }
            Event::Updated(entry) => {
                let known = self.picture.get(&entry.key());
                assert!(
                    known.is_some_and(|known| known != entry),
                    "{entry:?} is no news to {known:?}"
                );
                self.not_older(entry, truth);
            }
            Event::Deleted(key) => {
                let known = self
                    .picture
                    .get(key)
                    .unwrap_or_else(|| panic!("{key:?} is deleted, and was not there"));
                assert!(
                    truth.lies || known.node.is_leaving() || !truth.left_after(key, serial(known)),
                    "{key:?} left, and that was not told"
                );
                if let Some(serial) = serial(known) {
                    self.floor.insert(key.clone(), serial + 1);
                }
            }
        }
    }

    fn reset(&mut self, entries: &[Entry], truth: &Truth) {
        entries
            .iter()
            .for_each(|entry| self.not_older(entry, truth));
        let Some((history, revision)) = self.since.take() else {
            return;
        };
        if !truth.lies && history == truth.history {
            for (key, oldest) in truth.stood_at(&self.scope, revision) {
                let told = entries
                    .iter()
                    .find(|entry| entry.key() == key)
                    .and_then(serial);
                assert!(
                    told.map_or(truth.gone_since(&key, revision), |told| told >= oldest),
                    "{key:?} was at {oldest} when {:?} began to listen, and is told at {told:?}",
                    self.scope
                );
            }
        }
    }

    fn not_older(&mut self, entry: &Entry, truth: &Truth) {
        let Some(serial) = serial(entry) else { return };
        let floor = self.floor.entry(entry.key()).or_default();
        assert!(
            truth.lies || truth.unsettled || serial >= *floor,
            "{entry:?} is older than what was told: {floor}"
        );
        *floor = serial;
    }
}
