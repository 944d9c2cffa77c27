//! Time, and the paths between the machine and etcd: the role of the driver, the hub and the
//! network.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;
use waypost_conformance::CaseLog;
use waypost_core::record::{Key, Node, Service, keys};
use waypost_core::registry::{Broadcaster, WatchOptions};

use super::etcd::{Etcd, MEMBERS, Manners, Stream};
use super::listener::{Listener, serial};
use super::owner::Owned;
use super::truth::{Truth, What, Written};
use crate::lease::Slots;
use crate::ledger::Ledger;
use crate::records::Records;
use crate::space::Space;
use crate::trouble::Trouble;
use crate::watch::step::{Action, Event, Machine};
use crate::watch::track::Listed;
use crate::watch::{OwnNews, Scope};

const TIMEOUT: Duration = Duration::from_secs(2);
const SWEEP: Duration = Duration::from_secs(1);

/// Limits per second. A loop without backoff does hundreds.
const STREAMS_IN_A_SECOND: u32 = 40;
const LISTS_IN_A_SECOND: u32 = 80;
const TICKS_IN_A_SECOND: u32 = 400;

/// List in flight.
#[derive(Debug)]
pub(super) struct List {
    scope: Scope,
    of_one: Option<Trouble>,
    asked: Instant,
    at: Instant,
    answer: Option<Result<Listed, Trouble>>,
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) streams: u32,
    pub(super) lists: u32,
    pub(super) ticks: u32,
    pub(super) reads: u32,
}

pub(super) struct World {
    pub(super) now: Instant,
    pub(super) rng: Rng,
    pub(super) lied: bool,
    pub(super) begun: Instant,
    pub(super) story: CaseLog,
    pub(super) machine: Machine,
    pub(super) records: Arc<Records>,
    pub(super) etcd: Etcd,
    pub(super) manners: Manners,
    pub(super) truth: Truth,
    pub(super) stream: Option<Stream>,
    /// Time and reason of the stream's end, once messages in flight have arrived; or of its failure
    /// to open.
    pub(super) breaks: Option<(Instant, Trouble)>,
    pub(super) alive: bool,
    pub(super) paused: bool,
    pub(super) stale: bool,
    pub(super) lists: Vec<List>,
    pub(super) broadcasters: BTreeMap<Scope, Broadcaster>,
    pub(super) listeners: Vec<Listener>,
    pub(super) ledger: Ledger,
    pub(super) slots: Slots,
    pub(super) owned: BTreeMap<Key, Owned>,
    pub(super) waiting: Vec<Key>,
    pub(super) asking: Vec<Key>,
    pub(super) serials: u64,
    pub(super) sweep: Instant,
    pub(super) second: Instant,
    pub(super) counts: Counts,
    pub(super) total: Counts,
    pub(super) missed: usize,
    /// Time by which every scope has listed the newest history.
    pub(super) settles: Instant,
    /// A fault occurred after which a watch may lag or lose events: changes found by lists are
    /// expected.
    pub(super) excused: bool,
}

impl World {
    pub(super) fn new(story: CaseLog, rng: Rng) -> Self {
        let records = Arc::new(Records::new(Space::new("/p")));
        let now = Instant::now();
        let seed = story.seed();
        Self {
            now,
            rng,
            lied: false,
            begun: now,
            story,
            machine: Machine::new(Arc::clone(&records), Rng::with_seed(seed ^ 1)),
            records,
            etcd: Etcd::new(),
            manners: Manners::default(),
            truth: Truth {
                history: 1,
                ..Truth::default()
            },
            stream: None,
            breaks: None,
            alive: true,
            paused: false,
            stale: false,
            lists: Vec::new(),
            broadcasters: BTreeMap::new(),
            listeners: Vec::new(),
            ledger: Ledger::default(),
            slots: Slots::default(),
            owned: BTreeMap::new(),
            waiting: Vec::new(),
            asking: Vec::new(),
            serials: 0,
            sweep: now + SWEEP,
            second: now,
            counts: Counts::default(),
            total: Counts::default(),
            missed: 0,
            settles: now,
            excused: false,
        }
    }

    pub(super) fn time(&self) -> String {
        format!("{:8.3} s", (self.now - self.begun).as_secs_f64())
    }

