//! Model of etcd: the records at each revision, and a watch stream on one member with all its
//! peculiarities.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;

use crate::rpc::{
    Header, KeyValue, WatchCreateRequest, WatchEvent, WatchRequest, WatchRequestUnion,
    WatchResponse,
};

pub(super) const MEMBERS: usize = 2;

/// Interval of etcd's sync loop for watches that have not caught up.
const SYNC: Duration = Duration::from_millis(100);

#[derive(Debug)]
struct Change {
    revision: i64,
    key: Vec<u8>,
    value: Option<Vec<u8>>,
}

/// Committed state of the cluster, and the revision applied by each member.
#[derive(Debug)]
pub(super) struct Etcd {
    changes: Vec<Change>,
    pub(super) revision: i64,
    pub(super) compacted: i64,
    pub(super) term: u64,
    pub(super) cluster: u64,
    /// Number of histories so far.
    pub(super) histories: usize,
    pub(super) lags: [bool; MEMBERS],
    applied: [i64; MEMBERS],
}

/// Watch on a stream.
#[derive(Debug)]
struct EtcdWatch {
    key: Vec<u8>,
    end: Vec<u8>,
    next: i64,
    synced: bool,
}

/// Faults and permitted variations of etcd.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Behavior {
    /// Progress responses overtake events, and wait for no watch: before 3.4.25.
    pub(super) old: bool,
    /// Percentage of cases in which a watch becomes unsynced, and catches up in the next sync loop.
    pub(super) falls_behind: u32,
    /// Percentage of responses that are sent in fragments.
    pub(super) fragments: u32,
    /// The next events are lost for good.
    pub(super) loses_events: bool,
    /// Watches are refused with this reason.
    pub(super) refuses: Option<&'static str>,
}

/// Stream, with its state in the member and on the network.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) member: usize,
    /// True while no member can be reached.
    pub(super) is_dialing: bool,
    /// True if nothing is delivered any more, without an error.
    pub(super) is_mute: bool,
    watch: BTreeMap<i64, EtcdWatch>,
    control: VecDeque<WatchResponse>,
    events: VecDeque<WatchResponse>,
    to_etcd: VecDeque<(Instant, WatchRequest)>,
    to_client: VecDeque<(Instant, WatchResponse)>,
    round: Instant,
}

impl Etcd {
    pub(super) fn new() -> Self {
        Self {
            changes: Vec::new(),
            revision: 1,
            compacted: 0,
            term: 2,
            cluster: 1,
            histories: 1,
            lags: [false; MEMBERS],
            applied: [1; MEMBERS],
        }
    }

    pub(super) fn header(&self, revision: i64) -> Option<Header> {
        Some(Header {
            cluster_id: self.cluster,
            revision,
            raft_term: self.term,
        })
    }

    /// Commits one transaction. Deleting a missing key changes nothing.
    pub(super) fn commit(
        &mut self,
        changes: impl IntoIterator<Item = (Vec<u8>, Option<Vec<u8>>)>,
    ) -> i64 {
        let revision = self.revision + 1;
        for (key, value) in changes {
            if value.is_some() || self.get(&key).is_some() {
                self.changes.push(Change {
                    revision,
                    key,
                    value,
                });
                self.revision = revision;
            }
        }
        self.catch_up();
        self.revision
    }

    pub(super) fn catch_up(&mut self) {
        for member in 0..MEMBERS {
            if !self.lags[member] {
                self.applied[member] = self.revision;
            }
        }
    }

    pub(super) fn applied(&self, member: usize) -> i64 {
        self.applied[member]
    }

