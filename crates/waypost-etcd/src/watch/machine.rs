//! State machine of the watches on one stream. Pure: time is an argument.
//!
//! ```text
//!  followed ─▶ list at R ─▶ watch from R ─▶ events, in order
//!                 ▲                │
//!                 └────────────────┴── compacted; another history or cluster;
//!                                      revision went back; every 5 min; some time
//!                                      after each disconnect
//!
//!  stream: open ─▶ progress requested every 10 s, at once for a list, or for a heartbeat
//!            │     that has seen a new revision
//!            ▲                  │ no response in time, or disconnected
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

use super::own_keys::{OwnKeyEvent, OwnKeys};
use super::scope::{Missed, ScopeState};
use super::stream::{Marker, StreamState};
use crate::error::EtcdError;
use crate::list::RecordList;
use crate::records::{Decoded, Records};
use crate::rpc::{
    Header, WatchCancelRequest, WatchCreateRequest, WatchEvent, WatchProgressRequest, WatchRequest,
    WatchRequestUnion, WatchResponse,
};
use crate::timing::Timing;

/// Subject of a watch: one service, or all.
pub(crate) type Scope = Option<String>;

/// Maximum time that a list waits for the watch to reach its revision.
const CATCH_UP: Duration = Duration::from_millis(500);
/// Time for a new watch to catch up; before etcd 3.4.25 progress responses do not wait for it.
const SETTLE: Duration = Duration::from_millis(200);
/// Time after a disconnect over which the lists of a handle are spread, for each scope. It doubles
/// with each further disconnect within a minute: a slow etcd must not be made slower.
const RELIST_AFTER_DISCONNECT: Duration = Duration::from_secs(3);
const MAX_RELIST_SPREAD: Duration = Duration::from_secs(60);
/// The same if the history is another, for each scope but one.
const SPREAD_PER_SCOPE: Duration = Duration::from_secs(2);
const MAX_SPREAD: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(super) enum WatchInput {
    Tick,
    /// New listener of this broadcaster; its first snapshot must not be older than now.
    Subscribe(Scope, Broadcaster),
    /// Scopes without listeners.
    Unsubscribe(Vec<Scope>),
    /// Own record valid at this revision.
    AddOwnKey(Key, i64),
    RemoveOwnKey(Key),
    /// Barrier: confirm that every change up to the revision in this header was received.
    Barrier(Header),
    Listed(Scope, Result<RecordList, EtcdError>),
    /// Serializable list, and the error of the linearizable one.
    ListedSerializable(Scope, RecordList, EtcdError),
    Response(WatchResponse),
    StreamBroken(EtcdError),
    /// The stream and the lists in flight ended with their runtime.
    Restarted,
}

#[derive(Debug, PartialEq)]
pub(super) enum WatchAction {
    OpenStream,
    /// Drop the stream; with an error if its member is the cause.
    CloseStream(Option<EtcdError>),
    Send(WatchRequest),
    List(Scope),
    /// List with a serializable read, since the linearizable one failed.
    ListSerializable(Scope, EtcdError),
    /// Event of an own record.
    OwnKey(Key, OwnKeyEvent),
    /// No own record is watched now.
    OwnKeysUnwatched,
    /// Every change up to this revision was received.
    Reached(i64),
    /// Received changes cannot be confirmed.
    BarrierFailed,
    /// A list has found changes that the watch had missed.
    Missed(Scope, Missed),
}

#[derive(Debug)]
pub(super) struct WatchMachine {
    records: Arc<Records>,
    scopes: BTreeMap<Scope, ScopeState>,
    own_keys: OwnKeys,
    /// Watches of the current stream.
    watches: BTreeMap<i64, Target>,
    last_watch_id: i64,
    stream: StreamState,
    /// True from a disconnect to the first response of a new stream.
    disconnected: bool,
    last_header: Option<Header>,
    /// Last compacted revision reported by etcd; no watch can start before it.
    compact_revision: i64,
    timing: Timing,
    rng: fastrand::Rng,
}

#[derive(Clone, Debug)]
enum Target {
    Scope(Scope),
    OwnKey(Key),
}

impl WatchMachine {
    pub(super) fn new(records: Arc<Records>, timing: Timing, rng: fastrand::Rng) -> Self {
        Self {
            records,
            scopes: BTreeMap::new(),
            own_keys: OwnKeys::default(),
            watches: BTreeMap::new(),
            last_watch_id: 0,
            stream: StreamState::new(timing),
            disconnected: false,
            last_header: None,
            compact_revision: 0,
            timing,
            rng,
        }
    }

