//! Log of all writes, and queries on it.

use std::collections::BTreeMap;

use waypost_core::record::Key;

use crate::watch::Scope;

/// Log of all writes, in order.
#[derive(Debug, Default)]
pub(super) struct WriteLog {
    pub(super) history: usize,
    /// True if lists were stale, or events lost: intermediate events need not be in order.
    pub(super) is_unreliable: bool,
    /// True while revisions of two histories can be confused, until every scope has listed the new
    /// one.
    pub(super) is_unsettled: bool,
    pub(super) log: Vec<Write>,
}

#[derive(Debug)]
pub(super) struct Write {
    pub(super) history: usize,
    pub(super) revision: i64,
    pub(super) key: Key,
    pub(super) what: WriteKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WriteKind {
    Record { serial: u64, leaving: bool },
    Nothing,
}

impl WriteLog {
    /// Returns the records of others in a scope at a revision of this history.
    pub(super) fn records_at(&self, scope: &Scope, revision: i64) -> BTreeMap<Key, u64> {
        let covers = |key: &Key| {
            scope
                .as_deref()
                .is_none_or(|service| service == key.service)
        };
        let mut records = BTreeMap::new();
        for written in self
            .log
            .iter()
            .filter(|written| written.history == self.history && written.revision <= revision)
        {
            match written.what {
                WriteKind::Record { serial, .. } if covers(&written.key) => {
                    records.insert(written.key.clone(), serial);
                }
                _ => drop(records.remove(&written.key)),
            }
        }
        records
    }

    /// Returns true if a record was deleted at any later revision.
    pub(super) fn deleted_since(&self, key: &Key, revision: i64) -> bool {
        let is_gone = |written: &Write| written.key == *key && written.what == WriteKind::Nothing;
        self.log.iter().any(|written| {
            written.history == self.history && written.revision > revision && is_gone(written)
        })
    }

    /// Returns true if a node with this serial was marked as leaving later, before its deletion. A
    /// mark in an earlier history is lost with it.
    pub(super) fn marked_leaving_after(&self, key: &Key, serial: Option<u64>) -> bool {
        let of_now = |written: &&Write| written.history == self.history && written.key == *key;
        let mut states = self.log.iter().filter(of_now);
        let is_it = |written: &Write| matches!(written.what, WriteKind::Record { serial: known, .. } if Some(known) == serial);
        states.any(is_it)
            && states
                .take_while(|written| written.what != WriteKind::Nothing)
                .any(|written| matches!(written.what, WriteKind::Record { leaving: true, .. }))
    }
}
