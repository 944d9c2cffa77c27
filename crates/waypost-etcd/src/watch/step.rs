//! What is followed, on one stream of watches: pure, time is an argument.
//!
//! ```text
//!   followed ─▶ list at R ─▶ watch from R ─▶ events, in order
//!                  ▲                │
//!                  └────────────────┴── compacted, another history or cluster, revisions that go back; every 5 min, and after each break
//!
//!   stream: open ─▶ progress asked each second ── nothing heard for 3 s, or broken ──▶ open again on the next member, watch from where we were
//! ```
//!
//! A watch begins at the last revision known, not after it: etcd tells no progress of a stream on which a watch waits for the future. What
//! comes twice is told once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use waypost_core::backoff::full_jitter;
use waypost_core::record::Key;
use waypost_core::registry::{Change, Feed};

use super::track::{Listed, Track};
use crate::records::{Found, Records};
use crate::trouble::Trouble;
use crate::wire::{
    Header, WatchAsk, WatchCancelRequest, WatchCreateRequest, WatchEvent, WatchProgressRequest, WatchRequest, WatchResponse,
};

/// What is followed: one service, or all.
pub(crate) type Scope = Option<String>;

/// Between two questions whether the stream lives.
const PROGRESS: Duration = Duration::from_secs(1);
/// A question that was not answered for so long may be asked again.
const PROGRESS_AGAIN: Duration = Duration::from_millis(300);
/// Between two questions that somebody waits for.
const BARRIER: Duration = Duration::from_millis(50);
/// A stream on which nothing was heard for so long is dead.
const SILENCE: Duration = Duration::from_secs(3);
/// How long a list may wait for the watch to get as far.
const CATCH_UP: Duration = Duration::from_millis(500);
/// How long a new watch may take to tell what it has missed; before etcd 3.4.25 answers about progress do not wait for it.
const SETTLE: Duration = Duration::from_millis(200);
/// How long the stream may be down before listeners are told.
const QUIET: Duration = Duration::from_secs(1);
/// Between two lists that look for what no rule foresaw; ± 20 %.
const RELIST: Duration = Duration::from_secs(300);
/// Within how long a list follows a break of the stream.
const RELIST_AFTER_BREAK: Duration = Duration::from_secs(3);

const SHORTEST_BACK_OFF: Duration = Duration::from_millis(50);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) enum Event {
    Tick,
    /// Somebody listens to this feed, and must hear no older picture than of now.
    Follow(Scope, Feed),
    /// Nobody does any more.
    Unfollow(Scope),
    /// A record of ours stands since this revision.
    Own(Key, i64),
    Disown(Key),
    /// Somebody wants to know that all that has happened was heard.
    Barrier,
    Listed(Scope, Result<Listed, Trouble>),
    /// What one member has, and why the cluster could not be asked.
    ListedByOne(Scope, Listed, Trouble),
    Heard(WatchResponse),
    Broke(Trouble),
}

#[derive(Debug, PartialEq)]
pub(super) enum Action {
    Open,
    /// Drop the stream; if there is a reason, its member is to blame.
    Drop(Option<Trouble>),
    Ask(WatchRequest),
    List(Scope),
    /// List what any member has, since the cluster cannot say.
    ListOfOne(Scope, Trouble),
    /// What a watch says of a record of ours.
    Own(Key, Own),
    /// Records of ours are not watched now.
    OwnsUnwatched,
    /// The question has gone out that those who want a barrier wait for.
    BarrierBegun,
    /// And was answered.
    BarrierPassed,
    /// Nobody knows what was heard.
    BarrierFailed,
    /// A list found what the watch had missed.
    Missed(Scope, usize),
}

/// What a watch says of a record of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Own {
    /// Whatever happens to it is heard from now on.
    Watched,
    /// It was written or deleted at this revision, by us or another.
    Changed(i64),
    /// What happened to it is not known, and it is not watched.
    Lost,
    /// What happened to it is not known; it is watched.
    Doubtful,
}