    pub(super) fn step(&mut self, now: Instant, event: WatchInput) -> Vec<WatchAction> {
        let mut actions = Vec::new();
        match event {
            WatchInput::Tick => {}
            WatchInput::Subscribe(scope, broadcaster) => {
                self.subscribe(now, scope, broadcaster, &mut actions);
            }
            WatchInput::Unsubscribe(scopes) => scopes
                .iter()
                .for_each(|scope| self.unsubscribe(scope, &mut actions)),
            WatchInput::AddOwnKey(key, revision) => self.add_own_key(&key, revision, &mut actions),
            WatchInput::RemoveOwnKey(key) => self.remove_own_key(&key, &mut actions),
            WatchInput::Barrier(header) => self.barrier(now, header, &mut actions),
            WatchInput::Listed(scope, listed) => self.on_listed(now, scope, listed, &mut actions),
            WatchInput::ListedSerializable(scope, listed, error) => {
                if let Some(state) = self.scopes.get_mut(&scope) {
                    state.apply_serializable(listed, error);
                }
            }
            WatchInput::Response(response) => self.on_response(now, response, &mut actions),
            WatchInput::StreamBroken(error) => self.on_stream_broken(now, error, &mut actions),
            WatchInput::Restarted => {
                for state in self.scopes.values_mut() {
                    state.list_failed();
                    state.relist_at = now;
                }
                self.on_stream_broken(
                    now,
                    EtcdError::Transport("the runtime of the stream has shut down".to_owned()),
                    &mut actions,
                );
            }
        }
        self.poll_stream(now, &mut actions);
        self.poll_scopes(now, &mut actions);
        self.poll_own_keys(now, &mut actions);
        self.request_progress(now, &mut actions);
        actions
    }

    /// Returns the scopes that may be removed, with their broadcasters. A scope with a list in flight
    /// is excluded: its successor would take the response for its own.
    pub(super) fn removable(&self) -> impl Iterator<Item = (&Scope, &Broadcaster)> {
        self.scopes
            .iter()
            .filter(|(_, state)| !state.is_listing())
            .map(|(scope, state)| (scope, &state.broadcaster))
    }

    fn subscribe(
        &mut self,
        now: Instant,
        scope: Scope,
        broadcaster: Broadcaster,
        actions: &mut Vec<WatchAction>,
    ) {
        let relist = self.next_relist(now);
        let state = self
            .scopes
            .entry(scope.clone())
            .or_insert_with(|| ScopeState::new(broadcaster, relist));
        if state.begin_list(true) {
            state.relist_at = relist;
            actions.push(WatchAction::List(scope));
        }
    }

    fn unsubscribe(&mut self, scope: &Scope, actions: &mut Vec<WatchAction>) {
        if let Some(watch) = self.scopes.remove(scope).and_then(|state| state.watch) {
            self.cancel(watch, actions);
        }
    }

    fn add_own_key(&mut self, key: &Key, revision: i64, actions: &mut Vec<WatchAction>) {
        if self
            .own_keys
            .record_valid(key, revision, self.stream.is_up())
        {
            actions.push(WatchAction::OwnKey(key.clone(), OwnKeyEvent::Watched));
        }
        if self.stream.is_open() {
            self.watch_own_key(key, actions);
        }
    }

    fn remove_own_key(&mut self, key: &Key, actions: &mut Vec<WatchAction>) {
        if let Some(watch) = self.own_keys.remove(key) {
            self.cancel(watch, actions);
        }
    }

    /// Compares a response to another request with the progress of the watches. In an idle store
    /// nothing has changed since, and no progress has to be requested.
    fn barrier(&mut self, now: Instant, header: Header, actions: &mut Vec<WatchAction>) {
        let is_same_history = self.last_header.is_some_and(|seen| {
            header.cluster_id == seen.cluster_id && header.raft_term == seen.raft_term
        });
        if !is_same_history || !self.stream.is_up() {
            actions.push(WatchAction::BarrierFailed);
        } else if self.stream.has_reached(header.revision) {
            self.stream.postpone_check(now, &mut self.rng);
            actions.push(WatchAction::Reached(header.revision));
        }
    }

    fn cancel(&mut self, watch: i64, actions: &mut Vec<WatchAction>) {
        if self.watches.remove(&watch).is_some() {
            actions.push(WatchAction::Send(
                WatchRequestUnion::Cancel(WatchCancelRequest { watch_id: watch }).into(),
            ));
        }
    }

