//! State machine of the watches on one stream. Pure: time is an argument.
//!
//! ```text
//!  followed ─▶ list at R ─▶ watch from R ─▶ events, in order
//!                 ▲                │
//!                 └────────────────┴── compacted; another history or cluster;
//!                                      revision went back; every 5 min; after each
//!                                      disconnect
//!
//!  stream: open ─▶ progress requested each second
//!            ▲                  │ no response for 3 s, or disconnected
//!            └──────────────────┘ next member, watches from their last revision
//! ```
//!
//! A watch starts at the last known revision, not after it: etcd sends no progress on a stream with
//! a watch at a future revision. Events that come twice are emitted once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use waypost_core::record::Key;
use waypost_core::registry::{Broadcaster, Change};

use super::line::{Line, Sign};
use super::own::{Own, Owns};
use super::track::{Listed, Missed, Track};
use crate::records::{Found, Records};
use crate::rest;
use crate::trouble::Trouble;
use crate::wire::{
    Header, WatchAsk, WatchCancelRequest, WatchCreateRequest, WatchEvent, WatchProgressRequest,
    WatchRequest, WatchResponse,
};

/// Subject of a watch: one service, or all.
pub(crate) type Scope = Option<String>;

/// Maximum time that a list waits for the watch to reach its revision.
const CATCH_UP: Duration = Duration::from_millis(500);
/// Time for a new watch to catch up; before etcd 3.4.25 progress responses do not wait for it.
const SETTLE: Duration = Duration::from_millis(200);
/// Interval between two lists that detect missed changes of any cause; ± 20 %.
const RELIST: Duration = Duration::from_secs(300);
/// Maximum delay of the list after a disconnect.
const RELIST_AFTER_BREAK: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub(super) enum Event {
    Tick,
    /// New listener of this broadcaster; its first snapshot must not be older than now.
    Follow(Scope, Broadcaster),
    /// Scopes without listeners.
    Unfollow(Vec<Scope>),
    /// Own record valid at this revision.
    Own(Key, i64),
    Disown(Key),
    /// Barrier: confirm that every earlier change was received.
    Barrier,
    Listed(Scope, Result<Listed, Trouble>),
    /// Serializable list, and the error of the linearizable one.
    ListedByOne(Scope, Listed, Trouble),
    Heard(WatchResponse),
    Broke(Trouble),
    /// The stream and the lists in flight ended with their runtime.
    Restarted,
}

#[derive(Debug, PartialEq)]
pub(super) enum Action {
    Open,
    /// Drop the stream; with an error if its member is the cause.
    Drop(Option<Trouble>),
    Ask(WatchRequest),
    List(Scope),
    /// List with a serializable read, since the linearizable one failed.
    ListOfOne(Scope, Trouble),
    /// Event of an own record.
    Own(Key, Own),
    /// No own record is watched now.
    OwnsUnwatched,
    /// The progress request of the waiting barriers was sent.
    BarrierBegun,
    /// The response to it has arrived.
    BarrierPassed,
    /// Received changes cannot be confirmed.
    BarrierFailed,
    /// A list has found changes that the watch had missed.
    Missed(Scope, Missed),
}

#[derive(Debug)]
pub(super) struct Machine {
    records: Arc<Records>,
    tracks: BTreeMap<Scope, Track>,
    owns: Owns,
    /// Watches of the current stream.
    watches: BTreeMap<i64, Target>,
    last_watch: i64,
    line: Line,
    /// True from a disconnect to the first response of a new stream.
    broken: bool,
    cluster: Option<Header>,
    /// Last compacted revision reported by etcd; no watch can start before it.
    compacted: i64,
    rng: fastrand::Rng,
}

#[derive(Clone, Debug)]
enum Target {
    Track(Scope),
    Own(Key),
}