#[derive(Debug)]
pub(super) struct Machine {
    records: Arc<Records>,
    tracks: BTreeMap<Scope, Track>,
    owns: BTreeMap<Key, Owned>,
    /// The watches of the stream there is.
    watches: BTreeMap<i64, Target>,
    last_watch: i64,
    stream: Option<Stream>,
    down: Option<Down>,
    retry_at: Option<Instant>,
    failures: u32,
    cluster: Option<Header>,
    rng: fastrand::Rng,
}

#[derive(Clone, Debug)]
enum Target {
    Track(Scope),
    Own(Key),
}

#[derive(Debug)]
struct Owned {
    revision: i64,
    watch: Option<i64>,
}

/// The stream there is.
#[derive(Debug)]
struct Stream {
    heard: Instant,
    up: bool,
    /// The revision it has got to.
    reached: i64,
    asked: Instant,
    unanswered: bool,
    barrier: bool,
}

/// There is no stream that tells anything.
#[derive(Debug)]
struct Down {
    since: Instant,
    why: Trouble,
}

impl Machine {
    pub(super) fn new(records: Arc<Records>, rng: fastrand::Rng) -> Self {
        Self {
            records,
            tracks: BTreeMap::new(),
            owns: BTreeMap::new(),
            watches: BTreeMap::new(),
            last_watch: 0,
            stream: None,
            down: None,
            retry_at: None,
            failures: 0,
            cluster: None,
            rng,
        }
    }