    fn create(&mut self, target: Target, revision: i64, actions: &mut Vec<WatchAction>) -> i64 {
        self.last_watch_id += 1;
        let key_space = self.records.key_space();
        let (key, range_end) = match &target {
            Target::Scope(scope) => {
                let range = key_space.range(scope.as_deref());
                (range.key, range.end)
            }
            Target::OwnKey(key) => (key_space.key(key), Vec::new()),
        };
        let watch_id = self.last_watch_id;
        let create = WatchCreateRequest {
            key,
            range_end,
            start_revision: revision.max(1),
            watch_id,
            fragment: true,
        };
        actions.push(WatchAction::Send(WatchRequestUnion::Create(create).into()));
        self.watches.insert(watch_id, target);
        watch_id
    }

    fn watch_own_key(&mut self, key: &Key, actions: &mut Vec<WatchAction>) {
        if let Some(from) = self
            .own_keys
            .unwatched(key)
            .map(|revision| revision.max(self.compact_revision))
        {
            let watch = self.create(Target::OwnKey(key.clone()), from, actions);
            self.own_keys.watched(key, watch, from);
        }
    }

    fn watch_scope(&mut self, scope: &Scope, actions: &mut Vec<WatchAction>) {
        let Some(state) = self
            .scopes
            .get(scope)
            .filter(|state| state.revision > 0 && state.watch.is_none())
        else {
            return;
        };
        let watch = self.create(Target::Scope(scope.clone()), state.revision, actions);
        if let Some(state) = self.scopes.get_mut(scope) {
            (state.watch, state.created_at, state.caught_up) = (Some(watch), None, false);
        }
    }

    fn on_listed(
        &mut self,
        now: Instant,
        scope: Scope,
        listed: Result<RecordList, EtcdError>,
        actions: &mut Vec<WatchAction>,
    ) {
        let Some(state) = self.scopes.get_mut(&scope) else {
            return;
        };
        match listed {
            Ok(listed) => {
                state.on_listed(now, listed);
                self.stream.on_other_response(now);
            }
            Err(error) => {
                state.list_failed();
                let delay = self.timing.backoff(&mut self.rng, state.failures);
                state.failures = state.failures.saturating_add(1);
                state.relist_at = now + delay;
                let is_first = state.revision == 0;
                if !state.error_sent && (is_first || !error.should_fail_over()) {
                    state.send_error(&error);
                }
                if is_first && error.should_fail_over() && !state.serializable {
                    actions.push(WatchAction::ListSerializable(scope, error));
                }
            }
        }
    }

    fn on_response(
        &mut self,
        now: Instant,
        response: WatchResponse,
        actions: &mut Vec<WatchAction>,
    ) {
        if !self.stream.is_open() {
            return;
        }
        if self.stream.on_response(now) {
            self.on_first_response(now, response.header);
        }
        let watch = response.watch_id;
        if let Some(header) = response.header.filter(|header| header.revision > 0) {
            let marker = match &response {
                response if response.canceled || !response.events.is_empty() => None,
                response if response.created => Some(Marker::Created),
                _ => (watch == -1).then_some(Marker::Progress),
            };
            self.check_header(now, header, marker, actions);
        }
        if response.canceled {
            self.on_canceled(now, &response, actions);
        } else if response.created {
            self.on_created(
                now,
                watch,
                response.header.map_or(0, |header| header.revision),
                actions,
            );
        } else if !response.events.is_empty() {
            self.on_events(watch, response.events, actions);
        } else if watch == -1 {
            self.on_progress(actions);
        }
    }

    /// Handles the first response on a stream. If it continues the history that is known, the watches
    /// resume without a gap, and the lists only verify that. An earlier list may come from another
    /// etcd.
    fn on_first_response(&mut self, now: Instant, header: Option<Header>) {
        let disconnected = std::mem::take(&mut self.disconnected);
        let continues = |seen: Header| {
            header.is_some_and(|header| {
                header.cluster_id == seen.cluster_id
                    && header.raft_term >= seen.raft_term
                    && header.revision >= seen.revision
            })
        };
        let resumes = disconnected && self.last_header.is_some_and(continues);
        let (spread, after_disconnect) = (self.list_spread(), self.spread_after_disconnect());
        for state in self.scopes.values_mut() {
            if resumes && state.watch.is_some() {
                state.resume();
            }
            let delay = match () {
                () if state.error_sent => spread,
                () if disconnected => after_disconnect,
                () => continue,
            };
            state.relist_within(now, delay, &mut self.rng);
        }
    }

