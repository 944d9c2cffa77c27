//! Own records, maintained like the real owner does: a heartbeat uses a barrier, and reads the
//! record if that fails.

use std::time::Duration;

use tokio::time::Instant;
use waypost_core::record::{Entry, Key, Node, Service};
use waypost_core::registry::Instance;

use super::truth::What;
use super::world::World;
use crate::lease::{Held, Slots};
use crate::ledger::{Ledger, Settled};
use crate::watch::step::Event;
use crate::wire::KeyValue;

pub(super) const INTERVAL: Duration = Duration::from_secs(5);
const BARRIER: Duration = Duration::from_millis(500);
const SECONDS: i64 = 15;

#[derive(Debug)]
pub(super) struct Owned {
    pub(super) key: Key,
    pub(super) record: String,
    instance: Instance,
    held: Held,
    lease: i64,
    /// History in which the lease was granted.
    pub(super) leased_in: usize,
    pub(super) doing: Doing,
    pub(super) at: Instant,
}

/// Step of a heartbeat. Each ends at [`Owned::at`], or with the event that it waits for.
#[derive(Debug)]
pub(super) enum Doing {
    Resting,
    /// The barrier is in flight.
    Asking,
    /// The record is being read.
    Reading,
    /// The read is done, and its response is in flight.
    Read(Option<KeyValue>),
    /// The record is being written over this revision.
    Writing(i64),
    /// The write is done, and its response is in flight: its revision, or none if the record had
    /// changed.
    Written(Option<i64>),
}

impl Owned {
    pub(super) fn new(now: Instant, entry: &Entry, instance: Instance, slots: &Slots) -> Self {
        let (held, _) = slots.hold(now, &entry.key(), SECONDS);
        // Shared or not, the lease is granted.
        let lease = held.lease.grant_now();
        Self {
            key: entry.key(),
            record: entry.to_service().to_json(),
            instance,
            held,
            lease,
            leased_in: 0,
            doing: Doing::Resting,
            at: now,
        }
    }

    pub(super) fn stands(&self, now: Instant, ledger: &Ledger) -> bool {
        ledger
            .standing(now, &self.key, &self.instance, &self.record, SECONDS)
            .is_some()
    }

    pub(super) fn settle(&self, now: Instant, ledger: &Ledger, revision: i64) {
        let settled = Settled {
            instance: self.instance.clone(),
            record: self.record.clone(),
            held: self.held.clone(),
            lease: self.lease,
            revision,
        };
        ledger.settle(now, &self.key, settled);
    }

    pub(super) fn go_on(&mut self, doing: Doing, at: Instant) {
        (self.doing, self.at) = (doing, at);
    }
}

impl World {
    pub(super) fn own(&mut self) {
        let id = format!("own-{}", self.rng.u32(..4));
        let key = Key {
            service: "a".to_owned(),
            id,
        };
        if self.owned.contains_key(&key) {
            return;
        }
        self.tell(format!("own {}", key.id));
        let mut service = Service::new("a");
        service.nodes.push(Node {
            id: key.id.clone(),
            address: "h:2".into(),
            ..Node::default()
        });
        let entry = service.entries().remove(0);
        let owned = Owned::new(self.now, &entry, Instance::from("ours"), &self.slots);
        self.owned.insert(key, owned);
    }

    pub(super) fn disown_one(&mut self) {
        let Some(key) = self
            .rng
            .choice(self.owned.keys().cloned().collect::<Vec<_>>())
        else {
            return;
        };
        if !self.alive || self.paused {
            return;
        }
        self.tell(format!("disown {}", key.id));
        self.owned.remove(&key);
        self.commit(vec![(key.clone(), None, What::Nothing)]);
        if self.ledger.drop_claim(&key) {
            self.step(Event::Disown(key));
        }
    }

    /// Overwrites or deletes an own record.
    pub(super) fn meddle(&mut self) {
        let Some(key) = self
            .rng
            .choice(self.owned.keys().cloned().collect::<Vec<_>>())
        else {
            return;
        };
        if self.alive && !self.paused {
            let value = self.rng.bool().then(|| b"garbage".to_vec());
            self.commit(vec![(key, value, What::Nothing)]);
        }
    }

    pub(super) fn asked(&mut self, key: &Key, heard: bool) {
        let now = self.now;
        let Some(owned) = self
            .owned
            .get_mut(key)
            .filter(|owned| matches!(owned.doing, Doing::Asking))
        else {
            return;
        };
        match heard && owned.stands(now, &self.ledger) {
            true => owned.go_on(Doing::Resting, now + INTERVAL),
            false => self.look(&key.clone()),
        }
    }

    fn look(&mut self, key: &Key) {
        let at = self.now + Duration::from_millis(self.rng.u64(1..5));
        self.ledger.look(key);
        if let Some(owned) = self.owned.get_mut(key) {
            owned.go_on(Doing::Reading, at);
        }
    }

    pub(super) fn owner_goes_on(&mut self) {
        let (key, owned) = self
            .owned
            .iter_mut()
            .find(|(_, owned)| owned.at <= self.now)
            .expect("an owner is due");
        let (key, now, served) = (key.clone(), self.now, self.alive && !self.paused);
        let later = now + Duration::from_millis(self.rng.u64(1..5));
        let path = self.records.space().key(&key);
        match std::mem::replace(&mut owned.doing, Doing::Resting) {
            // The lease is kept alive meanwhile, unless it is gone.
            Doing::Resting
                if owned.stands(now, &self.ledger) && owned.leased_in == self.etcd.histories =>
            {
                owned.go_on(Doing::Asking, now + BARRIER);
                self.waiting.push(key);
                self.step(Event::Barrier);
            }
            Doing::Resting | Doing::Asking => self.look(&key),
            Doing::Reading | Doing::Writing(_) if !served => {
                owned.go_on(
                    Doing::Resting,
                    now + Duration::from_millis(self.rng.u64(50..1_000)),
                );
            }
            Doing::Reading => {
                self.total.reads += 1;
                owned.go_on(Doing::Read(self.etcd.get(&path)), later);
            }
            Doing::Read(Some(kv)) if kv.value == owned.record.as_bytes() => {
                self.settled(&key, kv.mod_revision);
            }
            Doing::Read(found) => {
                owned.go_on(Doing::Writing(found.map_or(0, |kv| kv.mod_revision)), later);
            }
            Doing::Writing(expected) => {
                let found = self.etcd.get(&path).map_or(0, |kv| kv.mod_revision);
                let record = owned.record.clone().into_bytes();
                owned.go_on(Doing::Written(None), later);
                owned.leased_in = self.etcd.histories;
                if found == expected {
                    self.commit(vec![(key.clone(), Some(record), What::Nothing)]);
                    let revision = self.etcd.revision;
                    self.owned.get_mut(&key).expect("it is owned").doing =
                        Doing::Written(Some(revision));
                }
            }
            Doing::Written(Some(revision)) => self.settled(&key, revision),
            Doing::Written(None) => self.look(&key),
        }
    }

    fn settled(&mut self, key: &Key, revision: i64) {
        let now = self.now;
        let Some(owned) = self.owned.get_mut(key) else {
            return;
        };
        owned.settle(now, &self.ledger, revision);
        owned.go_on(Doing::Resting, now + INTERVAL);
        self.step(Event::Own(key.clone(), revision));
    }
}
