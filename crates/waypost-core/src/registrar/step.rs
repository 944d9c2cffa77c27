//! The registrar's state machine. It is pure: time and chance are arguments, and what is to be done comes out as actions.
//!
//! At most one piece of work is under way; what comes next is decided when it ends or runs out of time.
//!
//! ```text
//!            ┌──────────── due ───────────────┐
//!            ▼                                │
//!   start ─▶ check ──yes─▶ register ──ok──▶ rest until the next beat
//!            │  ▲             └──failed──▶ rest a back-off, then register
//!           no  └─ every interval ─┐
//!            ▼                     │
//!          deregister ───────▶ out of the registry
//!
//!   told to leave, anywhere: let a register in flight land ─▶ deregister ─▶ left; no longer than the timeout
//! ```
//!
//! Beats are an interval apart and counted from the pulse, a moment that all registrations of a handle share: those of one process come
//! together, and those of a fleet do not, however it was started and whatever befell its registry.

use std::time::Duration;

use tokio::time::Instant;

use super::{Config, State};
use crate::registry::{Error, in_millis};

/// What the machine is told.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// The time of [`Machine::deadline`] has come, or the machine was just made.
    Tick,
    /// The check answered.
    Checked(Result<(), String>),
    /// The registry answered a register.
    Registered(Result<(), Trouble>),
    /// The registry answered a deregister.
    Deregistered(Result<(), Trouble>),
    /// The record was changed by its owner.
    Changed,
    /// The owner wants out.
    Leave,
}

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Begin this work; nothing else is under way.
    Start(Work),
    /// Give up the work under way; its answer no longer counts.
    Abandon,
    /// Tell the world.
    Say(State),
    /// It is over. The record is out, or else expires by itself.
    Finish {
        /// Whether the record is known to be out.
        out: bool,
    },
}

/// One request, to the check or to the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    Check,
    Register,
    Deregister,
}

/// Why the registry did not do what it was asked, as far as it decides what comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) kind: Kind,
    pub(super) why: String,
}

/// The kinds of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The registry is not there: for everybody, most likely.
    Loss,
    /// The record is not ours.
    NotOurs,
    /// The registry is there and says no.
    Refused,
    /// The same request cannot succeed.
    Hopeless,
}

impl From<&Error> for Trouble {
    fn from(error: &Error) -> Self {
        let kind = match error {
            Error::Unavailable { .. } | Error::Timeout { .. } => Kind::Loss,
            Error::IdTaken { .. } | Error::NotFound { .. } => Kind::NotOurs,
            Error::Denied { .. } => Kind::Refused,
            Error::Invalid { .. } | Error::Unsupported { .. } | Error::Closed => Kind::Hopeless,
        };
        Self { kind, why: error.chain() }
    }
}

/// Work under way.
#[derive(Clone, Copy, Debug)]
struct Busy {
    work: Work,
    since: Instant,
    until: Instant,
}

/// The state machine of one registration.
#[derive(Debug)]
pub(super) struct Machine {
    config: Config,
    checks: bool,
    /// A moment from which intervals are counted, both ways.
    pulse: Instant,
    state: State,
    busy: Option<Busy>,
    /// When the registry is to be asked next.
    due: Instant,
    /// When the check is to be asked next.
    check_due: Instant,
    /// When the record was last written, or tried to be.
    written_at: Option<Instant>,
    /// A record of ours may stand in the registry.
    written: bool,
    /// The record says something else than what was last written.
    changed: bool,
    /// Attempts failed in a row.
    failures: u32,
    /// The check keeps us out of the registry.
    out: bool,
    /// Checks answered the same in a row.
    passes: u32,
    strikes: u32,
    registered_before: bool,
    leave_by: Option<Instant>,
    finished: bool,
}

impl Machine {
    /// A machine that wants to begin now; `checks` says whether there is a check to ask, and `pulse` when beats come.
    pub(super) fn new(config: Config, checks: bool, pulse: Instant, now: Instant) -> Self {
        Self {
            config,
            checks,
            pulse,
            state: State::Starting,
            busy: None,
            due: now,
            check_due: now,
            written_at: None,
            written: false,
            changed: false,
            failures: 0,
            out: false,
            passes: 0,
            strikes: 0,
            registered_before: false,
            leave_by: None,
            finished: false,
        }
    }