    /// Returns the time over which the lists of all scopes are spread after a disconnect.
    fn spread_after_disconnect(&self) -> Duration {
        let scopes = u32::try_from(self.scopes.len()).unwrap_or(u32::MAX);
        let factor = scopes.saturating_mul(self.stream.recent_breaks_factor());
        RELIST_AFTER_DISCONNECT
            .saturating_mul(factor)
            .min(MAX_RELIST_SPREAD)
    }

    /// Returns the time over which the lists of all scopes are spread.
    fn list_spread(&self) -> Duration {
        let others = u32::try_from(self.scopes.len().saturating_sub(1)).unwrap_or(u32::MAX);
        SPREAD_PER_SCOPE.saturating_mul(others).min(MAX_SPREAD)
    }

    /// Compares a response header with earlier ones. Another cluster, an older term or a lower
    /// revision is a reason to list again. A member that lags shows the same, and then the lists
    /// find no change. Revisions of different sources are not compared, since one may overtake the
    /// other.
    fn check_header(
        &mut self,
        now: Instant,
        header: Header,
        marker: Option<Marker>,
        actions: &mut Vec<WatchAction>,
    ) {
        let is_another = |seen: Header| {
            header.cluster_id != seen.cluster_id || header.raft_term < seen.raft_term
        };
        let went_backwards =
            marker.is_some_and(|marker| self.stream.record_revision(marker, header.revision));
        let is_inconsistent = self.last_header.is_some_and(is_another) || went_backwards;
        self.last_header = Some(header);
        if is_inconsistent {
            tracing::warn!(
                revision = header.revision,
                "etcd revision went backwards or cluster changed; re-listing"
            );
            self.mark_stale(now, actions);
        }
    }

    fn mark_stale(&mut self, now: Instant, actions: &mut Vec<WatchAction>) {
        let spread = self.list_spread();
        for state in self.scopes.values_mut() {
            state.relist_within(now, spread, &mut self.rng);
        }
        actions.extend(
            self.own_keys
                .keys()
                .map(|key| WatchAction::OwnKey(key.clone(), OwnKeyEvent::Stale)),
        );
    }

    fn on_created(
        &mut self,
        now: Instant,
        watch: i64,
        revision: i64,
        actions: &mut Vec<WatchAction>,
    ) {
        let spread = self.list_spread();
        match self.watches.get(&watch) {
            Some(Target::Scope(scope)) => {
                if let Some(state) = self.scopes.get_mut(scope) {
                    state.created_at = Some(now);
                    if revision < state.revision {
                        state.relist_within(now, spread, &mut self.rng);
                    }
                }
            }
            // It waits for a revision that may never come, and suppresses progress responses
            // meanwhile.
            Some(Target::OwnKey(key)) if !self.own_keys.created(now, key, revision, SETTLE) => {
                let target = Some(Target::OwnKey(key.clone()));
                self.compact_revision = 0;
                self.cancel(watch, actions);
                self.end_watch(now, target, None, actions);
            }
            Some(Target::OwnKey(_)) => {}
            None => {}
        }
    }

    fn on_canceled(
        &mut self,
        now: Instant,
        response: &WatchResponse,
        actions: &mut Vec<WatchAction>,
    ) {
        let target = self.watches.remove(&response.watch_id);
        if target.is_none() && response.watch_id != -1 {
            return;
        }
        if response.compact_revision > 0 {
            tracing::info!(
                compact_revision = response.compact_revision,
                "watched revision is compacted; re-listing"
            );
            self.compact_revision = response.compact_revision;
            return self.end_watch(now, target, None, actions);
        }
        match EtcdError::from_cancel_reason(&response.cancel_reason) {
            error @ EtcdError::Denied(_) => match target {
                Some(target) => self.end_watch(now, Some(target), Some(&error), actions),
                None => self.end_uncreated(now, &error, actions),
            },
            error => {
                actions.push(WatchAction::CloseStream(Some(error.clone())));
                self.on_stream_broken(now, error, actions);
            }
        }
    }