    /// Deletes everything, and continues at another revision.
    pub(super) fn wipe(&mut self, revision: i64) {
        let Self {
            term,
            cluster,
            histories,
            ..
        } = *self;
        *self = Self {
            revision,
            term,
            cluster,
            histories: histories + 1,
            ..Self::new()
        };
        self.applied = [revision; MEMBERS];
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<KeyValue> {
        let last = self.changes.iter().rev().find(|change| change.key == key)?;
        kv(last)
    }

    /// Returns the records of a range at a revision.
    pub(super) fn list(&self, key: &[u8], end: &[u8], revision: i64) -> Vec<KeyValue> {
        let mut is_current = BTreeMap::new();
        for change in self
            .changes
            .iter()
            .filter(|change| change.revision <= revision && is_in(&change.key, key, end))
        {
            match kv(change) {
                Some(kv) => drop(is_current.insert(change.key.clone(), kv)),
                None => drop(is_current.remove(&change.key)),
            }
        }
        is_current.into_values().collect()
    }

    fn events(&self, watch: &EtcdWatch, upto: i64) -> Vec<WatchEvent> {
        let emitted = |change: &&Change| {
            (watch.next..=upto).contains(&change.revision)
                && is_in(&change.key, &watch.key, &watch.end)
        };
        self.changes.iter().filter(emitted).map(event).collect()
    }
}

fn is_in(key: &[u8], from: &[u8], end: &[u8]) -> bool {
    if end.is_empty() {
        key == from
    } else {
        (from..end).contains(&key)
    }
}

fn kv(change: &Change) -> Option<KeyValue> {
    let value = change.value.clone()?;
    Some(KeyValue {
        key: change.key.clone(),
        mod_revision: change.revision,
        value,
        lease: 1,
    })
}

fn event(change: &Change) -> WatchEvent {
    let bare = KeyValue {
        key: change.key.clone(),
        mod_revision: change.revision,
        ..KeyValue::default()
    };
    match kv(change) {
        Some(kv) => WatchEvent {
            kind: WatchEvent::PUT,
            kv: Some(kv),
        },
        None => WatchEvent {
            kind: WatchEvent::DELETE,
            kv: Some(bare),
        },
    }
}

impl Stream {
    pub(super) fn new(now: Instant, member: usize) -> Self {
        Self {
            member,
            is_dialing: false,
            is_mute: false,
            watch: BTreeMap::new(),
            control: VecDeque::new(),
            events: VecDeque::new(),
            to_etcd: VecDeque::new(),
            to_client: VecDeque::new(),
            round: now + SYNC,
        }
    }

    pub(super) fn send_to_etcd(&mut self, now: Instant, request: WatchRequest, rng: &mut Rng) {
        let arrives = after(now, self.to_etcd.back().map(|(at, _)| *at), rng);
        self.to_etcd.push_back((arrives, request));
    }

    /// Returns the time of the next action; none if etcd is stopped and nothing is in flight.
    pub(super) fn next(&self, is_stopped: bool) -> Option<Instant> {
        if self.is_mute {
            return None;
        }
        let arrives = self.to_client.front().map(|(at, _)| *at);
        let arrives_there = self.to_etcd.front().map(|(at, _)| *at);
        let round = self
            .watch
            .values()
            .any(|watch| !watch.synced)
            .then_some(self.round);
        let served = arrives_there
            .into_iter()
            .chain(round)
            .filter(|_| !is_stopped);
        served.chain(arrives).min()
    }

    /// Returns the next response that has arrived.
    pub(super) fn arrived(&mut self, now: Instant) -> Option<WatchResponse> {
        if self.is_mute {
            None
        } else {
            due(&mut self.to_client, now)
        }
    }

    /// Runs etcd: takes requests, updates watches, and sends responses.
    pub(super) fn serve(
        &mut self,
        now: Instant,
        etcd: &Etcd,
        behavior: &mut Behavior,
        rng: &mut Rng,
    ) {
        while let Some(request) = due(&mut self.to_etcd, now) {
            self.on_request(request, etcd, *behavior);
        }
        if self.round <= now {
            self.round = now + SYNC;
            self.serve_watches(etcd, behavior, rng, false);
        }
        self.serve_watches(etcd, behavior, rng, true);
        self.send(now, rng);
    }

    /// Discards the state of a member that is gone; some of the responses in flight remain.
    pub(super) fn lose_member(&mut self, rng: &mut Rng) {
        let kept = rng.usize(..=self.to_client.len());
        self.to_client.truncate(kept);
        self.to_etcd.clear();
        self.watch.clear();
    }

    pub(super) fn is_drained(&self) -> bool {
        self.to_client.is_empty()
    }

    /// Cancels one watch, as etcd may at any time.
    pub(super) fn cancel_one(&mut self, reason: &str, rng: &mut Rng) {
        let ids: Vec<_> = self.watch.keys().copied().collect();
        if let Some(watch_id) = rng.choice(ids) {
            self.watch.remove(&watch_id);
            let cancel_reason = reason.to_owned();
            self.events.push_back(WatchResponse {
                watch_id,
                canceled: true,
                cancel_reason,
                ..WatchResponse::default()
            });
        }
    }

    /// Repeats earlier events on the synced watches (etcd issue 15271).
    pub(super) fn repeat_events(&mut self, etcd: &Etcd, rng: &mut Rng) {
        let applied = etcd.applied(self.member);
        for watch in self.watch.values_mut().filter(|watch| watch.synced) {
            watch.next = watch
                .next
                .min((applied - rng.i64(0..20)).max(etcd.compacted).max(1));
        }
    }

