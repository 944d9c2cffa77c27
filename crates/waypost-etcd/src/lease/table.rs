//! Assignment of records to leases.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::Instant;
use waypost_core::record::Key;

/// One lease, granted to the first record that needs it.
///
/// Its id is drawn before the grant. If the response of a grant is lost, the next grant finds the
/// lease by its id, or a revoke removes it.
#[derive(Debug)]
pub(crate) struct Lease {
    id: i64,
    is_requested: AtomicBool,
    granted: OnceCell<()>,
}

impl Default for Lease {
    fn default() -> Self {
        Self {
            id: fastrand::i64(1..),
            is_requested: AtomicBool::new(false),
            granted: OnceCell::new(),
        }
    }
}

impl Lease {
    /// Returns the id. The first caller grants the lease, and the others wait.
    pub(crate) async fn get_or_grant<E, F>(&self, grant: impl FnOnce(i64) -> F) -> Result<i64, E>
    where
        F: Future<Output = Result<(), E>>,
    {
        let request = || {
            self.is_requested.store(true, Relaxed);
            grant(self.id)
        };
        self.granted
            .get_or_try_init(request)
            .await
            .map(|()| self.id)
    }

    /// Marks the lease as granted.
    #[cfg(test)]
    pub(crate) fn mark_granted(&self) -> i64 {
        self.is_requested.store(true, Relaxed);
        let _ = self.granted.set(());
        self.id
    }

    /// Returns the id, if the lease may exist in etcd.
    fn may_exist(&self) -> Option<i64> {
        self.is_requested.load(Relaxed).then_some(self.id)
    }
}

/// Leases of a process: for each ttl in seconds a numbered list, in which no lease holds two nodes
/// of one service.
#[derive(Debug, Default)]
pub(crate) struct LeaseTable(Mutex<TableState>);

#[derive(Debug, Default)]
struct TableState {
    entries: Entries,
    /// Leases no longer used and not known to have ended, each with the time by which it has
    /// expired.
    unused: Vec<(Instant, i64)>,
}

type Entries = BTreeMap<(i64, usize), LeaseEntry>;

#[derive(Debug, Default)]
struct LeaseEntry {
    lease: Arc<Lease>,
    keys: BTreeSet<Key>,
}

/// Assignment of a record to a lease.
#[derive(Clone, Debug)]
pub(crate) struct LeaseRef {
    slot: (i64, usize),
    pub(crate) lease: Arc<Lease>,
}

impl LeaseRef {
    /// Returns the lease's ttl in seconds.
    pub(crate) fn seconds(&self) -> i64 {
        self.slot.0
    }

    /// Returns the lease's id, if it was granted.
    pub(crate) fn id(&self) -> Option<i64> {
        self.lease.granted.initialized().then_some(self.lease.id)
    }
}

impl LeaseTable {
    /// Returns the lease of a record: the one it has, or the first of this ttl that holds no other
    /// node of its service. A record whose ttl changes moves to another lease. If its old lease is
    /// then empty, the second value is the id to revoke.
    pub(crate) fn assign(&self, now: Instant, key: &Key, seconds: i64) -> (LeaseRef, Option<i64>) {
        let mut state = self.lock();
        let mut unused_lease = None;
        if let Some(slot) = find(&state.entries, key) {
            if slot.0 == seconds {
                return (
                    LeaseRef {
                        slot,
                        lease: Arc::clone(&state.entries[&slot].lease),
                    },
                    None,
                );
            }
            unused_lease = state.remove(now, slot, key);
        }
        let entries = &mut state.entries;
        let first = Key {
            service: key.service.clone(),
            id: String::new(),
        };
        let has_service = |entry: &LeaseEntry| {
            entry
                .keys
                .range(&first..)
                .next()
                .is_some_and(|other| other.service == key.service)
        };
        let free = (0..).find(|number| {
            entries
                .get(&(seconds, *number))
                .is_none_or(|entry| !has_service(entry))
        });
        let slot = (seconds, free.unwrap_or_default());
        let entry = entries.entry(slot).or_default();
        entry.keys.insert(key.clone());
        (
            LeaseRef {
                slot,
                lease: Arc::clone(&entry.lease),
            },
            unused_lease,
        )
    }

