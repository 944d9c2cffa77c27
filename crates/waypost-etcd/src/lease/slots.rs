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
    asked: AtomicBool,
    granted: OnceCell<()>,
}

impl Default for Lease {
    fn default() -> Self {
        Self {
            id: fastrand::i64(1..),
            asked: AtomicBool::new(false),
            granted: OnceCell::new(),
        }
    }
}

impl Lease {
    /// Returns the id. The first caller grants the lease, and the others wait.
    pub(crate) async fn get<E, F>(&self, grant: impl FnOnce(i64) -> F) -> Result<i64, E>
    where
        F: Future<Output = Result<(), E>>,
    {
        let ask = || {
            self.asked.store(true, Relaxed);
            grant(self.id)
        };
        self.granted.get_or_try_init(ask).await.map(|()| self.id)
    }

    /// Marks the lease as granted.
    #[cfg(test)]
    pub(crate) fn grant_now(&self) -> i64 {
        self.asked.store(true, Relaxed);
        let _ = self.granted.set(());
        self.id
    }

    /// Returns the id, if the lease may exist in etcd.
    fn may_live(&self) -> Option<i64> {
        self.asked.load(Relaxed).then_some(self.id)
    }
}

/// Leases of a process: for each ttl in seconds a numbered list, in which no lease holds two nodes
/// of one service.
#[derive(Debug, Default)]
pub(crate) struct Slots(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    slots: Places,
    /// Leases no longer used and not known to have ended, each with the time by which it has
    /// expired.
    unused: Vec<(Instant, i64)>,
}

type Places = BTreeMap<(i64, usize), Slot>;

#[derive(Debug, Default)]
struct Slot {
    lease: Arc<Lease>,
    keys: BTreeSet<Key>,
}

/// Assignment of a record to a lease.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    slot: (i64, usize),
    pub(crate) lease: Arc<Lease>,
}

impl Held {
    /// Returns the lease's ttl in seconds.
    pub(crate) fn seconds(&self) -> i64 {
        self.slot.0
    }

    /// Returns the lease's id, if it was granted.
    pub(crate) fn id(&self) -> Option<i64> {
        self.lease.granted.initialized().then_some(self.lease.id)
    }
}

impl Slots {
    /// Returns the lease of a record: the one it has, or the first of this ttl that holds no other
    /// node of its service. A record whose ttl changes moves to another lease. If its old lease is
    /// then empty, the second value is the id to revoke.
    pub(crate) fn hold(&self, now: Instant, key: &Key, seconds: i64) -> (Held, Option<i64>) {
        let mut state = self.lock();
        let mut orphan = None;
        if let Some(place) = place_of(&state.slots, key) {
            if place.0 == seconds {
                return (
                    Held {
                        slot: place,
                        lease: Arc::clone(&state.slots[&place].lease),
                    },
                    None,
                );
            }
            orphan = state.take_out(now, place, key);
        }
        let slots = &mut state.slots;
        let first = Key {
            service: key.service.clone(),
            id: String::new(),
        };
        let holds_service = |slot: &Slot| {
            slot.keys
                .range(&first..)
                .next()
                .is_some_and(|held| held.service == key.service)
        };
        let free = (0..).find(|number| {
            slots
                .get(&(seconds, *number))
                .is_none_or(|slot| !holds_service(slot))
        });
        let place = (seconds, free.unwrap_or_default());
        let slot = slots.entry(place).or_default();
        slot.keys.insert(key.clone());
        (
            Held {
                slot: place,
                lease: Arc::clone(&slot.lease),
            },
            orphan,
        )
    }

    /// Removes a record. Returns the id to revoke if its lease is now empty.
    pub(crate) fn release(&self, now: Instant, key: &Key) -> Option<i64> {
        let mut state = self.lock();
        let place = place_of(&state.slots, key)?;
        state.take_out(now, place, key)
    }

    /// Forgets a revoked lease.
    pub(crate) fn ended(&self, id: i64) {
        self.lock().unused.retain(|(_, unused)| *unused != id);
    }

    /// Replaces a lease that is gone: the next record gets a new one.
    pub(crate) fn lost(&self, held: &Held) {
        self.lock().renew(held);
    }

    /// Replaces a lease that must not be used any more. Its records move to the new one, each at
    /// its next heartbeat, and the old one expires.
    pub(crate) fn replace(&self, now: Instant, held: &Held) {
        let mut state = self.lock();
        if state.renew(held) {
            state.leave(now, held.seconds(), held.id());
        }
    }