impl Machine {
    pub(super) fn new(records: Arc<Records>, rng: fastrand::Rng) -> Self {
        Self {
            records,
            tracks: BTreeMap::new(),
            owns: Owns::default(),
            watches: BTreeMap::new(),
            last_watch: 0,
            line: Line::default(),
            broken: false,
            cluster: None,
            compacted: 0,
            rng,
        }
    }

    pub(super) fn step(&mut self, now: Instant, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Tick => {}
            Event::Follow(scope, broadcaster) => self.follow(now, scope, broadcaster, &mut actions),
            Event::Unfollow(scopes) => scopes
                .iter()
                .for_each(|scope| self.unfollow(scope, &mut actions)),
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
            Event::Restarted => {
                for track in self.tracks.values_mut() {
                    track.unanswered();
                    track.relist_at = now;
                }
                self.broke(
                    now,
                    Trouble::Link("the runtime of the stream has shut down".to_owned()),
                    &mut actions,
                );
            }
        }
        self.tend_stream(now, &mut actions);
        self.tend_tracks(now, &mut actions);
        self.tend_owns(now, &mut actions);
        self.ask_progress(now, &mut actions);
        actions
    }

    /// Returns the scopes that may be removed, with their broadcasters. A scope with a list in flight is
    /// excluded: its successor would take the response for its own.
    pub(super) fn followed(&self) -> impl Iterator<Item = (&Scope, &Broadcaster)> {
        self.tracks
            .iter()
            .filter(|(_, track)| !track.is_asking())
            .map(|(scope, track)| (scope, &track.broadcaster))
    }

    fn follow(
        &mut self,
        now: Instant,
        scope: Scope,
        broadcaster: Broadcaster,
        actions: &mut Vec<Action>,
    ) {
        let relist = self.next_relist(now);
        let track = self
            .tracks
            .entry(scope.clone())
            .or_insert_with(|| Track::new(broadcaster, relist));
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
        if self.owns.stands(key, revision, self.line.is_up()) {
            actions.push(Action::Own(key.clone(), Own::Watched));
        }
        if self.line.is_open() {
            self.watch_own(key, actions);
        }
    }

    fn disown(&mut self, key: &Key, actions: &mut Vec<Action>) {
        if let Some(watch) = self.owns.remove(key) {
            self.cancel(watch, actions);
        }
    }

    fn barrier(&mut self, actions: &mut Vec<Action>) {
        if !self.line.want_barrier() {
            actions.push(Action::BarrierFailed);
        }
    }

    fn cancel(&mut self, watch: i64, actions: &mut Vec<Action>) {
        if self.watches.remove(&watch).is_some() {
            actions.push(Action::Ask(
                WatchAsk::Cancel(WatchCancelRequest { watch_id: watch }).into(),
            ));
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
        let create = WatchCreateRequest {
            key,
            range_end,
            start_revision: revision.max(1),
            watch_id,
            fragment: true,
        };
        actions.push(Action::Ask(WatchAsk::Create(create).into()));
        self.watches.insert(watch_id, target);
        watch_id
    }

    fn watch_own(&mut self, key: &Key, actions: &mut Vec<Action>) {
        if let Some(from) = self
            .owns
            .unwatched(key)
            .map(|revision| revision.max(self.compacted))
        {
            let watch = self.create(Target::Own(key.clone()), from, actions);
            self.owns.watched(key, watch, from);
        }
    }

    fn watch_track(&mut self, scope: &Scope, actions: &mut Vec<Action>) {
        let Some(track) = self
            .tracks
            .get(scope)
            .filter(|track| track.revision > 0 && track.watch.is_none())
        else {
            return;
        };
        let watch = self.create(Target::Track(scope.clone()), track.revision, actions);
        if let Some(track) = self.tracks.get_mut(scope) {
            (track.watch, track.created, track.settled) = (Some(watch), None, false);
        }
    }

    fn listed(
        &mut self,
        now: Instant,
        scope: Scope,
        listed: Result<Listed, Trouble>,
        actions: &mut Vec<Action>,
    ) {
        let Some(track) = self.tracks.get_mut(&scope) else {
            return;
        };
        match listed {
            Ok(listed) => {
                track.answered(now, listed);
                self.line.etcd_answers(now);
            }
            Err(trouble) => {
                track.unanswered();
                let rest = rest::after(&mut self.rng, track.failures);
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
        if !self.line.is_open() {
            return;
        }
        if self.line.heard(now) {
            self.goes_on(now);
        }
        let watch = response.watch_id;
        if let Some(header) = response.header.filter(|header| header.revision > 0) {
            let sign = match &response {
                response if response.canceled || !response.events.is_empty() => None,
                response if response.created => Some(Sign::Created),
                _ => (watch == -1).then_some(Sign::Progress),
            };
            self.look_at(now, header, sign, actions);
        }
        if response.canceled {
            self.cancelled(now, &response, actions);
        } else if response.created {
            self.created(
                now,
                watch,
                response.header.map_or(0, |header| header.revision),
                actions,
            );
        } else if !response.events.is_empty() {
            self.events(watch, response.events, actions);
        } else if watch == -1 {
            self.progressed(actions);
        }
    }

    /// Handles the first response on a stream: scopes in error are listed at once, and after a
    /// disconnect all scopes soon. An earlier list may come from another etcd.
    fn goes_on(&mut self, now: Instant) {
        let broken = std::mem::take(&mut self.broken);
        for track in self.tracks.values_mut() {
            if track.told {
                track.relist_at = now;
            } else if broken {
                track.relist_at = track
                    .relist_at
                    .min(now + RELIST_AFTER_BREAK.mul_f64(self.rng.f64()));
            }
        }
    }

    /// Compares a response header with earlier ones. Another cluster, an older term or a lower
    /// revision is a reason to list again. A member that lags shows the same, and then the lists
    /// find no change. Revisions of different sources are not compared, since one may overtake the
    /// other.
    fn look_at(
        &mut self,
        now: Instant,
        header: Header,
        sign: Option<Sign>,
        actions: &mut Vec<Action>,
    ) {
        let another = |seen: Header| {
            header.cluster_id != seen.cluster_id || header.raft_term < seen.raft_term
        };
        let went_back = sign.is_some_and(|sign| self.line.reaches(sign, header.revision));
        let odd = self.cluster.is_some_and(another) || went_back;
        self.cluster = Some(header);
        if odd {
            tracing::warn!(
                revision = header.revision,
                "etcd revision went backwards or cluster changed; re-listing"
            );
            self.doubt(now, actions);
        }
    }

    fn doubt(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.tracks
            .values_mut()
            .for_each(|track| track.relist_at = now);
        actions.extend(
            self.owns
                .keys()
                .map(|key| Action::Own(key.clone(), Own::Doubtful)),
        );
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
            // It waits for a revision that may never come, and suppresses progress responses
            // meanwhile.
            Some(Target::Own(key)) if !self.owns.created(now, key, revision, SETTLE) => {
                let target = Some(Target::Own(key.clone()));
                self.compacted = 0;
                self.cancel(watch, actions);
                self.end_watch(now, target, None, actions);
            }
            Some(Target::Own(_)) => {}
            None => {}
        }
    }

    fn cancelled(&mut self, now: Instant, response: &WatchResponse, actions: &mut Vec<Action>) {
        let target = self.watches.remove(&response.watch_id);
        if target.is_none() && response.watch_id != -1 {
            return;
        }
        if response.compact_revision > 0 {
            tracing::info!(
                compact_revision = response.compact_revision,
                "watched revision is compacted; re-listing"
            );
            self.compacted = response.compact_revision;
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

    /// Handles the end of one watch, while its stream continues.
    fn end_watch(
        &mut self,
        now: Instant,
        target: Option<Target>,
        trouble: Option<&Trouble>,
        actions: &mut Vec<Action>,
    ) {
        match target {
            Some(Target::Own(key)) => {
                self.owns.remove(&key);
                actions.push(Action::Own(key, Own::Lost));
            }
            Some(Target::Track(scope)) => {
                let Some(track) = self.tracks.get_mut(&scope) else {
                    return;
                };
                let lasted = track.lasted(now);
                track.broke();
                if let Some(trouble) = trouble.filter(|_| !track.told) {
                    track.fail(trouble);
                }
                let at_once = trouble.is_none() && (lasted || track.failures == 0);
                let rest = rest::after(&mut self.rng, track.failures);
                (track.gap, track.relist_at) = (true, if at_once { now } else { now + rest });
                track.failures = if lasted {
                    0
                } else {
                    track.failures.saturating_add(1)
                };
            }
            None => {}
        }
    }

    /// Ends all watches that etcd has not yet created: it refused one and did not name it.
    fn end_uncreated(&mut self, now: Instant, trouble: &Trouble, actions: &mut Vec<Action>) {
        let is_uncreated = |target: &Target| match target {
            Target::Track(scope) => self
                .tracks
                .get(scope)
                .is_some_and(|track| track.created.is_none()),
            Target::Own(_) => true,
        };
        let ended: Vec<_> = self
            .watches
            .iter()
            .filter(|(_, target)| is_uncreated(target))
            .map(|(id, _)| *id)
            .collect();
        for watch in ended {
            let target = self.watches.get(&watch).cloned();
            self.cancel(watch, actions);
            self.end_watch(now, target, Some(trouble), actions);
        }
    }

    fn events(&mut self, watch: i64, events: Vec<WatchEvent>, actions: &mut Vec<Action>) {
        match self.watches.get(&watch) {
            Some(Target::Own(key)) => {
                let Some(last) = events
                    .iter()
                    .filter_map(|event| Some(event.kv.as_ref()?.mod_revision))
                    .max()
                else {
                    return;
                };
                self.owns.changed(key, last);
                // Events come in order from the start revision: the watch has caught up.
                actions.extend([
                    Action::Own(key.clone(), Own::Watched),
                    Action::Own(key.clone(), Own::Changed(last)),
                ]);
            }
            Some(Target::Track(scope)) => {
                let changes = events
                    .into_iter()
                    .filter_map(|event| self.change(event))
                    .collect();
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
        if self.line.answered() {
            actions.push(Action::BarrierPassed);
        }
    }

    fn broke(&mut self, now: Instant, trouble: Trouble, actions: &mut Vec<Action>) {
        if !self.line.broke(now, trouble, &mut self.rng) {
            return;
        }
        self.watches.clear();
        self.owns.broke();
        self.broken = true;
        for track in self.tracks.values_mut() {
            track.broke();
            track.relist_at = track
                .relist_at
                .min(now + RELIST_AFTER_BREAK.mul_f64(self.rng.f64()));
        }
        actions.extend([Action::OwnsUnwatched, Action::BarrierFailed]);
    }

    fn is_wanted(&self) -> bool {
        !self.owns.is_empty() || self.tracks.values().any(|track| track.revision > 0)
    }

    fn tend_stream(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if let Some(silence) = self.line.silence(now) {
            actions.push(Action::Drop(Some(Trouble::Silent(silence))));
            self.broke(now, Trouble::Silent(silence), actions);
        }
        let wanted = self.is_wanted();
        if self.line.is_open() && !wanted {
            self.line.drop_it();
            self.watches.clear();
            self.owns.broke();
            actions.extend([Action::Drop(None), Action::BarrierFailed]);
        }
        if wanted && self.line.may_open(now) {
            self.open(now, actions);
        }
        if let Some(why) = self.line.trouble(now) {
            self.tracks
                .values_mut()
                .filter(|track| !track.told)
                .for_each(|track| track.fail(why));
        }
    }

    fn open(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.line.open(now);
        actions.push(Action::Open);
        let (scopes, keys): (Vec<_>, Vec<_>) = (
            self.tracks.keys().cloned().collect(),
            self.owns.keys().cloned().collect(),
        );
        scopes
            .iter()
            .for_each(|scope| self.watch_track(scope, actions));
        keys.iter().for_each(|key| self.watch_own(key, actions));
    }

    fn tend_tracks(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let is_due = |track: &Track| {
            track.unmerged().is_some() || (track.relist_at <= now && !track.is_asking())
        };
        let scopes: Vec<_> = self
            .tracks
            .iter()
            .filter(|(_, track)| is_due(track))
            .map(|(scope, _)| scope.clone())
            .collect();
        for scope in scopes {
            if self.is_mergeable(now, &scope) {
                self.merge(now, &scope, actions);
            }
            let relist = self.next_relist(now);
            let Some(track) = self.tracks.get_mut(&scope) else {
                continue;
            };
            if track.relist_at <= now && track.ask(false) {
                track.relist_at = relist;
                actions.push(Action::List(scope));
            }
        }
    }

    fn tend_owns(&mut self, now: Instant, actions: &mut Vec<Action>) {
        while let Some(key) = self.owns.proven(now) {
            actions.push(Action::Own(key, Own::Watched));
        }
    }

    fn next_relist(&mut self, now: Instant) -> Instant {
        now + RELIST.mul_f64(0.8 + 0.4 * self.rng.f64())
    }

    /// Returns true if a list may be merged. It waits until the watch has reached its revision, so
    /// that changes in flight do not count as missed.
    fn is_mergeable(&mut self, now: Instant, scope: &Scope) -> bool {
        let Some(track) = self.tracks.get_mut(scope) else {
            return false;
        };
        let Some((since, revision)) = track.unmerged() else {
            return false;
        };
        let is_watched = self.line.is_open() && track.watch.is_some() && revision >= track.revision;
        if !is_watched || track.told || now >= since + CATCH_UP {
            return true;
        }
        track.settled |= track.created.is_some_and(|at| now >= at + SETTLE);
        track.settled && self.line.has_reached(revision)
    }

    fn merge(&mut self, now: Instant, scope: &Scope, actions: &mut Vec<Action>) {
        let Some(track) = self.tracks.get_mut(scope) else {
            return;
        };
        let Some(merged) = track.merge() else {
            track.relist_at = now;
            return;
        };
        if track.lasted(now) {
            track.failures = 0;
        }
        if let Some(missed) = merged.missed {
            actions.push(Action::Missed(scope.clone(), missed));
        }
        if merged.again && track.ask(false) {
            actions.push(Action::List(scope.clone()));
        }
        if merged.rewritten
            && let Some(watch) = track.watch.take()
        {
            self.cancel(watch, actions);
        }
        if self.line.is_open() {
            self.watch_track(scope, actions);
        }
        self.tend_stream(now, actions);
    }

    fn ask_progress(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.line.ask(now) {
            actions.push(Action::Ask(
                WatchAsk::Progress(WatchProgressRequest {}).into(),
            ));
            actions.push(Action::BarrierBegun);
        }
    }

    /// Returns the time of the next step, if no event comes earlier.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let tracks = self
            .tracks
            .values()
            .filter_map(|track| match track.unmerged() {
                Some((since, _)) => {
                    let settles = track
                        .created
                        .filter(|_| !track.settled)
                        .map(|at| at + SETTLE);
                    settles.into_iter().chain([since + CATCH_UP]).min()
                }
                None if track.is_asking() => None,
                None => Some(track.relist_at),
            });
        let untold = self.tracks.values().any(|track| !track.told);
        self.line
            .deadline(self.is_wanted(), untold)
            .into_iter()
            .chain(tracks)
            .chain(self.owns.deadline())
            .min()
    }
}
