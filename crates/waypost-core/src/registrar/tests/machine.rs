//! Tests of the state machine without a task. The clock is a number.

use std::time::Duration;

use tokio::time::Instant;

use crate::registrar::event::{Action, Event, Lane, Work, WorkFailure, WorkFailureKind};
use crate::registrar::machine::{Machine, Setup};
use crate::registrar::{Config, State};

const HALF: f64 = 0.5;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn failure(kind: WorkFailureKind) -> WorkFailure {
    WorkFailure {
        kind,
        why: "no".to_owned(),
    }
}

/// Machine and its clock.
struct Bench {
    machine: Machine,
    start: Instant,
    now: Instant,
}

impl Bench {
    fn new(checks: bool) -> Self {
        Self::with(Config::default(), checks)
    }

    fn with(config: Config, checks: bool) -> Self {
        let start = super::start();
        Self::beating(config, checks, start, start)
    }

    fn beating(config: Config, checks: bool, pulse: Instant, start: Instant) -> Self {
        Self::of(
            Setup {
                request_timeout: config.timeout,
                config,
                checks,
                pulse,
                resumed: None,
            },
            start,
        )
    }

    fn of(setup: Setup, start: Instant) -> Self {
        Self {
            machine: Machine::new(setup, start),
            start,
            now: start,
        }
    }

    /// Returns the machine's actions on `event`, `after` the last one.
    fn step(&mut self, after: Duration, event: Event) -> Vec<Action> {
        self.now += after;
        self.machine.step(self.now, HALF, event)
    }

    /// Advances to the machine's deadline. Returns the time until then in milliseconds, and the
    /// actions.
    fn tick(&mut self) -> (u128, Vec<Action>) {
        let deadline = self.machine.deadline().expect("it goes on");
        let wait = deadline.saturating_duration_since(self.now);
        (wait.as_millis(), self.step(wait, Event::Tick))
    }

    fn registered(&mut self) {
        assert_eq!(
            self.step(ms(0), Event::Tick),
            [Action::Start(Work::Register)]
        );
        let since = self.now + ms(10);
        assert_eq!(
            self.step(ms(10), Event::Registered(Ok(()))),
            [Action::SetState(State::Registered { since })]
        );
    }

    fn at(&self, n: u64) -> Instant {
        self.start + ms(n)
    }
}

fn start(work: Work) -> Vec<Action> {
    vec![Action::Start(work)]
}

#[test]
fn a_heartbeat_comes_every_interval_however_long_the_last_took() {
    let mut bench = Bench::new(false);
    bench.registered();
    assert_eq!(bench.tick(), (4990, start(Work::Register)));
    assert_eq!(bench.step(ms(100), Event::Registered(Ok(()))), []);
    assert_eq!(bench.tick(), (4900, start(Work::Register)));
}

#[test]
fn heartbeats_keep_to_the_pulse_whenever_the_first_came() {
    let begin = Bench::new(false).start + ms(60_000);
    // Pulses before and after the start, each with the times of the first two heartbeats.
    for (pulse, heartbeats) in [
        (begin - ms(12_000), [3000, 8000]),
        (begin, [5000, 10_000]),
        (begin + ms(13_000), [3000, 8000]),
    ] {
        let mut bench = Bench::beating(Config::default(), false, pulse, begin);
        bench.registered();
        for heartbeat in heartbeats {
            assert_eq!(bench.tick().1, start(Work::Register));
            assert_eq!(bench.now, begin + ms(heartbeat));
            bench.step(ms(100), Event::Registered(Ok(())));
        }
        bench.tick();
        bench.step(
            ms(0),
            Event::Registered(Err(failure(WorkFailureKind::Unreachable))),
        );
        bench.tick();
        bench.step(ms(0), Event::Registered(Ok(())));
        assert_eq!(bench.tick().1, start(Work::Register));
        assert_eq!(
            bench.now,
            begin + ms(heartbeats[1] + 10_000),
            "after an outage too"
        );
    }
}