    /// Returns all leases that may exist, and forgets them.
    pub(crate) fn drain(&self) -> Vec<i64> {
        let State { slots, unused } = std::mem::take(&mut *self.lock());
        let asked = slots.into_values().filter_map(|slot| slot.lease.may_live());
        asked.chain(unused.into_iter().map(|(_, id)| id)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn place_of(slots: &Places, key: &Key) -> Option<(i64, usize)> {
    slots
        .iter()
        .find(|(_, slot)| slot.keys.contains(key))
        .map(|(place, _)| *place)
}

impl State {
    /// Replaces this lease by a new one. Returns false if it was replaced already.
    fn renew(&mut self, held: &Held) -> bool {
        let slot = self
            .slots
            .get_mut(&held.slot)
            .filter(|slot| Arc::ptr_eq(&slot.lease, &held.lease));
        slot.map(|slot| slot.lease = Arc::default()).is_some()
    }

    fn take_out(&mut self, now: Instant, place: (i64, usize), key: &Key) -> Option<i64> {
        let slot = self.slots.get_mut(&place)?;
        slot.keys.remove(key);
        if !slot.keys.is_empty() {
            return None;
        }
        let id = self.slots.remove(&place)?.lease.may_live();
        self.leave(now, place.0, id);
        id
    }

    /// Remembers an unused lease until it has expired: the caller that revokes it may be dropped
    /// before it completes.
    fn leave(&mut self, now: Instant, seconds: i64, id: Option<i64>) {
        let ttl = Duration::from_secs(seconds.unsigned_abs());
        self.unused.retain(|(until, _)| now < *until);
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
        let slots = Slots::default();
        let place = |service, id, seconds| {
            slots
                .hold(Instant::now(), &key(service, id), seconds)
                .0
                .slot
        };
        assert_eq!(place("a", "1", 15), (15, 0));
        assert_eq!(place("b", "1", 15), (15, 0));
        assert_eq!(place("a", "2", 15), (15, 1));
        assert_eq!(place("a", "2", 15), (15, 1), "it stays where it is");
        assert_eq!(place("a", "3", 30), (30, 0));
        assert_eq!(slots.release(Instant::now(), &key("a", "1")), None);
        assert_eq!(place("a", "4", 15), (15, 0), "a place that is free is used");
    }

    /// Grants the lease, as etcd does.
    async fn granted(held: &Held) -> i64 {
        held.lease.get(async |_| Ok::<_, ()>(())).await.unwrap()
    }

    #[tokio::test]
    async fn a_lease_goes_with_its_last_record() {
        let slots = Slots::default();
        let (held, _) = slots.hold(Instant::now(), &key("a", "1"), 15);
        slots.hold(Instant::now(), &key("b", "1"), 15);
        let id = granted(&held).await;
        assert_eq!(slots.release(Instant::now(), &key("a", "1")), None);
        assert_eq!(slots.release(Instant::now(), &key("b", "1")), Some(id));
        assert_eq!(slots.release(Instant::now(), &key("b", "1")), None);
        assert_eq!(slots.hold(Instant::now(), &key("b", "1"), 15).0.id(), None);
    }

    #[tokio::test]
    async fn a_grant_whose_answer_was_lost_is_asked_for_by_the_same_id_or_revoked() {
        let slots = Slots::default();
        let (held, _) = slots.hold(Instant::now(), &key("a", "1"), 15);
        assert_eq!(slots.drain(), [0; 0], "nobody has asked for it");
        let (held, lost) = (slots.hold(Instant::now(), &key("a", "1"), 15).0, held);
        let first = Mutex::new(0);
        let answer = held.lease.get(async |id| {
            *first.lock().unwrap() = id;
            Err("lost")
        });
        assert_eq!((answer.await, held.id()), (Err("lost"), None));
        assert_eq!(granted(&held).await, *first.lock().unwrap());
        assert_ne!(lost.lease.id, held.lease.id, "each place has its own");
        let (other, _) = slots.hold(Instant::now(), &key("a", "2"), 15);
        let _ = other.lease.get(async |_| Err::<(), _>("lost")).await;
        assert_eq!(
            slots.release(Instant::now(), &key("a", "2")),
            Some(other.lease.id)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_was_to_be_revoked_is_known_until_it_was() {
        let slots = Slots::default();
        let (held, _) = slots.hold(Instant::now(), &key("a", "1"), 15);
        let id = granted(&held).await;
        assert_eq!(slots.release(Instant::now(), &key("a", "1")), Some(id));
        assert_eq!(slots.drain(), [id], "who was to revoke it was dropped");
        let (held, _) = slots.hold(Instant::now(), &key("a", "1"), 15);
        let id = granted(&held).await;
        slots.release(Instant::now(), &key("a", "1"));
        slots.ended(id);
        assert_eq!(slots.drain(), [0; 0]);
    }

    #[tokio::test]
    async fn another_ttl_is_another_lease() {
        let slots = Slots::default();
        let (held, _) = slots.hold(Instant::now(), &key("a", "1"), 15);
        let id = granted(&held).await;
        let (held, orphan) = slots.hold(Instant::now(), &key("a", "1"), 30);
        assert_eq!((held.seconds(), held.id(), orphan), (30, None, Some(id)));
    }

    #[tokio::test]
    async fn a_lost_lease_is_not_lost_twice() {
        let slots = Slots::default();
        let (old, _) = slots.hold(Instant::now(), &key("a", "1"), 15);
        granted(&old).await;
        slots.lost(&old);
        let (new, _) = slots.hold(Instant::now(), &key("a", "1"), 15);
        let id = granted(&new).await;
        slots.lost(&old);
        assert_eq!(
            slots.hold(Instant::now(), &key("a", "1"), 15).0.id(),
            Some(id)
        );
        assert_eq!(slots.drain(), [id]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_replaced_lease_is_known_until_it_has_run_out() {
        let slots = Slots::default();
        let now = Instant::now();
        let (first, _) = slots.hold(Instant::now(), &key("a", "1"), 15);
        granted(&first).await;
        slots.replace(now, &first);
        let (second, _) = slots.hold(Instant::now(), &key("a", "1"), 15);
        assert_eq!(second.id(), None);
        let id = granted(&second).await;
        slots.replace(now + Duration::from_secs(31), &second);
        assert_eq!(slots.drain(), [id]);
    }
}
