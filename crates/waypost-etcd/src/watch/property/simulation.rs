//! Time, and the paths between the machine and etcd: the role of the watch task and the
//! network.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;
use waypost_conformance::CaseLog;
use waypost_core::record::{Key, Node, RecordLimits, Service, keys};
use waypost_core::registry::{Broadcaster, WatchOptions};

use super::etcd::{Behavior, Etcd, MEMBERS, Stream};
use super::listener::{Listener, serial};
use super::own_records::OwnRecord;
use super::write_log::{Write, WriteKind, WriteLog};
use crate::claims::Claims;
use crate::error::EtcdError;
use crate::keys::KeySpace;
use crate::lease::LeaseTable;
use crate::list::RecordList;
use crate::records::Records;
use crate::timing::Timing;
use crate::watch::machine::{WatchAction, WatchInput, WatchMachine};
use crate::watch::{OwnKeysEvent, Scope};

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
    serializable_error: Option<EtcdError>,
    sent_at: Instant,
    at: Instant,
    response: Option<Result<RecordList, EtcdError>>,
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) streams: u32,
    pub(super) lists: u32,
    pub(super) ticks: u32,
    pub(super) reads: u32,
}

pub(super) struct Simulation {
    pub(super) now: Instant,
    pub(super) rng: Rng,
    pub(super) events_lost: bool,
    pub(super) start: Instant,
    pub(super) case_log: CaseLog,
    pub(super) machine: WatchMachine,
    pub(super) records: Arc<Records>,
    pub(super) etcd: Etcd,
    pub(super) behavior: Behavior,
    pub(super) write_log: WriteLog,
    pub(super) stream: Option<Stream>,
    /// Time and reason of the stream's end, once messages in flight have arrived; or of its failure
    /// to open.
    pub(super) breaks: Option<(Instant, EtcdError)>,
    pub(super) alive: bool,
    pub(super) paused: bool,
    pub(super) stale: bool,
    pub(super) lists: Vec<List>,
    pub(super) broadcasters: BTreeMap<Scope, Broadcaster>,
    pub(super) listeners: Vec<Listener>,
    pub(super) claims: Claims,
    pub(super) lease_table: LeaseTable,
    pub(super) own_records: BTreeMap<Key, OwnRecord>,
    /// Heartbeats that wait for the watch to reach a revision.
    pub(super) barriers: Vec<(i64, Key)>,
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

impl Simulation {
    pub(super) fn new(case_log: CaseLog, rng: Rng) -> Self {
        let records = Arc::new(Records::new(KeySpace::new("/p"), RecordLimits::default()));
        let now = Instant::now();
        let seed = case_log.seed();
        Self {
            now,
            rng,
            events_lost: false,
            start: now,
            case_log,
            machine: WatchMachine::new(
                Arc::clone(&records),
                Timing::default(),
                Rng::with_seed(seed ^ 1),
            ),
            records,
            etcd: Etcd::new(),
            behavior: Behavior::default(),
            write_log: WriteLog {
                history: 1,
                ..WriteLog::default()
            },
            stream: None,
            breaks: None,
            alive: true,
            paused: false,
            stale: false,
            lists: Vec::new(),
            broadcasters: BTreeMap::new(),
            listeners: Vec::new(),
            claims: Claims::default(),
            lease_table: LeaseTable::default(),
            own_records: BTreeMap::new(),
            barriers: Vec::new(),
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
        format!("{:8.3} s", (self.now - self.start).as_secs_f64())
    }

    pub(super) fn log(&self, what: impl std::fmt::Display) {
        self.case_log.record(format!("{} {what}", self.time()));
    }

    // Time.

    pub(super) fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(next) = self.next().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.step_next();
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
        let own_record = self.own_records.values().map(|own_record| own_record.at);
        let others = stream.into_iter().chain(breaks).chain([self.sweep]);
        others
            .chain(self.machine.deadline())
            .chain(lists)
            .chain(own_record)
            .min()
    }

    /// Runs one of the events that are due, chosen at random.
    fn step_next(&mut self) {
        let now = self.now;
        let mut due: Vec<fn(&mut Self)> = Vec::new();
        if self
            .stream
            .as_ref()
            .is_some_and(|stream| stream.next(!self.is_served()).is_some_and(|at| at <= now))
        {
            due.push(Self::deliver);
        }
        if self.breaks.as_ref().is_some_and(|(at, _)| *at <= now) {
            due.push(Self::end_stream);
        }
        if self.lists.iter().any(|list| list.at <= now) {
            due.push(Self::step_list);
        }
        if self
            .own_records
            .values()
            .any(|own_record| own_record.at <= now)
        {
            due.push(Self::step_own_record);
        }
        if self.sweep <= now {
            due.push(Self::sweep);
        }
        if self.machine.deadline().is_some_and(|at| at <= now) {
            due.push(Self::tick);
        }
        let execute = self.rng.choice(due).expect("something is due");
        execute(self);
    }