    /// Handles the end of one watch, while its stream continues.
    fn end_watch(
        &mut self,
        now: Instant,
        target: Option<Target>,
        error: Option<&EtcdError>,
        actions: &mut Vec<WatchAction>,
    ) {
        match target {
            Some(Target::OwnKey(key)) => {
                self.own_keys.remove(&key);
                actions.push(WatchAction::OwnKey(key, OwnKeyEvent::Lost));
            }
            Some(Target::Scope(scope)) => {
                let Some(state) = self.scopes.get_mut(&scope) else {
                    return;
                };
                let has_lasted = state.has_lasted(now);
                state.remove_watch();
                if let Some(error) = error.filter(|_| !state.error_sent) {
                    state.send_error(error);
                }
                let at_once = error.is_none() && (has_lasted || state.failures == 0);
                let delay = self.timing.backoff(&mut self.rng, state.failures);
                (state.gap, state.relist_at) = (true, if at_once { now } else { now + delay });
                state.failures = if has_lasted {
                    0
                } else {
                    state.failures.saturating_add(1)
                };
            }
            None => {}
        }
    }

    /// Ends all watches that etcd has not yet created: it refused one and did not name it.
    fn end_uncreated(&mut self, now: Instant, error: &EtcdError, actions: &mut Vec<WatchAction>) {
        let is_uncreated = |target: &Target| match target {
            Target::Scope(scope) => self
                .scopes
                .get(scope)
                .is_some_and(|state| state.created_at.is_none()),
            Target::OwnKey(_) => true,
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
            self.end_watch(now, target, Some(error), actions);
        }
    }

    fn on_events(&mut self, watch: i64, events: Vec<WatchEvent>, actions: &mut Vec<WatchAction>) {
        match self.watches.get(&watch) {
            Some(Target::OwnKey(key)) => {
                let Some(last) = events
                    .iter()
                    .filter_map(|event| Some(event.kv.as_ref()?.mod_revision))
                    .max()
                else {
                    return;
                };
                self.own_keys.changed(key, last);
                // Events come in order from the start revision: the watch has caught up.
                actions.extend([
                    WatchAction::OwnKey(key.clone(), OwnKeyEvent::Watched),
                    WatchAction::OwnKey(key.clone(), OwnKeyEvent::Changed(last)),
                ]);
            }
            Some(Target::Scope(scope)) => {
                let changes = events
                    .into_iter()
                    .filter_map(|event| self.decode_event(event))
                    .collect();
                if let Some(state) = self.scopes.get_mut(scope) {
                    state.apply(changes);
                }
            }
            None => {}
        }
    }

    fn decode_event(&self, event: WatchEvent) -> Option<(i64, Change)> {
        let kv = event.kv?;
        let change = match event.kind {
            WatchEvent::PUT => match self.records.decode(&kv) {
                Decoded::Record(entry) => Change::Put(entry),
                Decoded::Invalid(key) => Change::Lose(key),
                Decoded::Foreign => return None,
            },
            WatchEvent::DELETE => Change::Lose(self.records.deleted(&kv)?),
            _ => return None,
        };
        Some((kv.mod_revision, change))
    }

    fn on_progress(&mut self, actions: &mut Vec<WatchAction>) {
        if let Some(revision) = self.stream.end_progress() {
            actions.push(WatchAction::Reached(revision));
        }
    }

    fn on_stream_broken(&mut self, now: Instant, error: EtcdError, actions: &mut Vec<WatchAction>) {
        if !self.stream.on_broken(now, error, &mut self.rng) {
            return;
        }
        self.watches.clear();
        self.own_keys.clear_watches();
        self.disconnected = true;
        self.scopes.values_mut().for_each(ScopeState::remove_watch);
        actions.extend([WatchAction::OwnKeysUnwatched, WatchAction::BarrierFailed]);
    }

    fn needs_stream(&self) -> bool {
        !self.own_keys.is_empty() || self.scopes.values().any(|state| state.revision > 0)
    }

    fn poll_stream(&mut self, now: Instant, actions: &mut Vec<WatchAction>) {
        if let Some(overdue) = self.stream.overdue(now) {
            actions.push(WatchAction::CloseStream(Some(EtcdError::Timeout(overdue))));
            self.on_stream_broken(now, EtcdError::Timeout(overdue), actions);
        }
        let needs_stream = self.needs_stream();
        if self.stream.is_open() && !needs_stream {
            self.stream.close();
            self.watches.clear();
            self.own_keys.clear_watches();
            actions.extend([WatchAction::CloseStream(None), WatchAction::BarrierFailed]);
        }
        if needs_stream && self.stream.may_open(now) {
            self.open(now, actions);
        }
        if let Some(error) = self.stream.due_error(now) {
            self.scopes
                .values_mut()
                .filter(|state| !state.error_sent)
                .for_each(|state| state.send_stream_error(error));
        }
    }

