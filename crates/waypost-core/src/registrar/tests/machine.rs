//! The state machine alone: no task, no clock but a number.

use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use crate::registrar::step::{Action, Event, Kind, Machine, Trouble, Work};
use crate::registrar::{Config, State};

const HALF: f64 = 0.5;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn trouble(kind: Kind) -> Trouble {
    Trouble { kind, why: "no".to_owned() }
}

/// A machine and its clock.
struct Bench {
    machine: Machine,
    start: Instant,
    now: Instant,
}

impl Bench {
    fn new(checks: bool) -> Self {
        Self::with(Config::default(), checks)
    }

    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning; it is only counted from")]
    fn with(config: Config, checks: bool) -> Self {
        let start = Instant::from_std(std::time::Instant::now());
        Self::beating(config, checks, start, start)
    }

    fn beating(config: Config, checks: bool, pulse: Instant, start: Instant) -> Self {
        Self { machine: Machine::new(config, checks, pulse, start), start, now: start }
    }

    /// What the machine makes of `event`, `after` the last one.
    fn step(&mut self, after: Duration, event: Event) -> Vec<Action> {
        self.now += after;
        self.machine.step(self.now, HALF, event)
    }

    /// Goes to the machine's deadline; how long that was, and what comes of it.
    fn tick(&mut self) -> (u128, Vec<Action>) {
        let deadline = self.machine.deadline().expect("it goes on");
        let wait = deadline.saturating_duration_since(self.now);
        (wait.as_millis(), self.step(wait, Event::Tick))
    }

    fn registered(&mut self) {
        assert_eq!(self.step(ms(0), Event::Tick), [Action::Start(Work::Register)]);
        let since = self.now + ms(10);
        assert_eq!(self.step(ms(10), Event::Registered(Ok(()))), [Action::Say(State::Registered { since })]);
    }

    fn at(&self, n: u64) -> Instant {
        self.start + ms(n)
    }
}

fn start(work: Work) -> Vec<Action> {
    vec![Action::Start(work)]
}

#[test]
fn a_beat_comes_every_interval_however_long_the_last_took() {
    let mut bench = Bench::new(false);
    bench.registered();
    assert_eq!(bench.tick(), (4990, start(Work::Register)));
    assert_eq!(bench.step(ms(100), Event::Registered(Ok(()))), []);
    assert_eq!(bench.tick(), (4900, start(Work::Register)));
}

#[test]
fn beats_keep_to_the_pulse_whenever_the_first_came() {
    let begin = Bench::new(false).start + ms(60_000);
    // Of each pulse, before the beginning and after it: when the first two beats come.
    for (pulse, beats) in [(begin - ms(12_000), [3000, 8000]), (begin, [5000, 10_000]), (begin + ms(13_000), [3000, 8000])] {
        let mut bench = Bench::beating(Config::default(), false, pulse, begin);
        bench.registered();
        for beat in beats {
            assert_eq!(bench.tick().1, start(Work::Register));
            assert_eq!(bench.now, begin + ms(beat));
            bench.step(ms(100), Event::Registered(Ok(())));
        }
        bench.tick();
        bench.step(ms(0), Event::Registered(Err(trouble(Kind::Loss))));
        bench.tick();
        bench.step(ms(0), Event::Registered(Ok(())));
        assert_eq!(bench.tick().1, start(Work::Register));
        assert_eq!(bench.now, begin + ms(beats[1] + 10_000), "after an outage too");
    }
}