#[test]
fn failures_back_off_and_are_reported_once() {
    let mut bench = Bench::new(false);
    bench.step(ms(0), Event::Tick);
    let failing = State::Failing {
        since: bench.at(0),
        why: "no".to_owned(),
        registered_before: false,
    };
    assert_eq!(
        bench.step(
            ms(0),
            Event::Registered(Err(failure(WorkFailureKind::Unreachable)))
        ),
        [Action::SetState(failing)]
    );
    let mut waits = Vec::new();
    for _ in 0..8 {
        let (wait, actions) = bench.tick();
        waits.push(wait);
        assert_eq!(actions, start(Work::Register));
        assert_eq!(
            bench.step(
                ms(0),
                Event::Registered(Err(failure(WorkFailureKind::Unreachable)))
            ),
            []
        );
    }
    assert_eq!(
        waits,
        [25, 50, 100, 200, 400, 800, 1000, 1000],
        "half of 50 ms, doubled up to 2 s"
    );
    bench.tick();
    bench.step(ms(0), Event::Registered(Ok(())));
    bench.tick();
    bench.step(
        ms(0),
        Event::Registered(Err(failure(WorkFailureKind::Denied))),
    );
    assert_eq!(bench.tick().0, 25, "a success resets it");
}

#[test]
fn the_first_retry_after_a_loss_is_spread_and_a_refusal_is_not() {
    for (kind, wait) in [
        (WorkFailureKind::Unreachable, 1500),
        (WorkFailureKind::Denied, 25),
        (WorkFailureKind::Conflict, 25),
        (WorkFailureKind::Permanent, 5000),
    ] {
        let mut bench = Bench::new(false);
        bench.registered();
        bench.tick();
        let failing = State::Failing {
            since: bench.at(5000),
            why: "no".to_owned(),
            registered_before: true,
        };
        assert_eq!(
            bench.step(ms(0), Event::Registered(Err(failure(kind)))),
            [Action::SetState(failing)]
        );
        assert_eq!(bench.tick(), (wait, start(Work::Register)), "{kind:?}");
    }
}

#[test]
fn a_register_out_of_time_is_given_up_and_its_late_answer_ignored() {
    let mut bench = Bench::new(false);
    bench.step(ms(0), Event::Tick);
    let failing = State::Failing {
        since: bench.at(2500),
        why: "no answer within 2.5s".to_owned(),
        registered_before: false,
    };
    assert_eq!(
        bench.tick(),
        (
            2500,
            vec![Action::SetState(failing), Action::Abandon(Lane::Request)]
        ),
        "its own timeout has the last word"
    );
    assert_eq!(bench.step(ms(1), Event::Registered(Ok(()))), []);
    assert_eq!(bench.tick(), (24, start(Work::Register)));
}

#[test]
fn a_change_is_written_at_once_and_a_flood_of_them_no_faster_than_the_initial_backoff() {
    let mut bench = Bench::new(false);
    bench.registered();
    assert_eq!(bench.step(ms(1000), Event::Changed), start(Work::Register));
    assert_eq!(bench.step(ms(5), Event::Changed), [], "one is under way");
    assert_eq!(bench.step(ms(5), Event::Registered(Ok(()))), []);
    assert_eq!(bench.tick(), (40, start(Work::Register)));
    bench.step(ms(0), Event::Registered(Ok(())));
    assert_eq!(
        bench.tick(),
        (3940, start(Work::Register)),
        "what was written is not written again"
    );
}