    pub(super) fn tell(&self, what: impl std::fmt::Display) {
        self.story.tell(format!("{} {what}", self.time()));
    }

    // Time.

    pub(super) fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(next) = self.next().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.fire();
        }
        self.now = end;
    }

    fn next(&self) -> Option<Instant> {
        let stream = self
            .stream
            .as_ref()
            .and_then(|stream| stream.next(!self.is_served()));
        let breaks = self.breaks.as_ref().map(|(at, _)| *at);
        let lists = self.lists.iter().map(|list| list.at);
        let owned = self.owned.values().map(|owned| owned.at);
        let others = stream.into_iter().chain(breaks).chain([self.sweep]);
        others
            .chain(self.machine.deadline())
            .chain(lists)
            .chain(owned)
            .min()
    }

    /// Runs one of the events that are due, chosen at random.
    fn fire(&mut self) {
        let now = self.now;
        let mut due: Vec<fn(&mut Self)> = Vec::new();
        if self
            .stream
            .as_ref()
            .is_some_and(|stream| stream.next(!self.is_served()).is_some_and(|at| at <= now))
        {
            due.push(Self::carry);
        }
        if self.breaks.as_ref().is_some_and(|(at, _)| *at <= now) {
            due.push(Self::stream_breaks);
        }
        if self.lists.iter().any(|list| list.at <= now) {
            due.push(Self::list_goes_on);
        }
        if self.owned.values().any(|owned| owned.at <= now) {
            due.push(Self::owner_goes_on);
        }
        if self.sweep <= now {
            due.push(Self::sweep);
        }
        if self.machine.deadline().is_some_and(|at| at <= now) {
            due.push(Self::tick);
        }
        let act = self.rng.choice(due).expect("something is due");
        act(self);
    }

    fn tick(&mut self) {
        self.counts.ticks += 1;
        self.step(Event::Tick);
    }

    pub(super) fn step(&mut self, event: Event) {
        self.truth.unsettled = self.now < self.settles;
        for action in self.machine.step(self.now, event) {
            self.act(action);
        }
        self.count();
        self.serve();
        self.listeners
            .iter_mut()
            .for_each(|listener| listener.listen(&self.truth));
    }

    fn count(&mut self) {
        if self.now >= self.second + Duration::from_secs(1) {
            self.second = self.now;
            self.counts = Counts::default();
        }
        let Counts {
            streams,
            lists,
            ticks,
            ..
        } = self.counts;
        assert!(
            streams <= STREAMS_IN_A_SECOND,
            "{}: {streams} streams in a second",
            self.time()
        );
        assert!(
            lists <= LISTS_IN_A_SECOND,
            "{}: {lists} lists in a second",
            self.time()
        );
        assert!(
            ticks <= TICKS_IN_A_SECOND,
            "{}: {ticks} ticks in a second",
            self.time()
        );
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Open => self.open(),
            Action::Drop(_) => (self.stream, self.breaks) = (None, None),
            Action::Ask(question) => {
                if let Some(stream) = &mut self.stream {
                    stream.ask(self.now, question, &mut self.rng);
                }
            }
            Action::List(scope) => self.list(scope, None),
            Action::ListOfOne(scope, why) => self.list(scope, Some(why)),
            Action::Own(key, own) => self.ledger.hear(OwnNews::Of(key, own)),
            Action::OwnsUnwatched => self.ledger.hear(OwnNews::NoneWatched),
            Action::BarrierBegun => self.asking.append(&mut self.waiting),
            Action::BarrierPassed => std::mem::take(&mut self.asking)
                .iter()
                .for_each(|key| self.asked(key, true)),
            Action::BarrierFailed => {
                let failed: Vec<_> = self
                    .asking
                    .drain(..)
                    .chain(self.waiting.drain(..))
                    .collect();
                failed.iter().for_each(|key| self.asked(key, false));
            }
            Action::Missed(_, missed) => {
                self.tell(format!("{missed:?}"));
                self.missed += missed.count();
            }
        }
    }

    // Stream.

    fn open(&mut self) {
        (self.counts.streams, self.total.streams) =
            (self.counts.streams + 1, self.total.streams + 1);
        let mut stream = Stream::new(self.now, self.rng.usize(..MEMBERS));
        stream.dials = !self.alive;
        self.stream = Some(stream);
        self.breaks = None;
        if !self.alive {
            let waits = if self.rng.bool() {
                TIMEOUT
            } else {
                Duration::from_millis(1)
            };
            self.breaks = Some((self.now + waits, Trouble::Link("refused".to_owned())));
        }
    }

    fn carry(&mut self) {
        self.serve();
        let arrived = self
            .stream
            .as_mut()
            .and_then(|stream| stream.arrived(self.now));
        if let Some(response) = arrived {
            self.step(Event::Heard(response));
        }
    }

    pub(super) fn serve(&mut self) {
        let served = self.is_served();
        if let Some(stream) = self.stream.as_mut().filter(|_| served) {
            stream.serve(self.now, &self.etcd, &mut self.manners, &mut self.rng);
        }
    }

    fn is_served(&self) -> bool {
        self.alive && !self.paused && self.breaks.is_none()
    }

    fn stream_breaks(&mut self) {
        let Some((_, why)) = self.breaks.take() else {
            return;
        };
        if self
            .stream
            .as_ref()
            .is_some_and(|stream| !stream.is_drained() && !stream.mute)
        {
            self.breaks = Some((self.now + Duration::from_millis(1), why));
            return;
        }
        if self.stream.take().is_some() {
            self.step(Event::Broke(why));
        }
    }

    // Lists.

    fn list(&mut self, scope: Scope, of_one: Option<Trouble>) {
        (self.counts.lists, self.total.lists) = (self.counts.lists + 1, self.total.lists + 1);
        let at = self.now + self.latency();
        self.lists.push(List {
            scope,
            of_one,
            asked: self.now,
            at,
            answer: None,
        });
    }

    fn latency(&mut self) -> Duration {
        let longest = if self.rng.u32(..20) == 0 { 1_800 } else { 10 };
        Duration::from_millis(self.rng.u64(1..=longest))
    }

    fn list_goes_on(&mut self) {
        let index = self
            .lists
            .iter()
            .position(|list| list.at <= self.now)
            .expect("a list is due");
        let mut list = self.lists.swap_remove(index);
        if list.answer.is_none() && (!self.alive || self.paused) && self.now < list.asked + TIMEOUT
        {
            list.at = self.now + Duration::from_millis(50);
            return self.lists.push(list);
        }
        match list.answer.take() {
            None => {
                list.answer = Some(self.answer(&list));
                list.at = self.now + self.latency();
                self.lists.push(list);
            }
            Some(answer) => match (answer, list.of_one) {
                (answer, None) => self.step(Event::Listed(list.scope, answer)),
                (Ok(listed), Some(why)) => self.step(Event::ListedByOne(list.scope, listed, why)),
                (Err(_), Some(_)) => self.step(Event::Tick),
            },
        }
    }

    fn answer(&mut self, list: &List) -> Result<Listed, Trouble> {
        if !self.alive || self.paused {
            return Err(Trouble::Silent(TIMEOUT));
        }
        let mut revision = self.etcd.revision;
        if list.of_one.is_some() {
            revision = self.etcd.applied(self.rng.usize(..MEMBERS));
            self.listeners
                .iter_mut()
                .filter(|listener| listener.scope == list.scope)
                .for_each(Listener::may_hear_older);
        } else if std::mem::take(&mut self.stale) {
            revision = (revision - self.rng.i64(0..20))
                .max(self.etcd.compacted)
                .max(1);
        }
        let range = self.records.space().range(list.scope.as_deref());
        let found = self.etcd.list(&range.key, &range.end, revision);
        Ok(Listed {
            revision,
            entries: self.records.entries(&found).collect(),
        })
    }

    // Listeners.

    pub(super) fn follow(&mut self, scope: Scope) {
        self.tell(format!("follow {scope:?}"));
        let broadcaster = self.broadcasters.entry(scope.clone()).or_default().clone();
        let watcher = broadcaster.subscribe_to_fresh(&WatchOptions {
            service: scope.clone(),
        });
        // Until a linearizable list completes, later listeners get the serializable one too.
        let is_known = broadcaster.nodes().is_some()
            || self
                .listeners
                .iter()
                .all(|listener| listener.scope != scope);
        let since = is_known.then_some((self.truth.history, self.etcd.revision));
        self.listeners
            .push(Listener::new(scope.clone(), watcher, since));
        self.step(Event::Follow(scope, broadcaster));
    }

    pub(super) fn follow_any(&mut self) {
        if self.listeners.len() < 6 {
            let scope = self
                .rng
                .choice([None, Some("a".to_owned()), Some("b".to_owned())])
                .expect("there is one");
            self.follow(scope);
        }
    }

    pub(super) fn unfollow_one(&mut self) {
        if self.listeners.len() > 1 {
            let index = self.rng.usize(..self.listeners.len());
            self.listeners.swap_remove(index);
        }
    }

    fn sweep(&mut self) {
        self.sweep = self.now + SWEEP;
        let unheard = self
            .machine
            .followed()
            .filter(|(_, broadcaster)| broadcaster.listeners() == 0)
            .map(|(scope, _)| scope.clone());
        let unheard: Vec<_> = unheard.collect();
        for scope in &unheard {
            self.broadcasters.remove(scope);
        }
        self.step(Event::Unfollow(unheard.clone()));
        for scope in unheard {
            if self.rng.bool() {
                self.follow(scope);
            }
        }
    }

    // Writes.

    fn key(&mut self) -> Key {
        let service = if self.rng.bool() { "a" } else { "b" };
        Key {
            service: service.to_owned(),
            id: format!("{service}-{}", self.rng.u32(..4)),
        }
    }

    fn record(&mut self, key: &Key, serial: u64, leaving: bool) -> Vec<u8> {
        let mut service = Service::new(&key.service);
        let mut node = Node {
            id: key.id.clone(),
            address: "h:1".into(),
            ..Node::default()
        };
        node.metadata.insert("serial", serial.to_string());
        if leaving {
            node.metadata.insert(keys::STATE, keys::LEAVING);
        }
        service.nodes.push(node);
        service.to_json().into_bytes()
    }

    /// Commits one transaction of another writer: puts, leaves, deletes, garbage.
    pub(super) fn write(&mut self) {
        if !self.alive || self.paused {
            return;
        }
        let mut keys: Vec<Key> = (0..self.rng.usize(1..4)).map(|_| self.key()).collect();
        keys.sort();
        keys.dedup();
        if self.rng.u32(..4) == 0 {
            return self.leave(&keys[0]);
        }
        let mut changes = Vec::new();
        for key in keys {
            let (value, what) = match self.rng.u32(..10) {
                0..6 => {
                    self.serials += 1;
                    let serial = self.serials;
                    (
                        Some(self.record(&key, serial, false)),
                        What::Record {
                            serial,
                            leaving: false,
                        },
                    )
                }
                6..7 => (Some(b"garbage".to_vec()), What::Nothing),
                _ => (None, What::Nothing),
            };
            changes.push((key, value, what));
        }
        self.commit(changes);
    }

    fn leave(&mut self, key: &Key) {
        let Some(kv) = self.etcd.get(&self.records.space().key(key)) else {
            return;
        };
        let Ok(service) = Service::from_json(&kv.value) else {
            return;
        };
        let Some(serial) = serial(&service.entries()[0]) else {
            return;
        };
        let record = self.record(key, serial, true);
        self.commit(vec![(
            key.clone(),
            Some(record),
            What::Record {
                serial,
                leaving: true,
            },
        )]);
        self.commit(vec![(key.clone(), None, What::Nothing)]);
    }

    pub(super) fn commit(&mut self, changes: Vec<(Key, Option<Vec<u8>>, What)>) {
        let (mut puts, mut log) = (Vec::new(), Vec::new());
        for (key, value, what) in changes {
            puts.push((self.records.space().key(&key), value));
            log.push((key, what));
        }
        let before = self.etcd.revision;
        let revision = self.etcd.commit(puts);
        if revision == before {
            return;
        }
        self.tell(format!("{revision}: {log:?}"));
        let history = self.truth.history;
        self.truth
            .log
            .extend(log.into_iter().map(|(key, what)| Written {
                history,
                revision,
                key,
                what,
            }));
        self.serve();
    }
}
