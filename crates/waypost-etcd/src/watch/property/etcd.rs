//! Model of etcd: the records at each revision, and a watch stream on one member with all its
//! peculiarities.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;

use crate::wire::{
    Header, KeyValue, WatchAsk, WatchCreateRequest, WatchEvent, WatchRequest, WatchResponse,
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
struct Watched {
    key: Vec<u8>,
    end: Vec<u8>,
    next: i64,
    synced: bool,
}

/// Faults and permitted variations of etcd.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Manners {
    /// Progress responses overtake events, and wait for no watch: before 3.4.25.
    pub(super) old: bool,
    /// Percentage of cases in which a watch becomes unsynced, and catches up in the next sync loop.
    pub(super) falls_behind: u32,
    /// Percentage of responses that are sent in fragments.
    pub(super) fragments: u32,
    /// The next events are lost for good.
    pub(super) loses: bool,
    /// Watches are refused with this reason.
    pub(super) refuses: Option<&'static str>,
}

/// Stream, with its state in the member and on the network.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) member: usize,
    /// True while no member can be reached.
    pub(super) dials: bool,
    /// True if nothing is delivered any more, without an error.
    pub(super) mute: bool,
    watched: BTreeMap<i64, Watched>,
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
        let mut stands = BTreeMap::new();
        for change in self
            .changes
            .iter()
            .filter(|change| change.revision <= revision && is_in(&change.key, key, end))
        {
            match kv(change) {
                Some(kv) => drop(stands.insert(change.key.clone(), kv)),
                None => drop(stands.remove(&change.key)),
            }
        }
        stands.into_values().collect()
    }

    fn events(&self, watched: &Watched, upto: i64) -> Vec<WatchEvent> {
        let told = |change: &&Change| {
            (watched.next..=upto).contains(&change.revision)
                && is_in(&change.key, &watched.key, &watched.end)
        };
        self.changes.iter().filter(told).map(event).collect()
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
            dials: false,
            mute: false,
            watched: BTreeMap::new(),
            control: VecDeque::new(),
            events: VecDeque::new(),
            to_etcd: VecDeque::new(),
            to_client: VecDeque::new(),
            round: now + SYNC,
        }
    }

    pub(super) fn ask(&mut self, now: Instant, question: WatchRequest, rng: &mut Rng) {
        let arrives = after(now, self.to_etcd.back().map(|(at, _)| *at), rng);
        self.to_etcd.push_back((arrives, question));
    }

    /// Returns the time of the next action; none if etcd is stopped and nothing is in flight.
    pub(super) fn next(&self, still: bool) -> Option<Instant> {
        if self.mute {
            return None;
        }
        let arrives = self.to_client.front().map(|(at, _)| *at);
        let asked = self.to_etcd.front().map(|(at, _)| *at);
        let round = self
            .watched
            .values()
            .any(|watched| !watched.synced)
            .then_some(self.round);
        let served = asked.into_iter().chain(round).filter(|_| !still);
        served.chain(arrives).min()
    }

    /// Returns the next response that has arrived.
    pub(super) fn arrived(&mut self, now: Instant) -> Option<WatchResponse> {
        if self.mute {
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
        manners: &mut Manners,
        rng: &mut Rng,
    ) {
        while let Some(question) = due(&mut self.to_etcd, now) {
            self.take(question, etcd, *manners);
        }
        if self.round <= now {
            self.round = now + SYNC;
            self.watches(etcd, manners, rng, false);
        }
        self.watches(etcd, manners, rng, true);
        self.send(now, rng);
    }

    /// Discards the state of a member that is gone; some of the responses in flight remain.
    pub(super) fn etcd_is_gone(&mut self, rng: &mut Rng) {
        let kept = rng.usize(..=self.to_client.len());
        self.to_client.truncate(kept);
        self.to_etcd.clear();
        self.watched.clear();
    }

    pub(super) fn is_drained(&self) -> bool {
        self.to_client.is_empty()
    }

    /// Cancels one watch, as etcd may at any time.
    pub(super) fn cancel_one(&mut self, reason: &str, rng: &mut Rng) {
        let ids: Vec<_> = self.watched.keys().copied().collect();
        if let Some(watch_id) = rng.choice(ids) {
            self.watched.remove(&watch_id);
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
    pub(super) fn goes_back(&mut self, etcd: &Etcd, rng: &mut Rng) {
        let applied = etcd.applied(self.member);
        for watched in self.watched.values_mut().filter(|watched| watched.synced) {
            watched.next = watched
                .next
                .min((applied - rng.i64(0..20)).max(etcd.compacted).max(1));
        }
    }

    fn take(&mut self, question: WatchRequest, etcd: &Etcd, manners: Manners) {
        let revision = etcd.applied(self.member);
        let header = etcd.header(revision);
        match question.ask.unwrap() {
            WatchAsk::Create(create) => self.create(create, etcd, manners),
            WatchAsk::Cancel(cancel) => {
                if self.watched.remove(&cancel.watch_id).is_some() {
                    let response = WatchResponse {
                        header,
                        watch_id: cancel.watch_id,
                        canceled: true,
                        ..WatchResponse::default()
                    };
                    self.control.push_back(response);
                }
            }
            WatchAsk::Progress(_) => {
                let response = WatchResponse {
                    header,
                    watch_id: -1,
                    ..WatchResponse::default()
                };
                let waits = |watched: &Watched| !watched.synced || watched.next > revision + 1;
                match manners.old {
                    true => self.control.push_back(response),
                    false if self.watched.values().any(waits) => {}
                    false => self.events.push_back(response),
                }
            }
        }
    }

    fn create(&mut self, create: WatchCreateRequest, etcd: &Etcd, manners: Manners) {
        let revision = etcd.applied(self.member);
        let mut response = WatchResponse {
            header: etcd.header(revision),
            created: true,
            ..WatchResponse::default()
        };
        response.watch_id = create.watch_id;
        if let Some(reason) = manners.refuses {
            (response.watch_id, response.canceled, response.cancel_reason) =
                (-1, true, reason.to_owned());
        } else {
            let synced = create.start_revision > revision;
            let watched = Watched {
                key: create.key,
                end: create.range_end,
                next: create.start_revision,
                synced,
            };
            self.watched.insert(create.watch_id, watched);
        }
        self.control.push_back(response);
    }

    /// Sends the pending events of the synced watches, or of the others.
    fn watches(&mut self, etcd: &Etcd, manners: &mut Manners, rng: &mut Rng, synced: bool) {
        let applied = etcd.applied(self.member);
        let mut compacted = Vec::new();
        for (id, watched) in self
            .watched
            .iter_mut()
            .filter(|(_, watched)| watched.synced == synced)
        {
            if watched.next > applied {
                watched.synced = true;
                continue;
            }
            if synced && rng.u32(..100) < manners.falls_behind {
                watched.synced = false;
                continue;
            }
            if !synced && watched.next < etcd.compacted {
                compacted.push(*id);
                continue;
            }
            let events = etcd.events(watched, applied);
            (watched.next, watched.synced) = (applied + 1, true);
            if events.is_empty() || std::mem::take(&mut manners.loses) {
                continue;
            }
            let parts = if rng.u32(..100) < manners.fragments {
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
            self.watched.remove(&watch_id);
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
