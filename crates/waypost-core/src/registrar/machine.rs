//! Pure state machine of the registrar. Time and randomness are arguments; the output is a list of
//! actions.
//!
//! Two lanes run concurrently, each with at most one piece of work in progress: the check, and the
//! request to the registry. A slow check never delays a heartbeat, and a hung check never delays a
//! deregister request.
//!
//! ```text
//!   check lane      start ─▶ check ──▶ wait for the next heartbeat ──▶ check …
//!                   (each result is recorded in the health)
//!
//!   request lane    health unknown ─▶ idle
//!                   passing ─▶ register ──ok──▶ wait for the next heartbeat ──▶ register …
//!                                 └──failed──▶ backoff ──▶ register …
//!                   failing ─▶ deregister ──ok──▶ idle
//!                                 └──failed──▶ backoff ──▶ deregister …
//!
//!   leave, in any state: await a register in progress ─▶ deregister ─▶ left; at most the timeout
//! ```
//!
//! Heartbeats are an interval apart, counted from the pulse: an instant that all registrations of a
//! handle share. A record that another writer has changed is registered again sooner, if the registry
//! notifies of that. The heartbeats of one process coincide, those of a fleet do not, regardless of its
//! start or of outages of its registry.
//!
//! A time of `None` means never: a setting such as `Duration::MAX` has no end.

use std::time::Duration;

use tokio::time::Instant;

use super::event::{Action, Event, Lane, Work, WorkFailure, WorkFailureKind};
use super::health::{Health, Status};
use super::{Config, State};
use crate::backoff::fraction;
use crate::registry::in_millis;

/// Longest duration that is counted; a longer one never ends. Far below the range of an instant, so
/// that timers can add to it.
const ENDLESS: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Longest delay before a record that another writer has changed is registered again.
const REPAIR_SPREAD: Duration = Duration::from_secs(2);

/// Returns the instant `duration` after `now`, or none for never.
fn after(now: Instant, duration: Duration) -> Option<Instant> {
    if duration > ENDLESS {
        None
    } else {
        now.checked_add(duration)
    }
}

/// Returns the earlier of two times, either of which may be never.
fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}

/// Work in progress in a lane.
#[derive(Clone, Copy, Debug)]
struct RunningWork {
    work: Work,
    since: Instant,
    until: Option<Instant>,
    /// True if the registry may have contained the record before this work.
    written_before: bool,
}

/// Construction arguments of a machine.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    pub(super) config: Config,
    /// Maximum duration of one request to the registry; that of a check is [`Config::timeout`].
    pub(super) request_timeout: Duration,
    pub(super) checks: bool,
    /// Instant from which intervals are counted, in both directions.
    pub(super) pulse: Instant,
    /// Last state of the machine that this one replaces, if any.
    pub(super) resumed: Option<State>,
}

/// The state machine of one registration.
#[derive(Debug)]
pub(super) struct Machine {
    config: Config,
    request_timeout: Duration,
    checks: bool,
    pulse: Instant,
    state: State,
    health: Health,
    check: Option<RunningWork>,
    request: Option<RunningWork>,
    /// Time of the next check.
    check_due: Option<Instant>,
    /// Time of the next request to the registry.
    due: Option<Instant>,
    /// Time of the last register, successful or not.
    written_at: Option<Instant>,
    /// True if the registry may contain the record.
    written: bool,
    /// True if the record differs from the one last written.
    changed: bool,
    /// Consecutive failed requests.
    failures: u32,
    registered_before: bool,
    leaving: Option<Leaving>,
    finished: bool,
}

/// State of an ordered deregistration.
#[derive(Debug)]
struct Leaving {
    by: Option<Instant>,
    /// True if the registry denies the deregistration permanently.
    refused: bool,
}

impl Machine {
    /// Creates a machine whose first work is due at `now`.
    pub(super) fn new(setup: Setup, now: Instant) -> Self {
        let Setup {
            config,
            request_timeout,
            checks,
            pulse,
            resumed,
        } = setup;
        let health = match checks {
            true => Health::unknown(config.failure_threshold, config.success_threshold),
            false => Health::passing(),
        };
        let registered_before = match &resumed {
            Some(State::Registered { .. }) => true,
            Some(State::Failing {
                registered_before, ..
            }) => *registered_before,
            _ => false,
        };
        Self {
            config,
            request_timeout,
            checks,
            pulse,
            written: resumed.is_some(),
            state: resumed.unwrap_or(State::Starting),
            health,
            check: None,
            request: None,
            check_due: Some(now),
            due: Some(now),
            written_at: None,
            changed: false,
            failures: 0,
            registered_before,
            leaving: None,
            finished: false,
        }
    }

    /// Returns the time of the next [`Event::Tick`] if no other event comes before; none for never,
    /// and after the end.
    pub(super) fn deadline(&self) -> Option<Instant> {
        if self.finished {
            return None;
        }
        let check = match self.check {
            Some(running) => running.until,
            None => self
                .check_due
                .filter(|_| self.checks && self.leaving.is_none()),
        };
        let request = match self.request {
            Some(running) => running.until,
            None => self.due.filter(|_| self.wanted().is_some()),
        };
        let by = self.leaving.as_ref().and_then(|leaving| leaving.by);
        earlier(earlier(check, request), by)
    }

