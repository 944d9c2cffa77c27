//! Faults, and the conditions that must hold after their end.

use std::time::Duration;

use waypost_core::registry::NodeSet;

use super::etcd::{MEMBERS, Manners};
use super::world::{Counts, World};
use crate::trouble::Trouble;

impl World {
    pub(super) fn break_stream(&mut self) {
        self.tell("the stream breaks");
        self.cut_stream("reset");
    }

    /// The stream delivers nothing, without an error.
    pub(super) fn mute_stream(&mut self) {
        if let Some(stream) = &mut self.stream {
            stream.mute = true;
            self.tell("the stream is mute");
        }
    }

    pub(super) fn compact(&mut self) {
        if self.alive && !self.paused {
            let revision = self.etcd.revision;
            self.etcd.compacted = revision - self.rng.i64(0..5).min(revision - self.etcd.compacted);
            self.tell(format!("compacted at {}", self.etcd.compacted));
        }
    }

    pub(super) fn cancel_one(&mut self) {
        if let Some(stream) = &mut self.stream {
            let reason = self
                .rng
                .choice(["", "etcdserver: no leader", "etcdserver: permission denied"])
                .expect("there is one");
            stream.cancel_one(reason, &mut self.rng);
            self.tell(format!("a watch is cancelled: {reason:?}"));
            self.serve();
        }
    }

    pub(super) fn restart(&mut self) {
        self.tell("restarted");
        self.etcd.term += 1;
        self.revive();
        self.cut_stream("restarted");
    }

    /// Starts another history, with a revision below or above the old one.
    pub(super) fn wipe(&mut self) {
        let revision = match self.rng.u32(..3) {
            0 => 1,
            1 => self.rng.i64(1..=self.etcd.revision),
            _ => self.etcd.revision + self.rng.i64(0..200),
        };
        self.revive();
        self.cut_stream("wiped");
        self.etcd.wipe(revision);
        if self.rng.u32(..4) == 0 {
            self.etcd.cluster += 1;
        }
        self.excused = true;
        self.settles = self.now + super::WELL_AGAIN;
        self.truth.history = self.etcd.histories;
        self.tell(format!("wiped; it is at {revision}"));
    }

    pub(super) fn pause(&mut self) {
        self.tell("paused");
        self.paused = true;
    }

    pub(super) fn kill(&mut self) {
        self.tell("killed");
        self.alive = false;
        self.cut_stream("killed");
    }

    pub(super) fn revive(&mut self) {
        if !self.alive || self.paused {
            self.tell("revived");
        }
        if let Some(stream) = self.stream.as_mut().filter(|stream| stream.dials) {
            stream.dials = false;
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
        self.tell(format!("member {member} lags: {}", self.etcd.lags[member]));
        self.etcd.catch_up();
        self.serve();
    }

    pub(super) fn refuse(&mut self) {
        let reasons = [
            None,
            Some("etcdserver: permission denied"),
            Some("rpc error: etcdserver: invalid auth token"),
        ];
        self.manners.refuses = self.rng.choice(reasons).expect("there is one");
        self.tell(format!("watches are refused: {:?}", self.manners.refuses));
    }

    pub(super) fn elect(&mut self) {
        self.tell("another leader");
        self.etcd.term += 1;
    }

    pub(super) fn go_back(&mut self) {
        if let Some(stream) = &mut self.stream {
            stream.goes_back(&self.etcd, &mut self.rng);
            self.tell("a watch tells again what it told");
            self.serve();
        }
    }

    pub(super) fn lose_events(&mut self) {
        self.tell("the next events are lost");
        (self.manners.loses, self.lied, self.truth.lies, self.excused) = (true, true, true, true);
    }

    pub(super) fn read_stale(&mut self) {
        self.tell("the next list is stale");
        (self.stale, self.truth.lies, self.excused) = (true, true, true);
    }

    pub(super) fn change_manners(&mut self) {
        let Manners { loses, refuses, .. } = self.manners;
        let old = self.rng.u32(..4) == 0;
        let falls_behind = self.rng.choice([0, 0, 10, 50]).expect("there is one");
        let fragments = self.rng.choice([0, 50, 100]).expect("there is one");
        self.excused |= old || falls_behind > 0;
        self.manners = Manners {
            old,
            falls_behind,
            fragments,
            loses,
            refuses,
        };
        self.tell(format!("{:?}", self.manners));
    }

    pub(super) fn faults_end(&mut self) {
        self.revive();
        self.manners = Manners {
            fragments: self.manners.fragments,
            ..Manners::default()
        };
        self.etcd.lags = [false; MEMBERS];
        self.stale = false;
        self.etcd.catch_up();
        self.serve();
    }

    /// Every listener has the records of etcd, byte for byte, and own records are in etcd.
    pub(super) fn is_well(&self) {
        for listener in &self.listeners {
            let range = self.records.space().range(listener.scope.as_deref());
            let found = self.etcd.list(&range.key, &range.end, self.etcd.revision);
            let stands = NodeSet::from_iter(self.records.entries(&found));
            assert!(
                listener.knows,
                "{}: the trouble of {:?} was not ended",
                self.time(),
                listener.scope
            );
            let differs = listener.picture.events_to(&stands);
            assert_eq!(
                differs,
                [],
                "{}: {:?} is told something else than stands",
                self.time(),
                listener.scope
            );
            for entry in &listener.picture {
                let kv = self
                    .etcd
                    .get(&self.records.space().key(&entry.key()))
                    .expect("it stands");
                assert_eq!(
                    entry.to_service().to_json().into_bytes(),
                    kv.value,
                    "the same bytes"
                );
            }
        }
        for owned in self.owned.values() {
            let found = self.etcd.get(&self.records.space().key(&owned.key));
            assert_eq!(
                found.map(|kv| kv.value),
                Some(owned.record.clone().into_bytes()),
                "{} is ours",
                owned.key.id
            );
        }
        assert!(
            self.excused || self.missed == 0,
            "{} changes were taken for missed",
            self.missed
        );
    }

    /// No stream is opened, and only periodic lists and reads occur.
    pub(super) fn rests(&mut self, duration: Duration) {
        self.total = Counts::default();
        self.run(duration);
        let Counts {
            streams,
            lists,
            reads,
            ..
        } = self.total;
        let (followed, owned) = (self.machine.followed().count(), self.owned.len());
        assert_eq!(streams, 0, "streams are opened at rest");
        assert!(
            lists as usize <= followed,
            "{lists} lists at rest, for {followed} that are followed"
        );
        assert!(
            reads as usize <= owned,
            "{reads} reads at rest, for {owned} that are ours"
        );
        self.is_well();
    }

    fn cut_stream(&mut self, why: &str) {
        if let Some(stream) = self.stream.as_mut().filter(|_| self.breaks.is_none()) {
            stream.etcd_is_gone(&mut self.rng);
            self.breaks = Some((
                self.now + Duration::from_millis(1),
                Trouble::Link(why.to_owned()),
            ));
        }
    }
}
