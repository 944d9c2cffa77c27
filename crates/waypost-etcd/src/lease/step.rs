//! State machine of lease keepalives. Pure: time and randomness are arguments.
//!
//! ```text
//!  renewal ─▶ renewed since the caller's last one? ──yes──▶ done; next keepalive due
//!  wanted        no                                         after the caller's interval
//!                ▼            no response in 1 s, or the stream broke
//!           keepalive sent ──────────────────────────────▶ sent again on a stream
//!                │                                         to the next member
//!                ▼
//!            response: ttl > 0: kept, ttl ≤ 0: lost
//! ```
//!
//! Many registrations share a lease, and each renews it once per interval. One keepalive serves all
//! of them: a renewal is satisfied by any keepalive sent after the caller's previous renewal. The
//! time to the next keepalive is never longer than the shortest interval of a caller. A keepalive
//! sent less than 500 ms ago satisfies every caller, including new ones.
//!
//! A lease is not used after its grant's raft term. A leader that froze and was replaced wakes up
//! with leases that expired by its own clock, and may propose their revocation before it learns of
//! its successor. Leases in use must therefore be unknown to it.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::rest;

/// Time for which a renewal satisfies every caller.
pub(super) const FRESH: Duration = Duration::from_millis(500);

/// Timeout of a member's response to a keepalive.
pub(super) const ANSWER: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Tick,
    /// Renewal wanted for a lease, with the time of the caller's previous one.
    Want(i64, Option<Instant>),
    /// Lease granted just now, in this raft term.
    Granted(i64, u64),
    /// Lease no longer needed.
    Forget(i64),
    /// Keepalive response for a lease: its ttl in seconds, and the raft term.
    Answer(i64, i64, u64),
    /// End of the stream.
    Broke,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Open a stream to the current member.
    Open,
    /// Close the stream.
    Drop(Why),
    /// Send a keepalive on the stream.
    Ask(i64),
    /// Notify the callers that wait for this lease.
    Tell(i64, Fate),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// No response before the timeout.
    Silent,
    /// No lease needs it.
    Idle,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Kept,
    /// The lease is alive, but its grant's leader was replaced: it must be replaced.
    Outlived,
    Lost,
}

#[derive(Debug)]
pub(super) struct Machine {
    leases: BTreeMap<i64, Lease>,
    open: bool,
    retry_at: Option<Instant>,
    failures: u32,
    rng: fastrand::Rng,
}

#[derive(Clone, Copy, Debug, Default)]
struct Lease {
    /// Time from which a keepalive is due.
    due: Option<Instant>,
    /// Time of the keepalive in flight on the current stream.
    asked: Option<Instant>,
    /// Send time of the last keepalive that got a response.
    renewed: Option<Instant>,
    /// True if callers wait for the response.
    awaited: bool,
    /// Raft term of the grant.
    term: u64,
    outlived: bool,
}

impl Lease {
    fn fate(&self) -> Fate {
        if self.outlived {
            Fate::Outlived
        } else {
            Fate::Kept
        }
    }
}

impl Machine {
    pub(super) fn new(rng: fastrand::Rng) -> Self {
        Self {
            leases: BTreeMap::new(),
            open: false,
            retry_at: None,
            failures: 0,
            rng,
        }
    }