    pub(super) fn step(&mut self, now: Instant, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Tick => {}
            Event::Follow(scope, feed) => self.follow(now, scope, feed, &mut actions),
            Event::Unfollow(scope) => self.unfollow(&scope, &mut actions),
            Event::Own(key, revision) => self.own(&key, revision, &mut actions),
            Event::Disown(key) => self.disown(&key, &mut actions),
            Event::Barrier => self.barrier(&mut actions),
            Event::Listed(scope, listed) => self.listed(now, scope, listed, &mut actions),
            Event::ListedByOne(scope, listed, why) => {
                if let Some(track) = self.tracks.get_mut(&scope) {
                    track.take_unverified(listed, why);
                }
            }
            Event::Heard(response) => self.heard(now, response, &mut actions),
            Event::Broke(trouble) => self.broke(now, trouble, &mut actions),
        }
        self.tend_stream(now, &mut actions);
        self.tend_tracks(now, &mut actions);
        self.ask_progress(now, &mut actions);
        actions
    }

    /// What is followed, with its feed.
    pub(super) fn followed(&self) -> impl Iterator<Item = (&Scope, &Feed)> {
        self.tracks.iter().map(|(scope, track)| (scope, &track.feed))
    }

    fn follow(&mut self, now: Instant, scope: Scope, feed: Feed, actions: &mut Vec<Action>) {
        let relist = self.next_relist(now);
        let track = self.tracks.entry(scope.clone()).or_insert_with(|| Track::new(feed, relist));
        if track.ask(true) {
            track.relist_at = relist;
            actions.push(Action::List(scope));
        }
    }

    fn unfollow(&mut self, scope: &Scope, actions: &mut Vec<Action>) {
        if let Some(watch) = self.tracks.remove(scope).and_then(|track| track.watch) {
            self.cancel(watch, actions);
        }
    }

    fn own(&mut self, key: &Key, revision: i64, actions: &mut Vec<Action>) {
        let own = self.owns.entry(key.clone()).or_insert(Owned { revision, watch: None });
        own.revision = own.revision.max(revision);
        if self.stream.is_some() && own.watch.is_none() {
            self.watch_own(key, actions);
        }
    }

    fn disown(&mut self, key: &Key, actions: &mut Vec<Action>) {
        if let Some(watch) = self.owns.remove(key).and_then(|own| own.watch) {
            self.cancel(watch, actions);
        }
    }

    fn barrier(&mut self, actions: &mut Vec<Action>) {
        match &mut self.stream {
            Some(stream) if stream.up => stream.barrier = true,
            _ => actions.push(Action::BarrierFailed),
        }
    }

    fn cancel(&mut self, watch: i64, actions: &mut Vec<Action>) {
        if self.watches.remove(&watch).is_some() {
            actions.push(Action::Ask(WatchAsk::Cancel(WatchCancelRequest { watch_id: watch }).into()));
        }
    }

    fn create(&mut self, target: Target, revision: i64, actions: &mut Vec<Action>) -> i64 {
        self.last_watch += 1;
        let space = self.records.space();
        let (key, range_end) = match &target {
            Target::Track(scope) => {
                let range = space.range(scope.as_deref());
                (range.key, range.end)
            }
            Target::Own(key) => (space.key(key), Vec::new()),
        };
        let watch_id = self.last_watch;
        let create = WatchCreateRequest { key, range_end, start_revision: revision.max(1), watch_id, fragment: true };
        actions.push(Action::Ask(WatchAsk::Create(create).into()));
        self.watches.insert(watch_id, target);
        watch_id
    }

    fn watch_own(&mut self, key: &Key, actions: &mut Vec<Action>) {
        let Some(revision) = self.owns.get(key).map(|own| own.revision) else { return };
        let watch = self.create(Target::Own(key.clone()), revision, actions);
        if let Some(own) = self.owns.get_mut(key) {
            own.watch = Some(watch);
        }
    }

    fn watch_track(&mut self, scope: &Scope, actions: &mut Vec<Action>) {
        let Some(track) = self.tracks.get(scope).filter(|track| track.revision > 0 && track.watch.is_none()) else { return };
        let watch = self.create(Target::Track(scope.clone()), track.revision, actions);
        if let Some(track) = self.tracks.get_mut(scope) {
            (track.watch, track.created) = (Some(watch), None);
        }
    }

    fn listed(&mut self, now: Instant, scope: Scope, listed: Result<Listed, Trouble>, actions: &mut Vec<Action>) {
        let Some(track) = self.tracks.get_mut(&scope) else { return };
        match listed {
            Ok(listed) => {
                track.answered(now, listed);
                // etcd answers: the stream will too.
                if let Some(down) = &mut self.down {
                    (down.since, self.retry_at) = (now, self.retry_at.map(|at| at.min(now)));
                }
            }
            Err(trouble) => {
                track.unanswered();
                let rest = full_jitter(&mut self.rng, SHORTEST_BACK_OFF, LONGEST_BACK_OFF, track.failures);
                track.failures = track.failures.saturating_add(1);
                track.relist_at = now + rest;
                let is_first = track.revision == 0;
                if !track.told && (is_first || !trouble.is_of_the_member()) {
                    track.fail(&trouble);
                }
                if is_first && trouble.is_of_the_member() && !track.unverified {
                    actions.push(Action::ListOfOne(scope, trouble));
                }
            }
        }
    }

    fn heard(&mut self, now: Instant, response: WatchResponse, actions: &mut Vec<Action>) {
        let Some(stream) = &mut self.stream else { return };
        stream.heard = now;
        if !std::mem::replace(&mut stream.up, true) {
            (self.failures, self.down, self.retry_at) = (0, None, None);
            self.tracks.values_mut().filter(|track| track.told).for_each(|track| track.relist_at = now);
        }
        if let Some(header) = response.header.filter(|header| header.revision > 0) {
            self.look_at(now, header, response.events.is_empty(), actions);
        }
        let watch = response.watch_id;
        if response.canceled {
            self.cancelled(now, &response, actions);
        } else if response.created {
            self.created(now, watch, response.header.map_or(0, |header| header.revision), actions);
        } else if !response.events.is_empty() {
            self.events(watch, response.events, actions);
        } else if watch == -1 {
            self.progressed(actions);
        }
    }

    /// Holds the head of an answer against what was seen before: another cluster, an older term or a revision that went back are
    /// reasons to look at everything anew. A member that lags behind shows the same, and then nothing is found. Events may be overtaken
    /// by an answer about progress (before etcd 3.4.25), so only answers `of_now` are compared.
    fn look_at(&mut self, now: Instant, header: Header, of_now: bool, actions: &mut Vec<Action>) {
        let Some(stream) = &mut self.stream else { return };
        let another = |seen: Header| header.cluster_id != seen.cluster_id || header.raft_term < seen.raft_term;
        let odd = self.cluster.is_some_and(another) || (of_now && header.revision < stream.reached);
        stream.reached = if odd { header.revision } else { stream.reached.max(header.revision) };
        self.cluster = Some(header);
        if odd {
            tracing::warn!(revision = header.revision, "etcd's history is another, or went back; reading everything anew");
            self.doubt(now, actions);
        }
    }

    fn doubt(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.tracks.values_mut().for_each(|track| track.relist_at = now);
        actions.extend(self.owns.keys().map(|key| Action::Own(key.clone(), Own::Doubtful)));
    }

    fn created(&mut self, now: Instant, watch: i64, revision: i64, actions: &mut Vec<Action>) {
        match self.watches.get(&watch) {
            Some(Target::Track(scope)) => {
                if let Some(track) = self.tracks.get_mut(scope) {
                    track.created = Some(now);
                    if revision < track.revision {
                        track.relist_at = now;
                    }
                }
            }
            Some(Target::Own(key)) if self.owns.get(key).is_some_and(|own| revision < own.revision) => {
                actions.push(Action::Own(key.clone(), Own::Doubtful));
            }
            Some(Target::Own(_)) | None => {}
        }
    }

    fn cancelled(&mut self, now: Instant, response: &WatchResponse, actions: &mut Vec<Action>) {
        let target = self.watches.remove(&response.watch_id);
        if target.is_none() && response.watch_id != -1 {
            return;
        }
        if response.compact_revision > 0 {
            tracing::info!(at = response.compact_revision, "etcd has compacted what was to be watched; reading it anew");
            return self.end_watch(now, target, None, actions);
        }
        match Trouble::of_cancel(&response.cancel_reason) {
            trouble @ Trouble::Denied(_) => match target {
                Some(target) => self.end_watch(now, Some(target), Some(&trouble), actions),
                None => self.end_uncreated(now, &trouble, actions),
            },
            trouble => {
                actions.push(Action::Drop(Some(trouble.clone())));
                self.broke(now, trouble, actions);
            }
        }
    }

    /// A watch is no more, while its stream goes on.
    fn end_watch(&mut self, now: Instant, target: Option<Target>, trouble: Option<&Trouble>, actions: &mut Vec<Action>) {
        match target {
            Some(Target::Own(key)) => {
                self.owns.remove(&key);
                actions.push(Action::Own(key, Own::Lost));
            }
            Some(Target::Track(scope)) => {
                let Some(track) = self.tracks.get_mut(&scope) else { return };
                track.broke();
                (track.gap, track.relist_at) = (true, now);
                if let Some(trouble) = trouble.filter(|_| !track.told) {
                    track.fail(trouble);
                }
                if trouble.is_some() {
                    track.relist_at = now + full_jitter(&mut self.rng, SHORTEST_BACK_OFF, LONGEST_BACK_OFF, track.failures);
                    track.failures = track.failures.saturating_add(1);
                }
            }
            None => {}
        }
    }

    /// etcd refused a watch and did not say which: all that it has not said yes to.
    fn end_uncreated(&mut self, now: Instant, trouble: &Trouble, actions: &mut Vec<Action>) {
        let is_uncreated = |target: &Target| match target {
            Target::Track(scope) => self.tracks.get(scope).is_some_and(|track| track.created.is_none()),
            Target::Own(_) => true,
        };
        let ended: Vec<_> = self.watches.iter().filter(|(_, target)| is_uncreated(target)).map(|(id, _)| *id).collect();
        for watch in ended {
            let target = self.watches.get(&watch).cloned();
            self.cancel(watch, actions);
            self.end_watch(now, target, Some(trouble), actions);
        }
    }

    fn events(&mut self, watch: i64, events: Vec<WatchEvent>, actions: &mut Vec<Action>) {
        match self.watches.get(&watch) {
            Some(Target::Own(key)) => {
                let Some(last) = events.iter().filter_map(|event| Some(event.kv.as_ref()?.mod_revision)).max() else { return };
                if let Some(own) = self.owns.get_mut(key) {
                    own.revision = own.revision.max(last);
                }
                // The watch began at a revision that wrote the key: having told that, it has caught up.
                actions.extend([Action::Own(key.clone(), Own::Watched), Action::Own(key.clone(), Own::Changed(last))]);
            }
            Some(Target::Track(scope)) => {
                let changes = events.into_iter().filter_map(|event| self.change(event)).collect();
                if let Some(track) = self.tracks.get_mut(scope) {
                    track.hear(changes);
                }
            }
            None => {}
        }
    }

    fn change(&self, event: WatchEvent) -> Option<(i64, Change)> {
        let kv = event.kv?;
        let change = match event.kind {
            WatchEvent::PUT => match self.records.read(&kv) {
                Found::Record(entry) => Change::Put(entry),
                Found::Garbage(key) => Change::Lose(key),
                Found::Strange => return None,
            },
            WatchEvent::DELETE => Change::Lose(self.records.deleted(&kv)?),
            _ => return None,
        };
        Some((kv.mod_revision, change))
    }

    fn progressed(&mut self, actions: &mut Vec<Action>) {
        if let Some(stream) = &mut self.stream
            && std::mem::take(&mut stream.unanswered)
        {
            actions.push(Action::BarrierPassed);
        }
    }

    fn broke(&mut self, now: Instant, trouble: Trouble, actions: &mut Vec<Action>) {
        if self.stream.take().is_none() {
            return;
        }
        self.watches.clear();
        for track in self.tracks.values_mut() {
            track.broke();
            track.relist_at = track.relist_at.min(now + RELIST_AFTER_BREAK.mul_f64(self.rng.f64()));
        }
        self.owns.values_mut().for_each(|own| own.watch = None);
        actions.extend([Action::OwnsUnwatched, Action::BarrierFailed]);
        let pause = match self.failures {
            0 => Duration::ZERO,
            failures => full_jitter(&mut self.rng, SHORTEST_BACK_OFF, LONGEST_BACK_OFF, failures),
        };
        self.failures = self.failures.saturating_add(1);
        self.retry_at = Some(now + pause);
        match &mut self.down {
            Some(down) => down.why = trouble,
            None => self.down = Some(Down { since: now, why: trouble }),
        }
    }

    fn tend_stream(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let silence = self.stream.as_ref().map(|stream| now - stream.heard).filter(|silence| *silence >= SILENCE);
        if let Some(silence) = silence {
            actions.push(Action::Drop(Some(Trouble::Silent(silence))));
            self.broke(now, Trouble::Silent(silence), actions);
        }
        let wanted = !self.owns.is_empty() || self.tracks.values().any(|track| track.revision > 0);
        if self.stream.is_some() && !wanted {
            self.stream = None;
            self.watches.clear();
            actions.extend([Action::Drop(None), Action::BarrierFailed]);
        }
        if self.stream.is_none() && wanted && self.retry_at.is_none_or(|at| at <= now) {
            self.open(now, actions);
        }
        self.tell_of_trouble(now);
    }

    fn open(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.stream = Some(Stream { heard: now, up: false, reached: 0, asked: now, unanswered: false, barrier: false });
        actions.push(Action::Open);
        let (scopes, keys): (Vec<_>, Vec<_>) = (self.tracks.keys().cloned().collect(), self.owns.keys().cloned().collect());
        scopes.iter().for_each(|scope| self.watch_track(scope, actions));
        keys.iter().for_each(|key| self.watch_own(key, actions));
    }

    fn tell_of_trouble(&mut self, now: Instant) {
        let Some(down) = self.down.as_ref().filter(|down| now >= down.since + QUIET) else { return };
        self.tracks.values_mut().filter(|track| !track.told).for_each(|track| track.fail(&down.why));
    }

    fn tend_tracks(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let scopes: Vec<_> = self.tracks.keys().cloned().collect();
        for scope in scopes {
            if self.is_mergeable(now, &scope) {
                self.merge(now, &scope, actions);
            }
            let relist = self.next_relist(now);
            let Some(track) = self.tracks.get_mut(&scope) else { continue };
            if track.relist_at <= now && track.ask(false) {
                track.relist_at = relist;
                actions.push(Action::List(scope));
            }
        }
    }

    fn next_relist(&mut self, now: Instant) -> Instant {
        now + RELIST.mul_f64(0.8 + 0.4 * self.rng.f64())
    }

    /// A list is held until the watch has got as far, so that what is still on its way is not taken for missed.
    fn is_mergeable(&mut self, now: Instant, scope: &Scope) -> bool {
        let Some(track) = self.tracks.get(scope) else { return false };
        let Some((since, revision)) = track.unmerged() else { return false };
        let Some(stream) = self.stream.as_mut().filter(|_| track.revision > 0 && !track.told && now < since + CATCH_UP) else {
            return true;
        };
        let is_behind = track.created.is_none_or(|at| now < at + SETTLE);
        stream.barrier |= !is_behind && stream.reached < revision;
        !is_behind && stream.reached >= revision
    }

    fn merge(&mut self, now: Instant, scope: &Scope, actions: &mut Vec<Action>) {
        let Some(track) = self.tracks.get_mut(scope) else { return };
        let Some(merged) = track.merge() else {
            track.relist_at = now;
            return;
        };
        if merged.missed > 0 {
            actions.push(Action::Missed(scope.clone(), merged.missed));
        }
        if merged.again && track.ask(false) {
            actions.push(Action::List(scope.clone()));
        }
        if merged.rewritten
            && let Some(watch) = track.watch.take()
        {
            self.cancel(watch, actions);
        }
        if self.stream.is_some() {
            self.watch_track(scope, actions);
        }
        self.tend_stream(now, actions);
    }

    fn ask_progress(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let Some(stream) = self.stream.as_mut().filter(|stream| stream.up) else { return };
        if now < ask_at(stream) {
            return;
        }
        (stream.asked, stream.unanswered, stream.barrier) = (now, true, false);
        actions.push(Action::Ask(WatchAsk::Progress(WatchProgressRequest {}).into()));
        actions.push(Action::BarrierBegun);
    }

    /// When to step again, if nothing happens before.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let stream = self.stream.iter().flat_map(|stream| {
            let ask = stream.up.then(|| ask_at(stream));
            [Some(stream.heard + SILENCE), ask].into_iter().flatten()
        });
        let tracks = self.tracks.values().filter_map(|track| match track.unmerged() {
            Some((since, _)) => Some((since + CATCH_UP).min(track.created.map_or(since + CATCH_UP, |at| at + SETTLE).max(since))),
            None if track.is_asking() => None,
            None => Some(track.relist_at),
        });
        let wanted = !self.owns.is_empty() || self.tracks.values().any(|track| track.revision > 0);
        let retry = self.retry_at.filter(|_| self.stream.is_none() && wanted);
        let untold = self.tracks.values().any(|track| !track.told);
        let tell = self.down.as_ref().filter(|_| untold).map(|down| down.since + QUIET);
        stream.chain(tracks).chain(retry).chain(tell).min()
    }
}

/// When the stream is to be asked how far it has got.
fn ask_at(stream: &Stream) -> Instant {
    match (stream.barrier, stream.unanswered) {
        (true, false) => stream.asked + BARRIER,
        (true, true) => stream.asked + PROGRESS_AGAIN,
        (false, _) => stream.asked + PROGRESS,
    }
}