    fn tick(&mut self) {
        self.counts.ticks += 1;
        self.step(WatchInput::Tick);
    }

    pub(super) fn step(&mut self, event: WatchInput) {
        self.write_log.is_unsettled = self.now < self.settles;
        for action in self.machine.step(self.now, event) {
            self.execute(action);
        }
        self.count();
        self.serve();
        self.listeners
            .iter_mut()
            .for_each(|listener| listener.receive(&self.write_log));
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

    fn execute(&mut self, action: WatchAction) {
        match action {
            WatchAction::OpenStream => self.open(),
            WatchAction::CloseStream(_) => (self.stream, self.breaks) = (None, None),
            WatchAction::Send(request) => {
                if let Some(stream) = &mut self.stream {
                    stream.send_to_etcd(self.now, request, &mut self.rng);
                }
            }
            WatchAction::List(scope) => self.list(scope, None),
            WatchAction::ListSerializable(scope, why) => self.list(scope, Some(why)),
            WatchAction::OwnKey(key, own) => self.claims.on_watch(OwnKeysEvent::Key(key, own)),
            WatchAction::OwnKeysUnwatched => self.claims.on_watch(OwnKeysEvent::AllUnwatched),
            WatchAction::Reached(reached) => {
                let passed = |(revision, _): &mut (i64, Key)| *revision <= reached;
                let passed: Vec<_> = self.barriers.extract_if(.., passed).collect();
                for (_, key) in passed {
                    self.on_barrier(&key, true);
                }
            }
            WatchAction::BarrierFailed => {
                for (_, key) in std::mem::take(&mut self.barriers) {
                    self.on_barrier(&key, false);
                }
            }
            WatchAction::Missed(_, missed) => {
                self.log(format!("{missed:?}"));
                self.missed += missed.count();
            }
        }
    }

    // Stream.

    fn open(&mut self) {
        (self.counts.streams, self.total.streams) =
            (self.counts.streams + 1, self.total.streams + 1);
        let mut stream = Stream::new(self.now, self.rng.usize(..MEMBERS));
        stream.is_dialing = !self.alive;
        self.stream = Some(stream);
        self.breaks = None;
        if !self.alive {
            let waits = if self.rng.bool() {
                TIMEOUT
            } else {
                Duration::from_millis(1)
            };
            self.breaks = Some((self.now + waits, EtcdError::Transport("refused".to_owned())));
        }
    }

    fn deliver(&mut self) {
        self.serve();
        let arrived = self
            .stream
            .as_mut()
            .and_then(|stream| stream.arrived(self.now));
        if let Some(response) = arrived {
            self.step(WatchInput::Response(response));
        }
    }

    pub(super) fn serve(&mut self) {
        let served = self.is_served();
        if let Some(stream) = self.stream.as_mut().filter(|_| served) {
            stream.serve(self.now, &self.etcd, &mut self.behavior, &mut self.rng);
        }
    }

    fn is_served(&self) -> bool {
        self.alive && !self.paused && self.breaks.is_none()
    }

    fn end_stream(&mut self) {
        let Some((_, why)) = self.breaks.take() else {
            return;
        };
        if self
            .stream
            .as_ref()
            .is_some_and(|stream| !stream.is_drained() && !stream.is_mute)
        {
            self.breaks = Some((self.now + Duration::from_millis(1), why));
            return;
        }
        if self.stream.take().is_some() {
            self.step(WatchInput::StreamBroken(why));
        }
    }

    // Lists.

    fn list(&mut self, scope: Scope, serializable_error: Option<EtcdError>) {
        (self.counts.lists, self.total.lists) = (self.counts.lists + 1, self.total.lists + 1);
        let at = self.now + self.latency();
        self.lists.push(List {
            scope,
            serializable_error,
            sent_at: self.now,
            at,
            response: None,
        });
    }

    fn latency(&mut self) -> Duration {
        let longest = if self.rng.u32(..20) == 0 { 1_800 } else { 10 };
        Duration::from_millis(self.rng.u64(1..=longest))
    }

    fn step_list(&mut self) {
        let index = self
            .lists
            .iter()
            .position(|list| list.at <= self.now)
            .expect("a list is due");
        let mut list = self.lists.swap_remove(index);
        if list.response.is_none()
            && (!self.alive || self.paused)
            && self.now < list.sent_at + TIMEOUT
        {
            list.at = self.now + Duration::from_millis(50);
            return self.lists.push(list);
        }
        match list.response.take() {
            None => {
                list.response = Some(self.list_response(&list));
                list.at = self.now + self.latency();
                self.lists.push(list);
            }
            Some(response) => match (response, list.serializable_error) {
                (response, None) => self.step(WatchInput::Listed(list.scope, response)),
                (Ok(listed), Some(error)) => {
                    self.step(WatchInput::ListedSerializable(list.scope, listed, error));
                }
                (Err(_), Some(_)) => self.step(WatchInput::Tick),
            },
        }
    }

    fn list_response(&mut self, list: &List) -> Result<RecordList, EtcdError> {
        if !self.alive || self.paused {
            return Err(EtcdError::Timeout(TIMEOUT));
        }
        let mut revision = self.etcd.revision;
        if list.serializable_error.is_some() {
            revision = self.etcd.applied(self.rng.usize(..MEMBERS));
            self.listeners
                .iter_mut()
                .filter(|listener| listener.scope == list.scope)
                .for_each(Listener::allow_older);
        } else if std::mem::take(&mut self.stale) {
            revision = (revision - self.rng.i64(0..20))
                .max(self.etcd.compacted)
                .max(1);
        }
        let range = self.records.key_space().range(list.scope.as_deref());
        let found = self.etcd.list(&range.key, &range.end, revision);
        Ok(RecordList {
            revision,
            entries: self.records.entries(&found, &mut HashSet::new()).collect(),
        })
    }

    // Listeners.

    pub(super) fn subscribe(&mut self, scope: Scope) {
        self.log(format!("follow {scope:?}"));
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
        let since = is_known.then_some((self.write_log.history, self.etcd.revision));
        self.listeners
            .push(Listener::new(scope.clone(), watcher, since));
        self.step(WatchInput::Subscribe(scope, broadcaster));
    }

    pub(super) fn subscribe_any(&mut self) {
        if self.listeners.len() < 6 {
            let scope = self
                .rng
                .choice([None, Some("a".to_owned()), Some("b".to_owned())])
                .expect("there is one");
            self.subscribe(scope);
        }
    }

    pub(super) fn drop_listener(&mut self) {
        if self.listeners.len() > 1 {
            let index = self.rng.usize(..self.listeners.len());
            self.listeners.swap_remove(index);
        }
    }

    fn sweep(&mut self) {
        self.sweep = self.now + SWEEP;
        let unused = self
            .machine
            .removable()
            .filter(|(_, broadcaster)| broadcaster.listeners() == 0)
            .map(|(scope, _)| scope.clone());
        let unused: Vec<_> = unused.collect();
        for scope in &unused {
            self.broadcasters.remove(scope);
        }
        self.step(WatchInput::Unsubscribe(unused.clone()));
        for scope in unused {
            if self.rng.bool() {
                self.subscribe(scope);
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
                        WriteKind::Record {
                            serial,
                            leaving: false,
                        },
                    )
                }
                6..7 => (Some(b"garbage".to_vec()), WriteKind::Nothing),
                _ => (None, WriteKind::Nothing),
            };
            changes.push((key, value, what));
        }
        self.commit(changes);
    }

    fn leave(&mut self, key: &Key) {
        let Some(kv) = self.etcd.get(&self.records.key_space().key(key)) else {
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
            WriteKind::Record {
                serial,
                leaving: true,
            },
        )]);
        self.commit(vec![(key.clone(), None, WriteKind::Nothing)]);
    }

    pub(super) fn commit(&mut self, changes: Vec<(Key, Option<Vec<u8>>, WriteKind)>) {
        let (mut puts, mut log) = (Vec::new(), Vec::new());
        for (key, value, what) in changes {
            puts.push((self.records.key_space().key(&key), value));
            log.push((key, what));
        }
        let before = self.etcd.revision;
        let revision = self.etcd.commit(puts);
        if revision == before {
            return;
        }
        self.log(format!("{revision}: {log:?}"));
        let history = self.write_log.history;
        self.write_log
            .log
            .extend(log.into_iter().map(|(key, what)| Write {
                history,
                revision,
                key,
                what,
            }));
        self.serve();
    }
}