#[test]
fn failures_back_off_and_are_told_once() {
    let mut bench = Bench::new(false);
    bench.step(ms(0), Event::Tick);
    let failing = State::Failing { since: bench.at(0), why: "no".to_owned(), registered_before: false };
    assert_eq!(bench.step(ms(0), Event::Registered(Err(trouble(Kind::Loss)))), [Action::Say(failing)]);
    let mut waits = Vec::new();
    for _ in 0..8 {
        let (wait, actions) = bench.tick();
        waits.push(wait);
        assert_eq!(actions, start(Work::Register));
        assert_eq!(bench.step(ms(0), Event::Registered(Err(trouble(Kind::Loss)))), []);
    }
    assert_eq!(waits, [25, 50, 100, 200, 400, 800, 1000, 1000], "half of 50 ms, doubled up to 2 s");
    bench.tick();
    bench.step(ms(0), Event::Registered(Ok(())));
    bench.tick();
    bench.step(ms(0), Event::Registered(Err(trouble(Kind::Refused))));
    assert_eq!(bench.tick().0, 25, "a success resets it");
}

#[test]
fn the_first_retry_after_a_loss_is_spread_and_a_refusal_is_not() {
    for (kind, wait) in [(Kind::Loss, 1500), (Kind::Refused, 25), (Kind::NotOurs, 25), (Kind::Hopeless, 5000)] {
        let mut bench = Bench::new(false);
        bench.registered();
        bench.tick();
        let failing = State::Failing { since: bench.at(5000), why: "no".to_owned(), registered_before: true };
        assert_eq!(bench.step(ms(0), Event::Registered(Err(trouble(kind)))), [Action::Say(failing)]);
        assert_eq!(bench.tick(), (wait, start(Work::Register)), "{kind:?}");
    }
}

#[test]
fn a_register_out_of_time_is_given_up_and_its_late_answer_ignored() {
    let mut bench = Bench::new(false);
    bench.step(ms(0), Event::Tick);
    let failing = State::Failing { since: bench.at(2500), why: "no answer within 2.5s".to_owned(), registered_before: false };
    assert_eq!(bench.tick(), (2500, vec![Action::Say(failing), Action::Abandon]), "its own timeout has the last word");
    assert_eq!(bench.step(ms(1), Event::Registered(Ok(()))), []);
    assert_eq!(bench.tick(), (24, start(Work::Register)));
}

#[test]
fn a_change_is_written_at_once_and_a_flood_of_them_no_faster_than_the_shortest_back_off() {
    let mut bench = Bench::new(false);
    bench.registered();
    assert_eq!(bench.step(ms(1000), Event::Changed), start(Work::Register));
    assert_eq!(bench.step(ms(5), Event::Changed), [], "one is under way");
    assert_eq!(bench.step(ms(5), Event::Registered(Ok(()))), []);
    assert_eq!(bench.tick(), (40, start(Work::Register)));
    bench.step(ms(0), Event::Registered(Ok(())));
    assert_eq!(bench.tick(), (3940, start(Work::Register)), "what was written is not written again");
}

#[test]
fn a_change_while_failing_waits_for_the_retry() {
    let mut bench = Bench::new(false);
    bench.step(ms(0), Event::Tick);
    bench.step(ms(0), Event::Registered(Err(trouble(Kind::Loss))));
    assert_eq!(bench.step(ms(1), Event::Changed), []);
    assert_eq!(bench.tick(), (24, start(Work::Register)));
}

#[test]
fn one_failed_check_leaves_and_two_passed_ones_return() {
    let mut bench = Bench::new(true);
    assert_eq!(bench.step(ms(0), Event::Tick), start(Work::Check));
    assert_eq!(bench.step(ms(0), Event::Checked(Ok(()))), start(Work::Register));
    bench.step(ms(0), Event::Registered(Ok(())));
    assert_eq!(bench.tick(), (5000, start(Work::Check)));
    let unhealthy = |why: &str| State::Unhealthy { since: bench.start + ms(5000), why: why.to_owned() };
    let leaves = [Action::Say(unhealthy("full")), Action::Start(Work::Deregister)];
    let says = [Action::Say(unhealthy("fuller"))];
    assert_eq!(bench.step(ms(0), Event::Checked(Err("full".to_owned()))), leaves);
    assert_eq!(bench.step(ms(0), Event::Deregistered(Ok(()))), []);
    assert_eq!(bench.tick(), (5000, start(Work::Check)));
    assert_eq!(bench.step(ms(0), Event::Checked(Ok(()))), [], "once is not enough");
    assert_eq!(bench.tick(), (5000, start(Work::Check)));
    assert_eq!(bench.step(ms(0), Event::Checked(Err("fuller".to_owned()))), says, "and must be in a row");
    for last in [false, true] {
        assert_eq!(bench.tick(), (5000, start(Work::Check)));
        let expected = if last { start(Work::Register) } else { vec![] };
        assert_eq!(bench.step(ms(0), Event::Checked(Ok(()))), expected);
    }
    let since = bench.now;
    assert_eq!(bench.step(ms(0), Event::Registered(Ok(()))), [Action::Say(State::Registered { since })]);
}

