//! Listener that checks its events against the contract of a watcher.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use futures_core::Stream;
use waypost_core::record::{Entry, Key};
use waypost_core::registry::{Event, NodeSet, Watcher};

use super::write_log::WriteLog;
use crate::watch::Scope;

#[derive(Debug)]
pub(super) struct Listener {
    pub(super) scope: Scope,
    watcher: Watcher,
    pub(super) nodes: NodeSet,
    /// True if the last item was an event, not an error.
    pub(super) is_synced: bool,
    /// History and revision at which it began to listen.
    since: Option<(usize, i64)>,
    /// Oldest serial that may be emitted, for each node.
    oldest_allowed: BTreeMap<Key, u64>,
}

/// Returns the serial number of a record in this model; own records have none.
pub(super) fn serial(entry: &Entry) -> Option<u64> {
    entry.node.metadata.get("serial")?.parse().ok()
}

impl Listener {
    pub(super) fn new(scope: Scope, watcher: Watcher, since: Option<(usize, i64)>) -> Self {
        let nodes = NodeSet::default();
        Self {
            scope,
            watcher,
            nodes,
            is_synced: false,
            since,
            oldest_allowed: BTreeMap::new(),
        }
    }

    /// Receives all pending events.
    pub(super) fn receive(&mut self, write_log: &WriteLog) {
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(item) = Pin::new(&mut self.watcher).poll_next(&mut cx) {
            match item.expect("a watcher does not end by itself") {
                Ok(event) => {
                    self.is_synced = true;
                    self.check_contract(&event, write_log);
                    self.nodes.apply(event);
                }
                Err(_) => self.is_synced = false,
            }
        }
    }

    /// Allows older records, since a serializable list may be emitted.
    pub(super) fn allow_older(&mut self) {
        self.since = None;
    }

    fn check_contract(&mut self, event: &Event, write_log: &WriteLog) {
        match event {
            Event::Reset(entries) => self.reset(entries, write_log),
            Event::Created(entry) => {
                assert_eq!(self.nodes.get(&entry.key()), None, "created twice");
                self.check_not_older(entry, write_log);
            }
            Event::Updated(entry) => {
                let known = self.nodes.get(&entry.key());
                assert!(
                    known.is_some_and(|known| known != entry),
                    "{entry:?} is not a change of {known:?}"
                );
                self.check_not_older(entry, write_log);
            }
            Event::Deleted(key) => {
                let known = self
                    .nodes
                    .get(key)
                    .unwrap_or_else(|| panic!("{key:?} is deleted, and was not there"));
                assert!(
                    write_log.is_unreliable
                        || known.node.is_leaving()
                        || !write_log.marked_leaving_after(key, serial(known)),
                    "{key:?} left, and its mark was not emitted"
                );
                if let Some(serial) = serial(known) {
                    self.oldest_allowed.insert(key.clone(), serial + 1);
                }
            }
        }
    }

    fn reset(&mut self, entries: &[Entry], write_log: &WriteLog) {
        entries
            .iter()
            .for_each(|entry| self.check_not_older(entry, write_log));
        let Some((history, revision)) = self.since.take() else {
            return;
        };
        if !write_log.is_unreliable && history == write_log.history {
            for (key, oldest) in write_log.records_at(&self.scope, revision) {
                let emitted = entries
                    .iter()
                    .find(|entry| entry.key() == key)
                    .and_then(serial);
                assert!(
                    emitted.map_or(write_log.deleted_since(&key, revision), |emitted| emitted
                        >= oldest),
                    "{key:?} was at {oldest} when {:?} subscribed, and is emitted at {emitted:?}",
                    self.scope
                );
            }
        }
    }

    fn check_not_older(&mut self, entry: &Entry, write_log: &WriteLog) {
        let Some(serial) = serial(entry) else { return };
        let oldest_allowed = self.oldest_allowed.entry(entry.key()).or_default();
        assert!(
            write_log.is_unreliable || write_log.is_unsettled || serial >= *oldest_allowed,
            "{entry:?} is older than an emitted record: {oldest_allowed}"
        );
        *oldest_allowed = serial;
    }
}
