//! Which record is on which lease.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OnceCell;
use waypost_core::record::Key;

/// A place for one lease, filled by the first who needs it.
pub(crate) type Lease = Arc<OnceCell<i64>>;

/// The leases of a process: for each ttl in seconds the first, the second, …; none holds two nodes of one service.
#[derive(Debug, Default)]
pub(crate) struct Slots(Mutex<BTreeMap<(i64, usize), Slot>>);

#[derive(Debug, Default)]
struct Slot {
    lease: Lease,
    keys: BTreeSet<Key>,
}

/// A record's place on a lease.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    slot: (i64, usize),
    pub(crate) lease: Lease,
}

impl Held {
    /// The lease's ttl, in seconds.
    pub(crate) fn seconds(&self) -> i64 {
        self.slot.0
    }

    /// The lease, if it was granted.
    pub(crate) fn id(&self) -> Option<i64> {
        self.lease.get().copied()
    }
}

impl Slots {
    /// The place of a record: the one it has, or the first lease of this ttl that holds no other node of its service. A record that
    /// changes its ttl changes its lease; the lease it leaves empty comes second, to be revoked.
    pub(crate) fn hold(&self, key: &Key, seconds: i64) -> (Held, Option<i64>) {
        let mut slots = self.lock();
        let mut orphan = None;
        if let Some(place) = place_of(&slots, key) {
            if place.0 == seconds {
                return (Held { slot: place, lease: Arc::clone(&slots[&place].lease) }, None);
            }
            orphan = take_out(&mut slots, place, key);
        }
        let holds_service = |slot: &Slot| slot.keys.iter().any(|held| held.service == key.service);
        let free = (0..).find(|number| slots.get(&(seconds, *number)).is_none_or(|slot| !holds_service(slot)));
        let place = (seconds, free.unwrap_or_default());
        let slot = slots.entry(place).or_default();
        slot.keys.insert(key.clone());
        (Held { slot: place, lease: Arc::clone(&slot.lease) }, orphan)
    }

    /// A record is gone; the lease that held nothing else, to be revoked.
    pub(crate) fn release(&self, key: &Key) -> Option<i64> {
        let mut slots = self.lock();
        let place = place_of(&slots, key)?;
        take_out(&mut slots, place, key)
    }

    /// The lease is gone: the next who needs it gets another.
    pub(crate) fn lost(&self, held: &Held) {
        let mut slots = self.lock();
        if let Some(slot) = slots.get_mut(&held.slot).filter(|slot| Arc::ptr_eq(&slot.lease, &held.lease)) {
            slot.lease = Lease::default();
        }
    }

    /// All leases that were granted; none is known afterwards.
    pub(crate) fn drain(&self) -> Vec<i64> {
        std::mem::take(&mut *self.lock()).into_values().filter_map(|slot| slot.lease.get().copied()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(i64, usize), Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn place_of(slots: &BTreeMap<(i64, usize), Slot>, key: &Key) -> Option<(i64, usize)> {
    slots.iter().find(|(_, slot)| slot.keys.contains(key)).map(|(place, _)| *place)
}

fn take_out(slots: &mut BTreeMap<(i64, usize), Slot>, place: (i64, usize), key: &Key) -> Option<i64> {
    let slot = slots.get_mut(&place)?;
    slot.keys.remove(key);
    if !slot.keys.is_empty() {
        return None;
    }
    slots.remove(&place)?.lease.get().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(service: &str, id: &str) -> Key {
        Key { service: service.into(), id: id.into() }
    }

    #[test]
    fn services_share_a_lease_and_nodes_of_one_service_do_not() {
        let slots = Slots::default();
        let place = |service, id, seconds| slots.hold(&key(service, id), seconds).0.slot;
        assert_eq!(place("a", "1", 15), (15, 0));
        assert_eq!(place("b", "1", 15), (15, 0));
        assert_eq!(place("a", "2", 15), (15, 1));
        assert_eq!(place("a", "2", 15), (15, 1), "it stays where it is");
        assert_eq!(place("a", "3", 30), (30, 0));
        assert_eq!(slots.release(&key("a", "1")), None);
        assert_eq!(place("a", "4", 15), (15, 0), "a place that is free is used");
    }

    #[tokio::test]
    async fn a_lease_goes_with_its_last_record() {
        let slots = Slots::default();
        let (held, _) = slots.hold(&key("a", "1"), 15);
        slots.hold(&key("b", "1"), 15);
        held.lease.get_or_init(async || 7).await;
        assert_eq!(slots.release(&key("a", "1")), None);
        assert_eq!(slots.release(&key("b", "1")), Some(7));
        assert_eq!(slots.release(&key("b", "1")), None);
        assert_eq!(slots.hold(&key("b", "1"), 15).0.id(), None);
    }

    #[tokio::test]
    async fn another_ttl_is_another_lease() {
        let slots = Slots::default();
        let (held, _) = slots.hold(&key("a", "1"), 15);
        held.lease.get_or_init(async || 7).await;
        let (held, orphan) = slots.hold(&key("a", "1"), 30);
        assert_eq!((held.seconds(), held.id(), orphan), (30, None, Some(7)));
    }

    #[tokio::test]
    async fn a_lost_lease_is_not_lost_twice() {
        let slots = Slots::default();
        let (old, _) = slots.hold(&key("a", "1"), 15);
        old.lease.get_or_init(async || 7).await;
        slots.lost(&old);
        let (new, _) = slots.hold(&key("a", "1"), 15);
        new.lease.get_or_init(async || 8).await;
        slots.lost(&old);
        assert_eq!(slots.hold(&key("a", "1"), 15).0.id(), Some(8));
        assert_eq!(slots.drain(), [8]);
    }
}