    fn open(&mut self, now: Instant, actions: &mut Vec<WatchAction>) {
        self.stream.open(now, &mut self.rng);
        actions.push(WatchAction::OpenStream);
        let (scopes, keys): (Vec<_>, Vec<_>) = (
            self.scopes.keys().cloned().collect(),
            self.own_keys.keys().cloned().collect(),
        );
        scopes
            .iter()
            .for_each(|scope| self.watch_scope(scope, actions));
        keys.iter().for_each(|key| self.watch_own_key(key, actions));
    }

    fn poll_scopes(&mut self, now: Instant, actions: &mut Vec<WatchAction>) {
        let is_due = |state: &ScopeState| {
            state.pending().is_some() || (state.relist_at <= now && !state.is_listing())
        };
        let scopes: Vec<_> = self
            .scopes
            .iter()
            .filter(|(_, state)| is_due(state))
            .map(|(scope, _)| scope.clone())
            .collect();
        for scope in scopes {
            if self.is_mergeable(now, &scope) {
                self.merge(now, &scope, actions);
            }
            let relist = self.next_relist(now);
            let Some(state) = self.scopes.get_mut(&scope) else {
                continue;
            };
            if state.relist_at <= now && state.begin_list(false) {
                state.relist_at = relist;
                actions.push(WatchAction::List(scope));
            }
        }
    }

    fn poll_own_keys(&mut self, now: Instant, actions: &mut Vec<WatchAction>) {
        while let Some(key) = self.own_keys.next_confirmed(now) {
            actions.push(WatchAction::OwnKey(key, OwnKeyEvent::Watched));
        }
    }

    fn next_relist(&mut self, now: Instant) -> Instant {
        now + self.timing.relist_in(&mut self.rng)
    }

    /// Returns true if a list may be merged. It waits until the watch has reached its revision, so
    /// that changes in flight do not count as missed.
    fn is_mergeable(&mut self, now: Instant, scope: &Scope) -> bool {
        let Some(state) = self.scopes.get_mut(scope) else {
            return false;
        };
        let Some((since, revision)) = state.pending() else {
            return false;
        };
        let is_watched =
            self.stream.is_open() && state.watch.is_some() && revision >= state.revision;
        if !is_watched || state.error_sent || now >= since + CATCH_UP {
            return true;
        }
        state.caught_up |= state.created_at.is_some_and(|at| now >= at + SETTLE);
        state.caught_up && self.stream.has_reached(revision)
    }

    fn merge(&mut self, now: Instant, scope: &Scope, actions: &mut Vec<WatchAction>) {
        let Some(state) = self.scopes.get_mut(scope) else {
            return;
        };
        let Some(merged) = state.merge() else {
            state.relist_at = now;
            return;
        };
        if state.has_lasted(now) {
            state.failures = 0;
        }
        if let Some(missed) = merged.missed {
            actions.push(WatchAction::Missed(scope.clone(), missed));
        }
        if merged.needs_another && state.begin_list(false) {
            actions.push(WatchAction::List(scope.clone()));
        }
        if merged.history_changed
            && let Some(watch) = state.watch.take()
        {
            self.cancel(watch, actions);
        }
        if self.stream.is_open() {
            self.watch_scope(scope, actions);
        }
        self.poll_stream(now, actions);
    }

    fn request_progress(&mut self, now: Instant, actions: &mut Vec<WatchAction>) {
        if self.stream.begin_progress(now, &mut self.rng) {
            actions.push(WatchAction::Send(
                WatchRequestUnion::Progress(WatchProgressRequest {}).into(),
            ));
        }
    }

    /// Returns the time of the next step, if no event comes earlier.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let scopes = self
            .scopes
            .values()
            .filter_map(|state| match state.pending() {
                Some((since, _)) => {
                    let settles = state
                        .created_at
                        .filter(|_| !state.caught_up)
                        .map(|at| at + SETTLE);
                    settles.into_iter().chain([since + CATCH_UP]).min()
                }
                None if state.is_listing() => None,
                None => Some(state.relist_at),
            });
        let errors_pending = self.scopes.values().any(|state| !state.error_sent);
        self.stream
            .deadline(self.needs_stream(), errors_pending)
            .into_iter()
            .chain(scopes)
            .chain(self.own_keys.deadline())
            .min()
    }
}