    /// Processes one event. `chance` is drawn from 0 to 1 for each event.
    pub(super) fn step(&mut self, now: Instant, chance: f64, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        let before = self.state.clone();
        self.take(now, chance, event, &mut actions);
        self.expire(now, chance, &mut actions);
        self.begin(now, &mut actions);
        if self.state != before {
            actions.insert(0, Action::SetState(self.state.clone()));
        }
        actions
    }

    fn take(&mut self, now: Instant, chance: f64, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Tick => {}
            Event::Checked(answer) => {
                if let Some(check) = self.check.take() {
                    self.checked(now, check, answer);
                }
            }
            Event::Registered(answer) => self.answered(now, chance, Work::Register, answer),
            Event::Deregistered(answer) => self.answered(now, chance, Work::Deregister, answer),
            Event::Changed => self.change(now),
            Event::Overwritten => self.on_overwritten(now, chance),
            Event::Leave => self.leave(now, actions),
        }
    }

    /// Ends overdue work: a missing result counts as a failed check, or as an unreachable registry.
    fn expire(&mut self, now: Instant, chance: f64, actions: &mut Vec<Action>) {
        let overdue = |running: &mut RunningWork| running.until.is_some_and(|until| until <= now);
        let no_answer = |since: Instant| format!("no answer within {:?}", in_millis(now - since));
        if let Some(check) = self.check.take_if(overdue) {
            actions.push(Action::Abandon(Lane::Check));
            self.checked(now, check, Err(no_answer(check.since)));
        }
        if let Some(request) = self
            .request
            .filter(|request| request.until.is_some_and(|until| until <= now))
        {
            actions.push(Action::Abandon(Lane::Request));
            let failure = WorkFailure {
                kind: WorkFailureKind::Unreachable,
                why: no_answer(request.since),
            };
            self.answered(now, chance, request.work, Err(failure));
        }
    }

    /// Records the result of a check. A check that took longer than the interval is repeated at
    /// once, so that a hung node is deregistered after [`Config::failure_threshold`] timeouts.
    fn checked(&mut self, now: Instant, check: RunningWork, answer: Result<(), String>) {
        self.check_due = self.next_heartbeat(check.since).map(|at| at.max(now));
        if self.health.record(answer.is_ok()) {
            self.ask_now(now);
        }
        if let (Err(why), true) = (answer, self.health.is_failing()) {
            let since = if let State::Unhealthy { since, .. } = self.state {
                since
            } else {
                now
            };
            self.state = State::Unhealthy { since, why };
        }
    }

    fn ask_now(&mut self, now: Instant) {
        self.due = Some(now);
        self.failures = 0;
    }

    fn answered(&mut self, now: Instant, chance: f64, work: Work, answer: Result<(), WorkFailure>) {
        match self.request.take_if(|request| request.work == work) {
            Some(request) if work == Work::Register => {
                self.registered(now, chance, request, answer);
            }
            Some(_) => self.deregistered(now, chance, answer),
            None => {}
        }
    }

    fn registered(
        &mut self,
        now: Instant,
        chance: f64,
        request: RunningWork,
        answer: Result<(), WorkFailure>,
    ) {
        match answer.as_ref().map_err(|failure| failure.kind) {
            Err(WorkFailureKind::Conflict) => self.written = false,
            Err(WorkFailureKind::Denied | WorkFailureKind::Permanent) => {
                self.written = request.written_before;
            }
            Ok(()) | Err(WorkFailureKind::Unreachable) => {}
        }
        match answer {
            _ if self.leaving.is_some() || self.health.is_failing() => self.due = Some(now),
            Ok(()) => self.on_registered(now, request.since),
            Err(failure) => self.fails(now, chance, failure),
        }
    }

    fn on_registered(&mut self, now: Instant, since: Instant) {
        self.failures = 0;
        self.registered_before = true;
        let change = if self.changed {
            self.soonest(now)
        } else {
            None
        };
        self.due = earlier(change, self.next_heartbeat(since));
        if !self.state.is_registered() {
            self.state = State::Registered { since: now };
        }
    }

    /// Returns the first heartbeat after `since`, at most an interval later.
    fn next_heartbeat(&self, since: Instant) -> Option<Instant> {
        const NANOS: u128 = 1_000_000_000;
        let interval = self.config.interval.as_nanos();
        let gap = match self.pulse.checked_duration_since(since) {
            Some(before) => (before.as_nanos() + interval - 1) % interval + 1,
            None => interval - (since - self.pulse).as_nanos() % interval,
        };
        let seconds = u64::try_from(gap / NANOS).unwrap_or(u64::MAX);
        after(
            since,
            Duration::new(seconds, u32::try_from(gap % NANOS).unwrap_or(0)),
        )
    }

    fn fails(&mut self, now: Instant, chance: f64, WorkFailure { kind, why }: WorkFailure) {
        let wait = match kind {
            WorkFailureKind::Unreachable if self.state.is_registered() => {
                self.config.jitter(chance)
            }
            _ => self.wait(kind, chance),
        };
        self.due = after(now, wait);
        let since = if let State::Failing { since, .. } = self.state {
            since
        } else {
            now
        };
        self.state = State::Failing {
            since,
            why,
            registered_before: self.registered_before,
        };
    }

    /// Draws the delay after a failure, and counts the failure.
    fn wait(&mut self, kind: WorkFailureKind, chance: f64) -> Duration {
        let wait = match kind {
            WorkFailureKind::Permanent => self.config.interval.max(self.config.backoff.max),
            WorkFailureKind::Unreachable | WorkFailureKind::Conflict | WorkFailureKind::Denied => {
                self.config.backoff.delay(self.failures, chance)
            }
        };
        self.failures = self.failures.saturating_add(1);
        wait
    }

    fn deregistered(&mut self, now: Instant, chance: f64, answer: Result<(), WorkFailure>) {
        match (answer.map_err(|failure| failure.kind), &mut self.leaving) {
            (Ok(()) | Err(WorkFailureKind::Conflict), _) => self.written = false,
            (Err(WorkFailureKind::Denied | WorkFailureKind::Permanent), Some(leaving)) => {
                leaving.refused = true;
            }
            (Err(kind), _) => self.due = after(now, self.wait(kind, chance)),
        }
    }

    /// Schedules a write of a changed record, at once while the record is registered. Otherwise the
    /// next attempt includes the change.
    fn change(&mut self, now: Instant) {
        self.changed = true;
        if self.state.is_registered() {
            self.due = earlier(self.due, self.soonest(now));
        }
    }

    /// Schedules the repair of a record that another writer has changed. If the records of a whole
    /// fleet were deleted, it is spread over time.
    fn on_overwritten(&mut self, now: Instant, chance: f64) {
        if self.state.is_registered() {
            let delay = fraction(REPAIR_SPREAD.min(self.config.interval), chance);
            self.due = earlier(self.due, after(now, delay));
        }
    }

    /// Returns the earliest time of a write. Consecutive changes are at least
    /// `backoff.initial` apart.
    fn soonest(&self, now: Instant) -> Option<Instant> {
        self.written_at.map_or(Some(now), |at| {
            after(at, self.config.backoff.initial).map(|at| at.max(now))
        })
    }

    /// Starts the deregistration. A register request in progress has half of the timeout to end: if
    /// it were aborted, it could take effect after the deregistration.
    fn leave(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.leaving.is_some() {
            return;
        }
        let by = after(now, self.request_timeout);
        self.leaving = Some(Leaving { by, refused: false });
        self.state = State::Leaving;
        self.ask_now(now);
        if self.check.take().is_some() {
            actions.push(Action::Abandon(Lane::Check));
        }
        if let Some(request) = &mut self.request {
            let limit = if request.work == Work::Register {
                after(now, self.request_timeout / 2)
            } else {
                by
            };
            request.until = earlier(request.until, limit);
        }
    }

    /// Starts the due work of each lane, or ends the machine.
    fn begin(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.finished {
            return;
        }
        if self.request.is_none()
            && self
                .leaving
                .as_ref()
                .is_some_and(|leaving| self.has_left(leaving, now))
        {
            self.finished = true;
            self.state = State::Left;
            actions.push(Action::Finish { out: !self.written });
            return;
        }
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if self.checks && self.check.is_none() && self.leaving.is_none() && due(self.check_due) {
            self.check = Some(self.running(now, Work::Check));
            actions.push(Action::Start(Work::Check));
        }
        if let Some(work) = self
            .wanted()
            .filter(|_| self.request.is_none() && due(self.due))
        {
            self.start(now, work);
            actions.push(Action::Start(work));
        }
    }

    fn has_left(&self, leaving: &Leaving, now: Instant) -> bool {
        !self.written || leaving.refused || leaving.by.is_some_and(|by| by <= now)
    }

    /// Returns the next request to the registry, to be sent when it is due.
    fn wanted(&self) -> Option<Work> {
        match self.health.status() {
            _ if self.leaving.is_some() => Some(Work::Deregister),
            Status::Unknown => None,
            Status::Passing => Some(Work::Register),
            Status::Failing => self.written.then_some(Work::Deregister),
        }
    }

    fn start(&mut self, now: Instant, work: Work) {
        let mut running = self.running(now, work);
        running.until = earlier(
            running.until,
            self.leaving.as_ref().and_then(|leaving| leaving.by),
        );
        self.request = Some(running);
        if work == Work::Register {
            self.written = true;
            self.written_at = Some(now);
            self.changed = false;
        }
    }

    /// Returns `work` started at `now`. The limit of a registry request is a quarter longer than
    /// the timeout, since the registry's own timeout error is more specific than that of the
    /// machine.
    fn running(&self, now: Instant, work: Work) -> RunningWork {
        let limit = match work {
            Work::Check => self.config.timeout,
            Work::Register | Work::Deregister => self
                .request_timeout
                .saturating_add(self.request_timeout / 4),
        };
        RunningWork {
            work,
            since: now,
            until: after(now, limit),
            written_before: self.written,
        }
    }
}