/// The chance of the bench is the middle: the repair comes after half of the spread.
#[test]
fn an_overwritten_record_is_repaired_before_the_next_heartbeat() {
    let config = Config {
        ttl: ms(90_000),
        interval: ms(30_000),
        ..Config::default()
    };
    let mut bench = Bench::with(config, false);
    bench.registered();
    assert_eq!(bench.step(ms(1_000), Event::Overwritten), []);
    let (waited, actions) = bench.tick();
    assert!(waited <= 2_000, "{waited}");
    assert_eq!(actions, start(Work::Register));
    assert_eq!(
        bench.step(ms(5), Event::Overwritten),
        [],
        "one is under way"
    );
    bench.step(ms(5), Event::Registered(Ok(())));
    let (waited, _) = bench.tick();
    assert!(waited > 20_000, "the heartbeats go on: {waited}");
}

#[test]
fn a_change_while_failing_waits_for_the_retry() {
    let mut bench = Bench::new(false);
    bench.step(ms(0), Event::Tick);
    bench.step(
        ms(0),
        Event::Registered(Err(failure(WorkFailureKind::Unreachable))),
    );
    assert_eq!(bench.step(ms(1), Event::Changed), []);
    assert_eq!(bench.tick(), (24, start(Work::Register)));
}

/// Actions of both lanes at the first heartbeat after a start at which the first check passed.
const BOTH: [Action; 2] = [Action::Start(Work::Check), Action::Start(Work::Register)];

fn healthy(config: Config) -> Bench {
    passed(Bench::with(config, true))
}

/// Passes the first check and registers the record.
fn passed(mut bench: Bench) -> Bench {
    assert_eq!(bench.step(ms(0), Event::Tick), start(Work::Check));
    assert_eq!(
        bench.step(ms(0), Event::Checked(Ok(()))),
        start(Work::Register)
    );
    let since = bench.now;
    assert_eq!(
        bench.step(ms(0), Event::Registered(Ok(()))),
        [Action::SetState(State::Registered { since })]
    );
    bench
}

#[test]
fn one_failed_check_leaves_and_two_passed_ones_return() {
    let mut bench = healthy(Config::default());
    assert_eq!(bench.tick(), (5000, BOTH.to_vec()));
    bench.step(ms(0), Event::Registered(Ok(())));
    let unhealthy = |why: &str| State::Unhealthy {
        since: bench.start + ms(5000),
        why: why.to_owned(),
    };
    let leaves = [
        Action::SetState(unhealthy("full")),
        Action::Start(Work::Deregister),
    ];
    let expected = [Action::SetState(unhealthy("fuller"))];
    assert_eq!(
        bench.step(ms(0), Event::Checked(Err("full".to_owned()))),
        leaves
    );
    assert_eq!(bench.step(ms(0), Event::Deregistered(Ok(()))), []);
    assert_eq!(bench.tick(), (5000, start(Work::Check)));
    assert_eq!(
        bench.step(ms(0), Event::Checked(Ok(()))),
        [],
        "once is not enough"
    );
    assert_eq!(bench.tick(), (5000, start(Work::Check)));
    assert_eq!(
        bench.step(ms(0), Event::Checked(Err("fuller".to_owned()))),
        expected,
        "and must be in a row"
    );
    for last in [false, true] {
        assert_eq!(bench.tick(), (5000, start(Work::Check)));
        let expected = if last { start(Work::Register) } else { vec![] };
        assert_eq!(bench.step(ms(0), Event::Checked(Ok(()))), expected);
    }
    let since = bench.now;
    assert_eq!(
        bench.step(ms(0), Event::Registered(Ok(()))),
        [Action::SetState(State::Registered { since })]
    );
}

#[test]
fn a_failed_check_waits_for_the_heartbeat_under_way_and_then_leaves() {
    let mut bench = healthy(Config::default());
    bench.tick();
    let unhealthy = State::Unhealthy {
        since: bench.now,
        why: "full".to_owned(),
    };
    assert_eq!(
        bench.step(ms(0), Event::Checked(Err("full".to_owned()))),
        [Action::SetState(unhealthy)]
    );
    assert_eq!(
        bench.step(ms(9), Event::Registered(Ok(()))),
        start(Work::Deregister),
        "and the state stays unhealthy"
    );
}