    fn on_request(&mut self, request: WatchRequest, etcd: &Etcd, behavior: Behavior) {
        let revision = etcd.applied(self.member);
        let header = etcd.header(revision);
        match request.request_union.unwrap() {
            WatchRequestUnion::Create(create) => self.create(create, etcd, behavior),
            WatchRequestUnion::Cancel(cancel) => {
                if self.watch.remove(&cancel.watch_id).is_some() {
                    let response = WatchResponse {
                        header,
                        watch_id: cancel.watch_id,
                        canceled: true,
                        ..WatchResponse::default()
                    };
                    self.control.push_back(response);
                }
            }
            WatchRequestUnion::Progress(_) => {
                let response = WatchResponse {
                    header,
                    watch_id: -1,
                    ..WatchResponse::default()
                };
                let waits = |watch: &EtcdWatch| !watch.synced || watch.next > revision + 1;
                match behavior.old {
                    true => self.control.push_back(response),
                    false if self.watch.values().any(waits) => {}
                    false => self.events.push_back(response),
                }
            }
        }
    }

    fn create(&mut self, create: WatchCreateRequest, etcd: &Etcd, behavior: Behavior) {
        let revision = etcd.applied(self.member);
        let mut response = WatchResponse {
            header: etcd.header(revision),
            created: true,
            ..WatchResponse::default()
        };
        response.watch_id = create.watch_id;
        if let Some(reason) = behavior.refuses {
            (response.watch_id, response.canceled, response.cancel_reason) =
                (-1, true, reason.to_owned());
        } else {
            let synced = create.start_revision > revision;
            let watch = EtcdWatch {
                key: create.key,
                end: create.range_end,
                next: create.start_revision,
                synced,
            };
            self.watch.insert(create.watch_id, watch);
        }
        self.control.push_back(response);
    }

    /// Sends the pending events of the synced watches, or of the others.
    fn serve_watches(&mut self, etcd: &Etcd, behavior: &mut Behavior, rng: &mut Rng, synced: bool) {
        let applied = etcd.applied(self.member);
        let mut compacted = Vec::new();
        for (id, watch) in self
            .watch
            .iter_mut()
            .filter(|(_, watch)| watch.synced == synced)
        {
            if watch.next > applied {
                watch.synced = true;
                continue;
            }
            if synced && rng.u32(..100) < behavior.falls_behind {
                watch.synced = false;
                continue;
            }
            if !synced && watch.next < etcd.compacted {
                compacted.push(*id);
                continue;
            }
            let events = etcd.events(watch, applied);
            (watch.next, watch.synced) = (applied + 1, true);
            if events.is_empty() || std::mem::take(&mut behavior.loses_events) {
                continue;
            }
            let parts = if rng.u32(..100) < behavior.fragments {
                rng.usize(1..=events.len())
            } else {
                1
            };
            for events in events.chunks(events.len().div_ceil(parts)) {
                let header = etcd.header(applied);
                let response = WatchResponse {
                    header,
                    watch_id: *id,
                    events: events.to_vec(),
                    ..WatchResponse::default()
                };
                self.events.push_back(response);
            }
        }
        for watch_id in compacted {
            self.watch.remove(&watch_id);
            let compact_revision = etcd.compacted;
            self.events.push_back(WatchResponse {
                watch_id,
                canceled: true,
                compact_revision,
                ..WatchResponse::default()
            });
        }
    }

    /// Sends control responses and events, each in order, but interleaved at random.
    fn send(&mut self, now: Instant, rng: &mut Rng) {
        loop {
            let first = if rng.bool() {
                &mut self.control
            } else {
                &mut self.events
            };
            let Some(response) = first.pop_front() else {
                if self.control.is_empty() && self.events.is_empty() {
                    return;
                }
                continue;
            };
            let arrives = after(now, self.to_client.back().map(|(at, _)| *at), rng);
            self.to_client.push_back((arrives, response));
        }
    }
}

fn due<T>(queue: &mut VecDeque<(Instant, T)>, now: Instant) -> Option<T> {
    if queue.front()?.0 > now {
        return None;
    }
    queue.pop_front().map(|(_, what)| what)
}

/// Returns the arrival time of a message sent now: in order, and sometimes late.
fn after(now: Instant, last: Option<Instant>, rng: &mut Rng) -> Instant {
    let longest = if rng.u32(..50) == 0 { 300_000 } else { 3_000 };
    let at = now + Duration::from_micros(rng.u64(100..longest));
    last.map_or(at, |last| last.max(at))
}