    /// When it wants a [`Event::Tick`], if nothing else happens before; none when it is over.
    pub(super) fn deadline(&self) -> Option<Instant> {
        if self.finished {
            return None;
        }
        if let Some(busy) = self.busy {
            return Some(busy.until);
        }
        if let Some(by) = self.leave_by {
            return Some(self.due.min(by));
        }
        let request = (!self.out || self.written).then_some(self.due);
        let check = self.checks.then_some(self.check_due);
        request.into_iter().chain(check).min()
    }

    /// Takes one event in; `chance` is drawn anew from 0 to 1 for each.
    pub(super) fn step(&mut self, now: Instant, chance: f64, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        let said = self.state.clone();
        let event = self.or_late(now, event, &mut actions);
        self.take(now, chance, event, &mut actions);
        self.begin(now, &mut actions);
        if self.state != said {
            actions.insert(0, Action::Say(self.state.clone()));
        }
        actions
    }

    /// A tick that finds the work under way out of time is that work's failure.
    fn or_late(&self, now: Instant, event: Event, actions: &mut Vec<Action>) -> Event {
        let Some(busy) = self.busy.filter(|busy| matches!(event, Event::Tick) && busy.until <= now) else { return event };
        actions.push(Action::Abandon);
        let why = format!("no answer within {:?}", in_millis(now - busy.since));
        match busy.work {
            Work::Check => Event::Checked(Err(why)),
            Work::Register => Event::Registered(Err(Trouble { kind: Kind::Loss, why })),
            Work::Deregister => Event::Deregistered(Err(Trouble { kind: Kind::Loss, why })),
        }
    }