    /// Removes a record. Returns the id to revoke if its lease is now empty.
    pub(crate) fn release(&self, now: Instant, key: &Key) -> Option<i64> {
        let mut state = self.lock();
        let slot = find(&state.entries, key)?;
        state.remove(now, slot, key)
    }

    /// Forgets a revoked lease.
    pub(crate) fn mark_revoked(&self, id: i64) {
        self.lock().unused.retain(|(_, unused)| *unused != id);
    }

    /// Replaces a lease that is gone: the next record gets a new one.
    pub(crate) fn replace_lost(&self, lease_ref: &LeaseRef) {
        self.lock().replace_lease(lease_ref);
    }

    /// Replaces a lease that must not be used any more. Its records move to the new one, each at
    /// its next heartbeat, and the old one expires.
    pub(crate) fn replace(&self, now: Instant, lease_ref: &LeaseRef) {
        let mut state = self.lock();
        if state.replace_lease(lease_ref) {
            state.retire(now, lease_ref.seconds(), lease_ref.id());
        }
    }

    /// Returns all leases that may exist, and forgets them.
    pub(crate) fn drain(&self) -> Vec<i64> {
        let TableState { entries, unused } = std::mem::take(&mut *self.lock());
        let assigned = entries
            .into_values()
            .filter_map(|entry| entry.lease.may_exist());
        assigned
            .chain(unused.into_iter().map(|(_, id)| id))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, TableState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn find(entries: &Entries, key: &Key) -> Option<(i64, usize)> {
    entries
        .iter()
        .find(|(_, entry)| entry.keys.contains(key))
        .map(|(slot, _)| *slot)
}

impl TableState {
    /// Replaces this lease by a new one. Returns false if it was replaced already.
    fn replace_lease(&mut self, lease_ref: &LeaseRef) -> bool {
        let entry = self
            .entries
            .get_mut(&lease_ref.slot)
            .filter(|entry| Arc::ptr_eq(&entry.lease, &lease_ref.lease));
        entry.map(|entry| entry.lease = Arc::default()).is_some()
    }

    fn remove(&mut self, now: Instant, slot: (i64, usize), key: &Key) -> Option<i64> {
        let entry = self.entries.get_mut(&slot)?;
        entry.keys.remove(key);
        if !entry.keys.is_empty() {
            return None;
        }
        let id = self.entries.remove(&slot)?.lease.may_exist();
        self.retire(now, slot.0, id);
        id
    }

    /// Remembers an unused lease until it has expired: the caller that revokes it may be dropped
    /// before it completes.
    fn retire(&mut self, now: Instant, seconds: i64, id: Option<i64>) {
        let ttl = Duration::from_secs(seconds.unsigned_abs());
        self.unused.retain(|(expiry, _)| now < *expiry);
        self.unused.extend(id.map(|id| (now + ttl * 2, id)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(service: &str, id: &str) -> Key {
        Key {
            service: service.into(),
            id: id.into(),
        }
    }

    #[test]
    fn services_share_a_lease_and_nodes_of_one_service_do_not() {
        let table = LeaseTable::default();
        let slot = |service, id, seconds| {
            table
                .assign(Instant::now(), &key(service, id), seconds)
                .0
                .slot
        };
        assert_eq!(slot("a", "1", 15), (15, 0));
        assert_eq!(slot("b", "1", 15), (15, 0));
        assert_eq!(slot("a", "2", 15), (15, 1));
        assert_eq!(slot("a", "2", 15), (15, 1), "its lease stays");
        assert_eq!(slot("a", "3", 30), (30, 0));
        assert_eq!(table.release(Instant::now(), &key("a", "1")), None);
        assert_eq!(slot("a", "4", 15), (15, 0), "a free lease is used");
    }

    /// Grants the lease, as etcd does.
    async fn granted(lease_ref: &LeaseRef) -> i64 {
        lease_ref
            .lease
            .get_or_grant(async |_| Ok::<_, ()>(()))
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn a_lease_is_revoked_with_its_last_record() {
        let table = LeaseTable::default();
        let (lease_ref, _) = table.assign(Instant::now(), &key("a", "1"), 15);
        table.assign(Instant::now(), &key("b", "1"), 15);
        let id = granted(&lease_ref).await;
        assert_eq!(table.release(Instant::now(), &key("a", "1")), None);
        assert_eq!(table.release(Instant::now(), &key("b", "1")), Some(id));
        assert_eq!(table.release(Instant::now(), &key("b", "1")), None);
        assert_eq!(
            table.assign(Instant::now(), &key("b", "1"), 15).0.id(),
            None
        );
    }

    #[tokio::test]
    async fn a_grant_whose_response_was_lost_is_repeated_with_the_same_id_or_revoked() {
        let table = LeaseTable::default();
        let (lease_ref, _) = table.assign(Instant::now(), &key("a", "1"), 15);
        assert_eq!(table.drain(), [0; 0], "it was never granted");
        let (lease_ref, lost) = (
            table.assign(Instant::now(), &key("a", "1"), 15).0,
            lease_ref,
        );
        let first = Mutex::new(0);
        let response = lease_ref.lease.get_or_grant(async |id| {
            *first.lock().unwrap() = id;
            Err("lost")
        });
        assert_eq!((response.await, lease_ref.id()), (Err("lost"), None));
        assert_eq!(granted(&lease_ref).await, *first.lock().unwrap());
        assert_ne!(lost.lease.id, lease_ref.lease.id, "each entry has its own");
        let (other, _) = table.assign(Instant::now(), &key("a", "2"), 15);
        let _ = other
            .lease
            .get_or_grant(async |_| Err::<(), _>("lost"))
            .await;
        assert_eq!(
            table.release(Instant::now(), &key("a", "2")),
            Some(other.lease.id)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_unused_lease_is_kept_until_it_is_revoked() {
        let table = LeaseTable::default();
        let (lease_ref, _) = table.assign(Instant::now(), &key("a", "1"), 15);
        let id = granted(&lease_ref).await;
        assert_eq!(table.release(Instant::now(), &key("a", "1")), Some(id));
        assert_eq!(
            table.drain(),
            [id],
            "the caller that revokes it was dropped"
        );
        let (lease_ref, _) = table.assign(Instant::now(), &key("a", "1"), 15);
        let id = granted(&lease_ref).await;
        table.release(Instant::now(), &key("a", "1"));
        table.mark_revoked(id);
        assert_eq!(table.drain(), [0; 0]);
    }

    #[tokio::test]
    async fn another_ttl_is_another_lease() {
        let table = LeaseTable::default();
        let (lease_ref, _) = table.assign(Instant::now(), &key("a", "1"), 15);
        let id = granted(&lease_ref).await;
        let (lease_ref, unused_lease) = table.assign(Instant::now(), &key("a", "1"), 30);
        assert_eq!(
            (lease_ref.seconds(), lease_ref.id(), unused_lease),
            (30, None, Some(id))
        );
    }

    #[tokio::test]
    async fn a_lost_lease_is_replaced_once() {
        let table = LeaseTable::default();
        let (old, _) = table.assign(Instant::now(), &key("a", "1"), 15);
        granted(&old).await;
        table.replace_lost(&old);
        let (new, _) = table.assign(Instant::now(), &key("a", "1"), 15);
        let id = granted(&new).await;
        table.replace_lost(&old);
        assert_eq!(
            table.assign(Instant::now(), &key("a", "1"), 15).0.id(),
            Some(id)
        );
        assert_eq!(table.drain(), [id]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_replaced_lease_is_kept_until_it_has_expired() {
        let table = LeaseTable::default();
        let now = Instant::now();
        let (first, _) = table.assign(Instant::now(), &key("a", "1"), 15);
        granted(&first).await;
        table.replace(now, &first);
        let (second, _) = table.assign(Instant::now(), &key("a", "1"), 15);
        assert_eq!(second.id(), None);
        let id = granted(&second).await;
        table.replace(now + Duration::from_secs(31), &second);
        assert_eq!(table.drain(), [id]);
    }
}