#[test]
fn a_check_slower_than_the_interval_delays_no_heartbeat() {
    let mut bench = healthy(Config {
        interval: ms(1000),
        ttl: ms(3000),
        ..Config::default()
    });
    let mut heartbeats = Vec::new();
    let mut answer = None;
    while bench.now < bench.at(10_000) {
        let deadline = bench.machine.deadline().unwrap();
        let (at, event) = match answer.filter(|at| *at <= deadline) {
            Some(at) => (at, Event::Checked(Ok(()))),
            None => (deadline, Event::Tick),
        };
        bench.now = at;
        if matches!(event, Event::Checked(_)) {
            answer = None;
        }
        for action in bench.step(ms(0), event) {
            match action {
                Action::Start(Work::Check) => answer = Some(bench.now + ms(1500)),
                Action::Start(Work::Register) => {
                    heartbeats.push((bench.now - bench.start).as_millis());
                    bench.step(ms(0), Event::Registered(Ok(())));
                }
                action => panic!("{action:?}"),
            }
        }
    }
    assert_eq!(heartbeats, (1..=10).map(|n| n * 1000).collect::<Vec<_>>());
}

#[test]
fn a_hung_check_lets_the_node_leave_within_so_many_timeouts_whatever_the_registrys_own() {
    for (interval, threshold) in [(1000, 1), (1000, 3), (2000, 2)] {
        let failure_threshold = threshold.try_into().unwrap();
        let config = Config {
            interval: ms(interval),
            failure_threshold,
            ..Config::default()
        };
        let start = super::start();
        let setup = Setup {
            request_timeout: ms(60_000),
            config,
            checks: true,
            pulse: start,
            resumed: None,
        };
        let mut bench = passed(Bench::of(setup, start));
        let mut hung = None;
        let left = loop {
            let (_, actions) = bench.tick();
            if actions.contains(&Action::Start(Work::Check)) {
                hung.get_or_insert(bench.now);
            }
            if actions.contains(&Action::Start(Work::Deregister)) {
                break bench.now;
            }
            if actions.contains(&Action::Start(Work::Register)) {
                bench.step(ms(0), Event::Registered(Ok(())));
            }
        };
        assert_eq!(
            (left - hung.unwrap()).as_millis(),
            u128::from(threshold) * 2000
        );
    }
}

#[test]
fn a_node_that_was_never_written_has_nothing_to_take_out() {
    let mut bench = Bench::new(true);
    bench.step(ms(0), Event::Tick);
    let unhealthy = State::Unhealthy {
        since: bench.at(0),
        why: "cold".to_owned(),
    };
    assert_eq!(
        bench.step(ms(0), Event::Checked(Err("cold".to_owned()))),
        [Action::SetState(unhealthy)]
    );
    assert_eq!(
        bench.step(ms(1), Event::Leave),
        [Action::SetState(State::Left), Action::Finish { out: true }]
    );
    assert_eq!(bench.machine.deadline(), None);
}

#[test]
fn a_record_that_was_never_taken_needs_no_deregister() {
    for (kind, asks) in [
        (WorkFailureKind::Permanent, false),
        (WorkFailureKind::Denied, false),
        (WorkFailureKind::Conflict, false),
        (WorkFailureKind::Unreachable, true),
    ] {
        let mut bench = Bench::new(false);
        bench.step(ms(0), Event::Tick);
        bench.step(ms(0), Event::Registered(Err(failure(kind))));
        let leave = bench.step(ms(1), Event::Leave);
        assert_eq!(
            leave.contains(&Action::Start(Work::Deregister)),
            asks,
            "{kind:?}"
        );
        assert_eq!(
            leave.contains(&Action::Finish { out: true }),
            !asks,
            "{kind:?}"
        );
    }
}