    pub(super) fn step(&mut self, now: Instant, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Tick => {}
            Event::Want(id, last) => self.want(now, id, last, &mut actions),
            Event::Granted(id, term) => {
                self.leases.insert(
                    id,
                    Lease {
                        renewed: Some(now),
                        term,
                        ..Lease::default()
                    },
                );
            }
            Event::Forget(id) => drop(self.leases.remove(&id)),
            Event::Answer(id, ttl, term) => self.answer(id, ttl, term, &mut actions),
            Event::Broke => self.broke(now),
        }
        if self.open && self.overdue().is_some_and(|at| at <= now) {
            actions.push(Action::Drop(Why::Silent));
            self.broke(now);
        }
        if self.open && self.leases.is_empty() {
            actions.push(Action::Drop(Why::Idle));
            self.open = false;
        }
        self.ask(now, &mut actions);
        actions
    }

    fn want(&mut self, now: Instant, id: i64, last: Option<Instant>, actions: &mut Vec<Action>) {
        let lease = self.leases.entry(id).or_default();
        let between = last.map_or(FRESH, |last| FRESH.max(now.saturating_duration_since(last)));
        let serves = |at: &Instant| now < *at + FRESH || last.is_some_and(|last| last < *at);
        let due = if let Some(at) = lease.renewed.filter(serves) {
            actions.push(Action::Tell(id, lease.fate()));
            at + between
        } else {
            lease.awaited = true;
            now
        };
        lease.due = Some(lease.due.map_or(due, |earlier| earlier.min(due)));
    }

    fn answer(&mut self, id: i64, ttl: i64, term: u64, actions: &mut Vec<Action>) {
        self.failures = 0;
        let Some(lease) = self.leases.get_mut(&id) else {
            return;
        };
        lease.outlived |= term > lease.term;
        let fate = if ttl > 0 { lease.fate() } else { Fate::Lost };
        if std::mem::take(&mut lease.awaited) || fate == Fate::Lost {
            actions.push(Action::Tell(id, fate));
        }
        lease.renewed = lease.asked.take().or(lease.renewed);
        lease.due = None;
        if fate == Fate::Lost {
            self.leases.remove(&id);
        }
    }

    fn broke(&mut self, now: Instant) {
        self.open = false;
        self.retry_at = Some(now + rest::after_all_but_the_first(&mut self.rng, self.failures));
        self.failures = self.failures.saturating_add(1);
        self.leases
            .values_mut()
            .for_each(|lease| lease.asked = None);
    }

    fn ask(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if !self.open
            && self
                .leases
                .values()
                .any(|lease| lease.due.is_some_and(|due| due <= now))
        {
            if self.retry_at.is_some_and(|at| now < at) {
                return;
            }
            self.open = true;
            actions.push(Action::Open);
        }
        if !self.open {
            return;
        }
        for (id, lease) in &mut self.leases {
            if lease.asked.is_none() && lease.due.is_some_and(|due| due <= now) {
                lease.asked = Some(now);
                actions.push(Action::Ask(*id));
            }
        }
    }

    fn overdue(&self) -> Option<Instant> {
        self.leases
            .values()
            .filter_map(|lease| lease.asked)
            .min()
            .map(|asked| asked + ANSWER)
    }

    /// Returns the time of the next step, if no event comes earlier.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let due = self
            .leases
            .values()
            .filter(|lease| lease.asked.is_none())
            .filter_map(|lease| lease.due)
            .min();
        match self.open {
            true => self.overdue().into_iter().chain(due).min(),
            false => due.map(|due| self.retry_at.map_or(due, |retry| retry.max(due))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Creates a machine with two leases, granted long ago in the second term.
    fn machine() -> (Machine, impl Fn(u64) -> Instant) {
        let begun = Instant::now();
        let mut machine = Machine::new(fastrand::Rng::with_seed(1));
        for id in [7, 8] {
            machine.step(begun, Event::Granted(id, 2));
        }
        (machine, move |ms| {
            begun + Duration::from_secs(60) + Duration::from_millis(ms)
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_beat_is_asked_and_answered() {
        let (mut machine, at) = machine();
        assert_eq!(
            machine.step(at(0), Event::Want(7, None)),
            [Action::Open, Action::Ask(7)]
        );
        assert_eq!(machine.step(at(1), Event::Want(7, None)), []);
        assert_eq!(
            machine.step(at(5), Event::Answer(7, 15, 2)),
            [Action::Tell(7, Fate::Kept)]
        );
        assert_eq!(machine.deadline(), None);
        assert_eq!(
            machine.step(at(5_000), Event::Want(7, None)),
            [Action::Ask(7)]
        );
        assert_eq!(
            machine.step(at(5_001), Event::Answer(7, 0, 2)),
            [Action::Tell(7, Fate::Lost)]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_does_not_outlive_its_leader() {
        let (mut machine, at) = machine();
        machine.step(at(0), Event::Want(7, None));
        assert_eq!(
            machine.step(at(1), Event::Answer(7, 15, 3)),
            [Action::Tell(7, Fate::Outlived)]
        );
        assert_eq!(
            machine.step(at(2), Event::Want(7, None)),
            [Action::Tell(7, Fate::Outlived)]
        );
        machine.step(at(3), Event::Want(8, None));
        assert_eq!(
            machine.step(at(4), Event::Answer(8, 15, 2)),
            [Action::Tell(8, Fate::Kept)]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_fresh_answer_serves_all_and_is_made_good_later() {
        let (mut machine, at) = machine();
        machine.step(at(0), Event::Granted(7, 2));
        for ms in [10, 20, 400] {
            assert_eq!(
                machine.step(at(ms), Event::Want(7, None)),
                [Action::Tell(7, Fate::Kept)]
            );
        }
        assert_eq!(machine.deadline(), Some(at(500)));
        assert_eq!(
            machine.step(at(500), Event::Tick),
            [Action::Open, Action::Ask(7)]
        );
        assert_eq!(machine.step(at(501), Event::Answer(7, 15, 2)), []);
        assert_eq!(
            machine.step(at(502), Event::Want(7, None)),
            [Action::Tell(7, Fate::Kept)]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn one_question_serves_all_who_had_asked_before_it_and_is_followed_in_their_own_time() {
        let (mut machine, at) = machine();
        let kept = [Action::Tell(7, Fate::Kept)];
        machine.step(at(0), Event::Want(7, None));
        machine.step(at(2), Event::Answer(7, 15, 2));
        for (last, now) in [(-4_900_i64, 100_u64), (-1_000, 4_000)] {
            let last = at(5_000) - Duration::from_millis((5_000 - last).unsigned_abs());
            assert_eq!(machine.step(at(now), Event::Want(7, Some(last))), kept);
        }
        assert_eq!(
            machine.deadline(),
            Some(at(5_000)),
            "as long after it as they wait between two"
        );
        assert_eq!(
            machine.step(at(4_990), Event::Want(7, Some(at(2)))),
            [Action::Ask(7)],
            "who had it kept by it wants it anew"
        );
        assert_eq!(machine.step(at(4_995), Event::Want(7, Some(at(100)))), []);
        assert_eq!(machine.step(at(4_999), Event::Answer(7, 15, 2)), kept);
        assert_eq!(
            machine.step(at(9_000), Event::Want(7, Some(at(4_000)))),
            kept
        );
        assert_eq!(machine.step(at(9_990), Event::Tick), [Action::Ask(7)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_member_is_left_within_a_second_and_the_question_asked_again() {
        let (mut machine, at) = machine();
        machine.step(at(0), Event::Want(7, None));
        assert_eq!(machine.deadline(), Some(at(1_000)));
        let again = [Action::Drop(Why::Silent), Action::Open, Action::Ask(7)];
        assert_eq!(machine.step(at(1_000), Event::Tick), again);
        assert_eq!(
            machine.step(at(2_000), Event::Tick),
            [Action::Drop(Why::Silent)],
            "the second failure rests"
        );
        let retry = machine.deadline().unwrap();
        assert!(retry <= at(2_100), "no longer than 100 ms");
        assert_eq!(
            machine.step(retry, Event::Tick),
            [Action::Open, Action::Ask(7)]
        );
        assert_eq!(
            machine.step(retry, Event::Answer(7, 5, 2)),
            [Action::Tell(7, Fate::Kept)]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_broken_stream_is_opened_again_only_when_there_is_something_to_ask() {
        let (mut machine, at) = machine();
        machine.step(at(0), Event::Want(7, None));
        machine.step(at(1), Event::Answer(7, 15, 2));
        assert_eq!(machine.step(at(10), Event::Broke), []);
        assert_eq!(machine.deadline(), None);
        assert_eq!(
            machine.step(at(900), Event::Want(7, None)),
            [Action::Open, Action::Ask(7)]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_forgotten_is_not_asked_for() {
        let (mut machine, at) = machine();
        machine.step(at(0), Event::Want(7, None));
        machine.step(at(0), Event::Want(8, None));
        assert_eq!(machine.step(at(1), Event::Forget(7)), []);
        assert_eq!(machine.step(at(2), Event::Answer(7, 15, 2)), []);
        assert_eq!(
            machine.step(at(3), Event::Forget(8)),
            [Action::Drop(Why::Idle)]
        );
    }
}
