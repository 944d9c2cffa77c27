//! Faults, and the conditions that must hold after their end.

use std::collections::HashSet;
use std::time::Duration;

use waypost_core::registry::NodeSet;

use super::etcd::{Behavior, MEMBERS};
use super::simulation::{Counts, Simulation};
use crate::error::EtcdError;

impl Simulation {
    pub(super) fn break_stream(&mut self) {
        self.log("the stream breaks");
        self.reset_stream("reset");
    }

    /// The stream delivers nothing, without an error.
    pub(super) fn mute_stream(&mut self) {
        if let Some(stream) = &mut self.stream {
            stream.is_mute = true;
            self.log("the stream is mute");
        }
    }

    pub(super) fn compact(&mut self) {
        if self.alive && !self.paused {
            let revision = self.etcd.revision;
            self.etcd.compacted = revision - self.rng.i64(0..5).min(revision - self.etcd.compacted);
            self.log(format!("compacted at {}", self.etcd.compacted));
        }
    }

    pub(super) fn cancel_one(&mut self) {
        if let Some(stream) = &mut self.stream {
            let reason = self
                .rng
                .choice(["", "etcdserver: no leader", "etcdserver: permission denied"])
                .expect("there is one");
            stream.cancel_one(reason, &mut self.rng);
            self.log(format!("a watch is cancelled: {reason:?}"));
            self.serve();
        }
    }

    pub(super) fn restart(&mut self) {
        self.log("restarted");
        self.etcd.term += 1;
        self.revive();
        self.reset_stream("restarted");
    }

    /// Starts another history, with a revision below or above the old one.
    pub(super) fn wipe(&mut self) {
        let revision = match self.rng.u32(..3) {
            0 => 1,
            1 => self.rng.i64(1..=self.etcd.revision),
            _ => self.etcd.revision + self.rng.i64(0..200),
        };
        self.revive();
        self.reset_stream("wiped");
        self.etcd.wipe(revision);
        if self.rng.u32(..4) == 0 {
            self.etcd.cluster += 1;
        }
        self.excused = true;
        self.settles = self.now + super::RECOVERY;
        self.write_log.history = self.etcd.histories;
        self.log(format!("wiped; it is at {revision}"));
    }

    pub(super) fn pause(&mut self) {
        self.log("paused");
        self.paused = true;
    }

    pub(super) fn kill(&mut self) {
        self.log("killed");
        self.alive = false;
        self.reset_stream("killed");
    }

    pub(super) fn revive(&mut self) {
        if !self.alive || self.paused {
            self.log("revived");
        }
        if let Some(stream) = self.stream.as_mut().filter(|stream| stream.is_dialing) {
            stream.is_dialing = false;
            self.breaks = None;
        }
        (self.alive, self.paused) = (true, false);
        self.serve();
    }

    /// Partitions a member from the others, so that it keeps its old state, or lets it catch up.
    pub(super) fn lag(&mut self) {
        let member = self.rng.usize(..MEMBERS);
        self.etcd.lags[member] ^= true;
        self.excused = true;
        self.log(format!("member {member} lags: {}", self.etcd.lags[member]));
        self.etcd.catch_up();
        self.serve();
    }

    pub(super) fn refuse(&mut self) {
        let reasons = [
            None,
            Some("etcdserver: permission denied"),
            Some("rpc error: etcdserver: invalid auth token"),
        ];
        self.behavior.refuses = self.rng.choice(reasons).expect("there is one");
        self.log(format!("watches are refused: {:?}", self.behavior.refuses));
    }

    pub(super) fn elect(&mut self) {
        self.log("another leader");
        self.etcd.term += 1;
    }

    pub(super) fn repeat_events(&mut self) {
        if let Some(stream) = &mut self.stream {
            stream.repeat_events(&self.etcd, &mut self.rng);
            self.log("a watch repeats its events");
            self.serve();
        }
    }

    pub(super) fn lose_events(&mut self) {
        self.log("the next events are lost");
        (
            self.behavior.loses_events,
            self.events_lost,
            self.write_log.is_unreliable,
            self.excused,
        ) = (true, true, true, true);
    }

    pub(super) fn read_stale(&mut self) {
        self.log("the next list is stale");
        (self.stale, self.write_log.is_unreliable, self.excused) = (true, true, true);
    }

    pub(super) fn change_behavior(&mut self) {
        let Behavior {
            loses_events,
            refuses,
            ..
        } = self.behavior;
        let old = self.rng.u32(..4) == 0;
        let falls_behind = self.rng.choice([0, 0, 10, 50]).expect("there is one");
        let fragments = self.rng.choice([0, 50, 100]).expect("there is one");
        self.excused |= old || falls_behind > 0;
        self.behavior = Behavior {
            old,
            falls_behind,
            fragments,
            loses_events,
            refuses,
        };
        self.log(format!("{:?}", self.behavior));
    }

    pub(super) fn end_faults(&mut self) {
        self.revive();
        self.behavior = Behavior {
            fragments: self.behavior.fragments,
            ..Behavior::default()
        };
        self.etcd.lags = [false; MEMBERS];
        self.stale = false;
        self.etcd.catch_up();
        self.serve();
    }

    /// Every listener has the records of etcd, byte for byte, and own records are in etcd.
    pub(super) fn check_converged(&self) {
        for listener in &self.listeners {
            let range = self.records.key_space().range(listener.scope.as_deref());
            let found = self.etcd.list(&range.key, &range.end, self.etcd.revision);
            let is_current = NodeSet::from_iter(self.records.entries(&found, &mut HashSet::new()));
            assert!(
                listener.is_synced,
                "{}: the error of {:?} was not cleared",
                self.time(),
                listener.scope
            );
            let differs = listener.nodes.events_to(&is_current);
            assert_eq!(
                differs,
                [],
                "{}: the node set of {:?} differs from the records",
                self.time(),
                listener.scope
            );
            for entry in &listener.nodes {
                let kv = self
                    .etcd
                    .get(&self.records.key_space().key(&entry.key()))
                    .expect("the record exists");
                assert_eq!(
                    entry.to_service().to_json().into_bytes(),
                    kv.value,
                    "the same bytes"
                );
            }
        }
        for own_record in self.own_records.values() {
            let found = self
                .etcd
                .get(&self.records.key_space().key(&own_record.key));
            assert_eq!(
                found.map(|kv| kv.value),
                Some(own_record.record.clone().into_bytes()),
                "{} is ours",
                own_record.key.id
            );
        }
        assert!(
            self.excused || self.missed == 0,
            "{} changes were taken for missed",
            self.missed
        );
    }

    /// No stream is opened, and only periodic lists and reads occur.
    pub(super) fn stays_idle(&mut self, duration: Duration) {
        self.total = Counts::default();
        self.run(duration);
        let Counts {
            streams,
            lists,
            reads,
            ..
        } = self.total;
        let (removable, own_record) = (self.machine.removable().count(), self.own_records.len());
        assert_eq!(streams, 0, "streams are opened while idle");
        assert!(
            lists as usize <= removable,
            "{lists} lists while idle, for {removable} scopes"
        );
        assert!(
            reads as usize <= own_record,
            "{reads} reads while idle, for {own_record} own records"
        );
        self.check_converged();
    }

    fn reset_stream(&mut self, why: &str) {
        if let Some(stream) = self.stream.as_mut().filter(|_| self.breaks.is_none()) {
            stream.lose_member(&mut self.rng);
            self.breaks = Some((
                self.now + Duration::from_millis(1),
                EtcdError::Transport(why.to_owned()),
            ));
        }
    }
}