    fn take(&mut self, now: Instant, chance: f64, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Tick => {}
            Event::Checked(answer) => {
                if let Some(busy) = self.end(Work::Check) {
                    self.check_due = self.next_beat(busy.since).max(now);
                    self.checked(now, answer);
                }
            }
            Event::Registered(answer) => {
                if let Some(busy) = self.end(Work::Register) {
                    self.registered(now, chance, busy, answer);
                }
            }
            Event::Deregistered(answer) => {
                if self.end(Work::Deregister).is_some() {
                    self.deregistered(now, chance, answer);
                }
            }
            Event::Changed => self.change(now),
            Event::Leave => self.leave(now, actions),
        }
    }

    /// Ends the work under way, if it is this.
    fn end(&mut self, work: Work) -> Option<Busy> {
        self.busy.take_if(|busy| busy.work == work)
    }

    fn checked(&mut self, now: Instant, answer: Result<(), String>) {
        match answer {
            Ok(()) => self.passed(now),
            Err(why) => self.struck(now, why),
        }
    }

    fn passed(&mut self, now: Instant) {
        self.strikes = 0;
        self.passes = self.passes.saturating_add(1);
        if self.out && self.passes >= self.config.return_after.get() {
            self.out = false;
            self.ask_now(now);
        }
    }

    fn struck(&mut self, now: Instant, why: String) {
        self.passes = 0;
        self.strikes = self.strikes.saturating_add(1);
        if !self.out && self.strikes >= self.config.leave_after.get() {
            self.out = true;
            self.ask_now(now);
        }
        if self.out {
            let since = if let State::Unhealthy { since, .. } = self.state { since } else { now };
            self.state = State::Unhealthy { since, why };
        }
    }

    fn ask_now(&mut self, now: Instant) {
        self.due = now;
        self.failures = 0;
    }

    fn registered(&mut self, now: Instant, chance: f64, busy: Busy, answer: Result<(), Trouble>) {
        match answer {
            _ if self.leave_by.is_some() => self.due = now,
            Ok(()) => self.stands(now, busy.since),
            Err(trouble) => self.fails(now, chance, trouble),
        }
    }

    fn stands(&mut self, now: Instant, since: Instant) {
        self.failures = 0;
        self.registered_before = true;
        self.due = if self.changed { self.soonest(now) } else { self.next_beat(since) };
        if !self.state.is_registered() {
            self.state = State::Registered { since: now };
        }
    }

    /// The first beat after `since`: within an interval, and at most one away.
    fn next_beat(&self, since: Instant) -> Instant {
        let interval = self.config.interval.as_nanos();
        let gap = match self.pulse.checked_duration_since(since) {
            Some(before) => (before.as_nanos() + interval - 1) % interval + 1,
            None => interval - (since - self.pulse).as_nanos() % interval,
        };
        // No more than the interval.
        since + Duration::from_nanos(u64::try_from(gap).unwrap_or(u64::MAX))
    }

    fn fails(&mut self, now: Instant, chance: f64, Trouble { kind, why }: Trouble) {
        let wait = match kind {
            Kind::Loss if self.state.is_registered() => self.config.spread(chance),
            _ => self.wait(kind, chance),
        };
        self.due = now + wait;
        let since = if let State::Failing { since, .. } = self.state { since } else { now };
        self.state = State::Failing { since, why, registered_before: self.registered_before };
    }

    /// How long to rest after a failure; counts it.
    fn wait(&mut self, kind: Kind, chance: f64) -> Duration {
        let wait = match kind {
            Kind::Hopeless => self.config.interval.max(self.config.back_off_max),
            Kind::Loss | Kind::NotOurs | Kind::Refused => self.config.back_off(self.failures, chance),
        };
        self.failures = self.failures.saturating_add(1);
        wait
    }

    fn deregistered(&mut self, now: Instant, chance: f64, answer: Result<(), Trouble>) {
        match answer.map_err(|trouble| trouble.kind) {
            Ok(()) | Err(Kind::NotOurs) => self.written = false,
            Err(kind) => self.due = now + self.wait(kind, chance),
        }
    }

    /// A change is written at once while the record stands; else the next attempt carries it.
    fn change(&mut self, now: Instant) {
        self.changed = true;
        if self.state.is_registered() {
            self.due = self.due.min(self.soonest(now));
        }
    }

    /// Changes in a row are written no faster than the shortest back-off.
    fn soonest(&self, now: Instant) -> Instant {
        self.written_at.map_or(now, |at| now.max(at + self.config.back_off_min))
    }

    /// A register in flight may yet land, so it gets half the time to be answered: dropped, it could land after the deregister.
    fn leave(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.leave_by.is_some() {
            return;
        }
        let by = now + self.config.timeout;
        self.leave_by = Some(by);
        self.state = State::Leaving;
        self.ask_now(now);
        if self.end(Work::Check).is_some() {
            actions.push(Action::Abandon);
        }
        if let Some(busy) = &mut self.busy {
            let limit = if busy.work == Work::Register { now + self.config.timeout / 2 } else { by };
            busy.until = busy.until.min(limit);
        }
    }

    /// Begins what is due, if nothing is under way.
    fn begin(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.busy.is_some() || self.finished {
            return;
        }
        if self.leave_by.is_some_and(|by| !self.written || by <= now) {
            self.finished = true;
            self.state = State::Left;
            actions.push(Action::Finish { out: !self.written });
        } else if let Some(work) = self.wanted(now) {
            self.start(now, work);
            actions.push(Action::Start(work));
        }
    }

    fn wanted(&self, now: Instant) -> Option<Work> {
        let due = self.due <= now;
        if self.leave_by.is_some() {
            return due.then_some(Work::Deregister);
        }
        if self.checks && self.check_due <= now {
            return Some(Work::Check);
        }
        match self.out {
            false => due.then_some(Work::Register),
            true => (due && self.written).then_some(Work::Deregister),
        }
    }

    fn start(&mut self, now: Instant, work: Work) {
        // A registry has a timeout of its own, and its error says more than that nothing came: it has the last word.
        let last_word = if work == Work::Check { Duration::ZERO } else { self.config.timeout / 4 };
        let until = now + self.config.timeout + last_word;
        let until = self.leave_by.map_or(until, |by| by.min(until));
        self.busy = Some(Busy { work, since: now, until });
        if work == Work::Register {
            self.written = true;
            self.written_at = Some(now);
            self.changed = false;
        }
    }
}