#[test]
fn a_node_that_was_never_written_has_nothing_to_take_out() {
    let mut bench = Bench::new(true);
    bench.step(ms(0), Event::Tick);
    let unhealthy = State::Unhealthy { since: bench.at(0), why: "cold".to_owned() };
    assert_eq!(bench.step(ms(0), Event::Checked(Err("cold".to_owned()))), [Action::Say(unhealthy)]);
    assert_eq!(bench.step(ms(1), Event::Leave), [Action::Say(State::Left), Action::Finish { out: true }]);
    assert_eq!(bench.machine.deadline(), None);
}

#[test]
fn a_deregister_of_an_unhealthy_node_is_retried() {
    let mut bench = Bench::new(true);
    bench.step(ms(0), Event::Tick);
    bench.step(ms(0), Event::Checked(Ok(())));
    bench.step(ms(0), Event::Registered(Ok(())));
    bench.tick();
    bench.step(ms(0), Event::Checked(Err("full".to_owned())));
    assert_eq!(bench.step(ms(0), Event::Deregistered(Err(trouble(Kind::Loss)))), []);
    assert_eq!(bench.tick(), (25, start(Work::Deregister)));
    assert_eq!(bench.step(ms(0), Event::Deregistered(Err(trouble(Kind::NotOurs)))), [], "what is not ours is out");
    assert_eq!(bench.tick(), (4975, start(Work::Check)));
}

#[test]
fn leaving_lets_a_register_land_first_but_not_for_long() {
    let mut bench = Bench::new(false);
    bench.step(ms(0), Event::Tick);
    assert_eq!(bench.step(ms(100), Event::Leave), [Action::Say(State::Leaving)]);
    assert_eq!(bench.step(ms(100), Event::Registered(Ok(()))), start(Work::Deregister));
    assert_eq!(bench.step(ms(100), Event::Deregistered(Ok(()))), [Action::Say(State::Left), Action::Finish { out: true }]);

    let mut bench = Bench::new(false);
    bench.step(ms(0), Event::Tick);
    bench.step(ms(100), Event::Leave);
    assert_eq!(bench.tick(), (1000, vec![Action::Abandon, Action::Start(Work::Deregister)]));
    let end = vec![Action::Say(State::Left), Action::Abandon, Action::Finish { out: false }];
    assert_eq!(bench.tick(), (1000, end));
}

#[test]
fn leaving_gives_up_a_check_and_retries_a_deregister() {
    let mut bench = Bench::new(true);
    bench.step(ms(0), Event::Tick);
    bench.step(ms(0), Event::Checked(Ok(())));
    bench.step(ms(0), Event::Registered(Ok(())));
    bench.tick();
    let leaves = [Action::Say(State::Leaving), Action::Abandon, Action::Start(Work::Deregister)];
    assert_eq!(bench.step(ms(10), Event::Leave), leaves);
    assert_eq!(bench.step(ms(0), Event::Deregistered(Err(trouble(Kind::Loss)))), []);
    assert_eq!(bench.tick(), (25, start(Work::Deregister)));
    assert_eq!(bench.step(ms(0), Event::Leave), [], "once is enough");
    assert_eq!(bench.step(ms(0), Event::Deregistered(Ok(()))), [Action::Say(State::Left), Action::Finish { out: true }]);
}