#[test]
fn a_refused_deregister_ends_the_leave_at_once() {
    for kind in [WorkFailureKind::Permanent, WorkFailureKind::Denied] {
        let mut bench = Bench::new(false);
        bench.registered();
        let leaves = [
            Action::SetState(State::Leaving),
            Action::Start(Work::Deregister),
        ];
        assert_eq!(bench.step(ms(1), Event::Leave), leaves);
        let end = [Action::SetState(State::Left), Action::Finish { out: false }];
        assert_eq!(
            bench.step(ms(1), Event::Deregistered(Err(failure(kind)))),
            end,
            "{kind:?}"
        );
    }
}

#[test]
fn a_deregister_of_an_unhealthy_node_is_retried() {
    let mut bench = healthy(Config::default());
    bench.tick();
    bench.step(ms(0), Event::Registered(Ok(())));
    bench.step(ms(0), Event::Checked(Err("full".to_owned())));
    assert_eq!(
        bench.step(
            ms(0),
            Event::Deregistered(Err(failure(WorkFailureKind::Unreachable)))
        ),
        []
    );
    assert_eq!(bench.tick(), (25, start(Work::Deregister)));
    assert_eq!(
        bench.step(
            ms(0),
            Event::Deregistered(Err(failure(WorkFailureKind::Conflict)))
        ),
        [],
        "what is not ours is out"
    );
    assert_eq!(bench.tick(), (4975, start(Work::Check)));
}

#[test]
fn leaving_lets_a_register_land_first_but_not_for_long() {
    let mut bench = Bench::new(false);
    bench.step(ms(0), Event::Tick);
    assert_eq!(
        bench.step(ms(100), Event::Leave),
        [Action::SetState(State::Leaving)]
    );
    assert_eq!(
        bench.step(ms(100), Event::Registered(Ok(()))),
        start(Work::Deregister)
    );
    let end = [Action::SetState(State::Left), Action::Finish { out: true }];
    assert_eq!(bench.step(ms(100), Event::Deregistered(Ok(()))), end);

    let mut bench = Bench::new(false);
    bench.step(ms(0), Event::Tick);
    bench.step(ms(100), Event::Leave);
    assert_eq!(
        bench.tick(),
        (
            1000,
            vec![
                Action::Abandon(Lane::Request),
                Action::Start(Work::Deregister)
            ]
        )
    );
    let end = vec![
        Action::SetState(State::Left),
        Action::Abandon(Lane::Request),
        Action::Finish { out: false },
    ];
    assert_eq!(bench.tick(), (1000, end));
}

#[test]
fn leaving_gives_up_a_check_and_retries_a_deregister() {
    let mut bench = healthy(Config::default());
    bench.tick();
    bench.step(ms(0), Event::Registered(Ok(())));
    let leaves = [
        Action::SetState(State::Leaving),
        Action::Abandon(Lane::Check),
        Action::Start(Work::Deregister),
    ];
    assert_eq!(bench.step(ms(10), Event::Leave), leaves);
    assert_eq!(
        bench.step(
            ms(0),
            Event::Deregistered(Err(failure(WorkFailureKind::Unreachable)))
        ),
        []
    );
    assert_eq!(bench.tick(), (25, start(Work::Deregister)));
    assert_eq!(bench.step(ms(0), Event::Leave), [], "once is enough");
    let end = [Action::SetState(State::Left), Action::Finish { out: true }];
    assert_eq!(bench.step(ms(0), Event::Deregistered(Ok(()))), end);
}

#[test]
fn a_machine_that_takes_over_takes_out_what_the_one_before_wrote() {
    let bench = Bench::new(false);
    let resumed = Some(State::Failing {
        since: bench.start,
        why: "gone".to_owned(),
        registered_before: true,
    });
    let config = Config::default();
    let setup = Setup {
        request_timeout: config.timeout,
        config,
        checks: false,
        pulse: bench.start,
        resumed,
    };
    let mut machine = Machine::new(setup, bench.start);
    let leaves = [
        Action::SetState(State::Leaving),
        Action::Start(Work::Deregister),
    ];
    assert_eq!(machine.step(bench.start, HALF, Event::Leave), leaves);
}
