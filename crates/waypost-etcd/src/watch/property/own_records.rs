//! Own records, maintained as by the record writer: a heartbeat uses a barrier, and reads the
//! record if that fails.

use std::time::Duration;

use tokio::time::Instant;
use waypost_core::record::{Entry, Key, Node, Service};
use waypost_core::registry::Instance;

use super::etcd::MEMBERS;
use super::simulation::Simulation;
use super::write_log::WriteKind;
use crate::claims::{Claims, Written};
use crate::lease::{LeaseRef, LeaseTable};
use crate::rpc::KeyValue;
use crate::watch::machine::WatchInput;

pub(super) const INTERVAL: Duration = Duration::from_secs(5);
const BARRIER: Duration = Duration::from_millis(500);
const SECONDS: i64 = 15;

#[derive(Debug)]
pub(super) struct OwnRecord {
    pub(super) key: Key,
    pub(super) record: String,
    instance: Instance,
    lease_ref: LeaseRef,
    lease: i64,
    /// History in which the lease was granted.
    pub(super) leased_in: usize,
    pub(super) state: HeartbeatState,
    pub(super) at: Instant,
}

/// Step of a heartbeat. Each ends at [`OwnRecord::at`], or with the event that it waits for.
#[derive(Debug)]
pub(super) enum HeartbeatState {
    Idle,
    /// The barrier is in flight.
    Barrier,
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

impl OwnRecord {
    pub(super) fn new(
        now: Instant,
        entry: &Entry,
        instance: Instance,
        lease_table: &LeaseTable,
    ) -> Self {
        let (lease_ref, _) = lease_table.assign(now, &entry.key(), SECONDS);
        // Shared or not, the lease is granted.
        let lease = lease_ref.lease.mark_granted();
        Self {
            key: entry.key(),
            record: entry.to_service().to_json(),
            instance,
            lease_ref,
            lease,
            leased_in: 0,
            state: HeartbeatState::Idle,
            at: now,
        }
    }

    pub(super) fn is_current(&self, now: Instant, claims: &Claims) -> bool {
        claims
            .current(now, &self.key, &self.instance, &self.record, SECONDS)
            .is_some()
    }

    pub(super) fn confirm(&self, now: Instant, claims: &Claims, revision: i64) {
        let confirmed = Written {
            instance: self.instance.clone(),
            record: self.record.clone(),
            lease_ref: self.lease_ref.clone(),
            lease: self.lease,
            revision,
        };
        claims.confirm(now, &self.key, confirmed);
    }

    pub(super) fn set_state(&mut self, state: HeartbeatState, at: Instant) {
        (self.state, self.at) = (state, at);
    }
}

impl Simulation {
    pub(super) fn add_own_record(&mut self) {
        let id = format!("own-{}", self.rng.u32(..4));
        let key = Key {
            service: "a".to_owned(),
            id,
        };
        if self.own_records.contains_key(&key) {
            return;
        }
        self.log(format!("own {}", key.id));
        let mut service = Service::new("a");
        service.nodes.push(Node {
            id: key.id.clone(),
            address: "h:2".into(),
            ..Node::default()
        });
        let entry = service.entries().remove(0);
        let own_record =
            OwnRecord::new(self.now, &entry, Instance::from("ours"), &self.lease_table);
        self.own_records.insert(key, own_record);
    }

    pub(super) fn remove_own_record(&mut self) {
        let Some(key) = self
            .rng
            .choice(self.own_records.keys().cloned().collect::<Vec<_>>())
        else {
            return;
        };
        if !self.alive || self.paused {
            return;
        }
        self.log(format!("disown {}", key.id));
        self.own_records.remove(&key);
        self.commit(vec![(key.clone(), None, WriteKind::Nothing)]);
        if self.claims.remove(&key) {
            self.step(WatchInput::RemoveOwnKey(key));
        }
    }