/// One thing that happens to a machine: how long after the last, how it answers the work under way, and chance.
#[derive(Clone, Debug)]
struct Turn {
    after: u64,
    answer: Option<Option<Kind>>,
    other: Option<bool>,
    chance: f64,
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let kind = prop_oneof![Just(Kind::Loss), Just(Kind::NotOurs), Just(Kind::Refused), Just(Kind::Hopeless)];
    let answer = proptest::option::weighted(0.8, proptest::option::of(kind));
    let other = proptest::option::weighted(0.1, proptest::bool::weighted(0.2));
    let turn =
        (0_u64..4000, answer, other, 0.0..1.0).prop_map(|(after, answer, other, chance)| Turn { after, answer, other, chance });
    proptest::collection::vec(turn, 1..200)
}

/// What must hold of every run, with a model of its own of who is healthy.
#[derive(Default)]
struct Watchman {
    busy: Option<Work>,
    passes: u32,
    out: bool,
    left_at: Option<Instant>,
    finished: bool,
}

impl Watchman {
    fn see(&mut self, actions: &[Action]) {
        for action in actions {
            assert!(!self.finished, "nothing happens after the end");
            match action {
                Action::Start(work) => self.begins(*work),
                Action::Abandon => self.gives_up(),
                Action::Say(_) => {}
                Action::Finish { .. } => self.finished = true,
            }
        }
    }

    fn begins(&mut self, work: Work) {
        assert_eq!(self.busy.replace(work), None, "one at a time");
        assert!(work == Work::Deregister || self.left_at.is_none(), "only a deregister after leaving");
        assert!(work != Work::Register || !self.out, "no register while unhealthy");
    }

    fn gives_up(&mut self) {
        if self.busy.take().expect("only work under way is given up") == Work::Check {
            self.checked(false);
        }
    }

    fn checked(&mut self, well: bool) {
        self.passes = if well { self.passes + 1 } else { 0 };
        self.out = !well || self.out && self.passes < 2;
    }

    /// The work under way ends so.
    fn ends(&mut self, work: Work, kind: Option<Kind>) -> Event {
        self.busy = None;
        if work == Work::Check {
            self.checked(kind.is_none());
        }
        answer(work, kind)
    }
}

fn answer(work: Work, kind: Option<Kind>) -> Event {
    let result = kind.map_or(Ok(()), |kind| Err(trouble(kind)));
    match work {
        Work::Check => Event::Checked(result.map_err(|trouble| trouble.why)),
        Work::Register => Event::Registered(result),
        Work::Deregister => Event::Deregistered(result),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_one_thing_at_a_time_always_going_on_and_out_in_time(turns in turns(), checks: bool) {
        let mut bench = Bench::new(checks);
        let mut seen = Watchman::default();
        let first = bench.step(ms(0), Event::Tick);
        seen.see(&first);
        for turn in turns {
            let Some(deadline) = bench.machine.deadline() else { break };
            bench.now = (bench.now + ms(turn.after)).min(deadline);
            let event = match (turn.other, turn.answer, seen.busy) {
                (Some(true), ..) => { seen.left_at.get_or_insert(bench.now); Event::Leave }
                (Some(false), ..) => Event::Changed,
                (None, Some(kind), Some(work)) => seen.ends(work, kind),
                _ => { bench.now = deadline; Event::Tick }
            };
            let actions = bench.machine.step(bench.now, turn.chance, event.clone());
            seen.see(&actions);
            if let Some(deadline) = bench.machine.deadline() {
                prop_assert!(deadline >= bench.now, "never late");
                prop_assert!(deadline <= bench.now + Config::default().interval, "never asleep for long");
                prop_assert!(deadline > bench.now || turn.chance < 1e-3 || !matches!(event, Event::Tick), "no busy loop");
            }
            if let Some(left) = seen.left_at {
                let late = bench.now.saturating_duration_since(left + Config::default().timeout);
                prop_assert!(late.is_zero() && (seen.finished || !matches!(event, Event::Tick) || bench.now < left + ms(2000)));
            }
        }
    }
}