    /// Overwrites or deletes an own record.
    pub(super) fn overwrite_own_record(&mut self) {
        let Some(key) = self
            .rng
            .choice(self.own_records.keys().cloned().collect::<Vec<_>>())
        else {
            return;
        };
        if self.alive && !self.paused {
            let value = self.rng.bool().then(|| b"garbage".to_vec());
            self.commit(vec![(key, value, WriteKind::Nothing)]);
        }
    }

    pub(super) fn on_barrier(&mut self, key: &Key, passed: bool) {
        let now = self.now;
        let Some(own_record) = self
            .own_records
            .get_mut(key)
            .filter(|own_record| matches!(own_record.state, HeartbeatState::Barrier))
        else {
            return;
        };
        match passed && own_record.is_current(now, &self.claims) {
            true => own_record.set_state(HeartbeatState::Idle, now + INTERVAL),
            false => self.begin_read(&key.clone()),
        }
    }

    fn begin_read(&mut self, key: &Key) {
        let at = self.now + Duration::from_millis(self.rng.u64(1..5));
        self.claims.begin_read(key);
        if let Some(own_record) = self.own_records.get_mut(key) {
            own_record.set_state(HeartbeatState::Reading, at);
        }
    }

    pub(super) fn step_own_record(&mut self) {
        let (key, own_record) = self
            .own_records
            .iter_mut()
            .find(|(_, own_record)| own_record.at <= self.now)
            .expect("an own record is due");
        let (key, now, served) = (key.clone(), self.now, self.alive && !self.paused);
        let later = now + Duration::from_millis(self.rng.u64(1..5));
        let path = self.records.key_space().key(&key);
        match std::mem::replace(&mut own_record.state, HeartbeatState::Idle) {
            // The lease is kept alive meanwhile, unless it is gone.
            HeartbeatState::Idle
                if own_record.is_current(now, &self.claims)
                    && own_record.leased_in == self.etcd.histories =>
            {
                own_record.set_state(HeartbeatState::Barrier, now + BARRIER);
                let member = self.rng.usize(..MEMBERS);
                let header = self.etcd.header(self.etcd.applied(member));
                let header = header.expect("etcd sends a header");
                self.barriers.push((header.revision, key));
                self.step(WatchInput::Barrier(header));
            }
            HeartbeatState::Idle | HeartbeatState::Barrier => self.begin_read(&key),
            HeartbeatState::Reading | HeartbeatState::Writing(_) if !served => {
                own_record.set_state(
                    HeartbeatState::Idle,
                    now + Duration::from_millis(self.rng.u64(50..1_000)),
                );
            }
            HeartbeatState::Reading => {
                self.total.reads += 1;
                own_record.set_state(HeartbeatState::Read(self.etcd.get(&path)), later);
            }
            HeartbeatState::Read(Some(kv)) if kv.value == own_record.record.as_bytes() => {
                self.confirmed(&key, kv.mod_revision);
            }
            HeartbeatState::Read(found) => {
                own_record.set_state(
                    HeartbeatState::Writing(found.map_or(0, |kv| kv.mod_revision)),
                    later,
                );
            }
            HeartbeatState::Writing(expected) => {
                let found = self.etcd.get(&path).map_or(0, |kv| kv.mod_revision);
                let record = own_record.record.clone().into_bytes();
                own_record.set_state(HeartbeatState::Written(None), later);
                own_record.leased_in = self.etcd.histories;
                if found == expected {
                    self.commit(vec![(key.clone(), Some(record), WriteKind::Nothing)]);
                    let revision = self.etcd.revision;
                    self.own_records
                        .get_mut(&key)
                        .expect("it is registered")
                        .state = HeartbeatState::Written(Some(revision));
                }
            }
            HeartbeatState::Written(Some(revision)) => self.confirmed(&key, revision),
            HeartbeatState::Written(None) => self.begin_read(&key),
        }
    }

    fn confirmed(&mut self, key: &Key, revision: i64) {
        let now = self.now;
        let Some(own_record) = self.own_records.get_mut(key) else {
            return;
        };
        own_record.confirm(now, &self.claims, revision);
        own_record.set_state(HeartbeatState::Idle, now + INTERVAL);
        self.step(WatchInput::AddOwnKey(key.clone(), revision));
    }
}
