//! Property tests of the state machine with random settings, results and orders, against a model of
//! the work in progress.

use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use crate::backoff::BackoffConfig;
use crate::registrar::Config;
use crate::registrar::event::{Action, Event, Lane, Work, WorkFailure, WorkFailureKind};
use crate::registrar::machine::{Machine, Setup};

/// Random input of a machine: the time since the last one, the lane that ends and its result, an
/// order, and the chance.
#[derive(Clone, Debug)]
struct Turn {
    after: u64,
    check_first: bool,
    answer: Option<Option<WorkFailureKind>>,
    other: Option<bool>,
    chance: f64,
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let kind = prop_oneof![
        Just(WorkFailureKind::Unreachable),
        Just(WorkFailureKind::Conflict),
        Just(WorkFailureKind::Denied),
        Just(WorkFailureKind::Permanent)
    ];
    let answer = proptest::option::weighted(0.8, proptest::option::of(kind));
    let other = proptest::option::weighted(0.1, proptest::bool::weighted(0.2));
    let turn = (0_u64..4000, any::<bool>(), answer, other, 0.0..=1.0).prop_map(
        |(after, check_first, answer, other, chance)| Turn {
            after,
            check_first,
            answer,
            other,
            chance,
        },
    );
    proptest::collection::vec(turn, 1..200)
}

fn duration() -> impl Strategy<Value = Duration> {
    prop_oneof![
        4 => (1_u64..20_000).prop_map(Duration::from_millis),
        1 => Just(Duration::ZERO),
        1 => Just(Duration::from_nanos(1)),
        1 => Just(Duration::from_secs(9_000_000_000)),
        1 => Just(Duration::MAX / 2),
        1 => Just(Duration::MAX - Duration::from_nanos(1)),
        1 => Just(Duration::MAX),
    ]
}

/// Generates settings of any kind, valid or not.
fn configs() -> impl Strategy<Value = Config> {
    let threshold = (1_u32..4).prop_map(|n| n.try_into().unwrap());
    let times = proptest::array::uniform7(duration());
    (times, threshold.clone(), threshold).prop_map(
        |(times, failure_threshold, success_threshold)| {
            let [
                ttl,
                interval,
                timeout,
                initial,
                max,
                reregister_jitter,
                drain_delay,
            ] = times;
            Config {
                ttl,
                interval,
                timeout,
                backoff: BackoffConfig { initial, max },
                reregister_jitter,
                drain_delay,
                failure_threshold,
                success_threshold,
            }
        },
    )
}

/// Model of a run, with its own health counts. It asserts the invariants of every run.
#[derive(Debug)]
struct Model {
    check: Option<Work>,
    request: Option<Work>,
    known: bool,
    failing: bool,
    passes: u32,
    failures: u32,
    thresholds: (u32, u32),
    left_at: Option<Instant>,
    finished: bool,
}

impl Model {
    fn new(config: &Config, checks: bool) -> Self {
        Self {
            check: None,
            request: None,
            known: !checks,
            failing: false,
            passes: 0,
            failures: 0,
            thresholds: (
                config.failure_threshold.get(),
                config.success_threshold.get(),
            ),
            left_at: None,
            finished: false,
        }
    }

    fn see(&mut self, actions: &[Action]) {
        for action in actions {
            assert!(!self.finished, "nothing happens after the end");
            match action {
                Action::Start(work) => self.begins(*work),
                Action::Abandon(lane) => self.gives_up(*lane),
                Action::SetState(_) => {}
                Action::Finish { .. } => self.finished = true,
            }
        }
    }

    fn lane(&mut self, lane: Lane) -> &mut Option<Work> {
        match lane {
            Lane::Check => &mut self.check,
            Lane::Request => &mut self.request,
        }
    }

    fn begins(&mut self, work: Work) {
        assert_eq!(
            self.lane(lane_of(work)).replace(work),
            None,
            "one at a time in a lane"
        );
        assert!(
            work == Work::Deregister || self.left_at.is_none(),
            "only a deregister after leaving"
        );
        assert!(
            work != Work::Register || self.known && !self.failing,
            "no register while unhealthy"
        );
    }

    fn gives_up(&mut self, lane: Lane) {
        let work = self
            .lane(lane)
            .take()
            .expect("only work under way is given up");
        if work == Work::Check && self.left_at.is_none() {
            self.checked(false);
        }
    }

    fn checked(&mut self, passed: bool) {
        let (failure_threshold, success_threshold) = self.thresholds;
        (self.passes, self.failures) = if passed {
            (self.passes + 1, 0)
        } else {
            (0, self.failures + 1)
        };
        if !self.known && passed || self.failing && self.passes >= success_threshold {
            (self.known, self.failing) = (true, false);
        } else if self.failures >= failure_threshold {
            (self.known, self.failing) = (true, true);
        }
    }

    /// Ends the work of one lane, if there is any, with this result.
    fn ends(&mut self, check_first: bool, kind: Option<WorkFailureKind>) -> Option<Event> {
        let lanes = if check_first {
            [Lane::Check, Lane::Request]
        } else {
            [Lane::Request, Lane::Check]
        };
        let work = lanes.into_iter().find_map(|lane| self.lane(lane).take())?;
        if work == Work::Check {
            self.checked(kind.is_none());
        }
        Some(answer(work, kind))
    }
}

fn lane_of(work: Work) -> Lane {
    match work {
        Work::Check => Lane::Check,
        Work::Register | Work::Deregister => Lane::Request,
    }
}

fn answer(work: Work, kind: Option<WorkFailureKind>) -> Event {
    let result = kind.map_or(Ok(()), |kind| {
        Err(WorkFailure {
            kind,
            why: "no".to_owned(),
        })
    });
    match work {
        Work::Check => Event::Checked(result.map_err(|failure| failure.why)),
        Work::Register => Event::Registered(result),
        Work::Deregister => Event::Deregistered(result),
    }
}

/// Runs `turns` and asserts the invariants of every run.
fn play(config: &Config, checks: bool, turns: Vec<Turn>) {
    let start = super::start();
    let setup = Setup {
        config: config.clone(),
        request_timeout: config.timeout,
        checks,
        pulse: start,
        resumed: None,
    };
    let mut machine = Machine::new(setup, start);
    let (mut now, mut model) = (start, Model::new(config, checks));
    model.see(&machine.step(now, 0.5, Event::Tick));
    for turn in turns {
        if model.finished {
            break;
        }
        let deadline = machine
            .deadline()
            .unwrap_or(now + Duration::from_secs(3600));
        now = (now + Duration::from_millis(turn.after)).min(deadline);
        let event = match (turn.other, turn.answer) {
            (Some(true), _) => {
                model.left_at.get_or_insert(now);
                Some(Event::Leave)
            }
            (Some(false), _) => Some(Event::Changed),
            (None, Some(kind)) => model.ends(turn.check_first, kind),
            (None, None) => None,
        };
        let event = event.unwrap_or_else(|| {
            now = deadline;
            Event::Tick
        });
        model.see(&machine.step(now, turn.chance, event.clone()));
        holds(config, &machine, &model, now, turn.chance, &event);
    }
}

fn holds(
    config: &Config,
    machine: &Machine,
    model: &Model,
    now: Instant,
    chance: f64,
    event: &Event,
) {
    if let Some(deadline) = machine.deadline() {
        assert!(deadline >= now, "never late");
        let longest = [
            config.interval,
            config.timeout.saturating_mul(2),
            config.backoff.max,
        ]
        .into_iter()
        .max()
        .unwrap();
        assert!(
            now.checked_add(longest)
                .is_none_or(|latest| deadline <= latest),
            "never asleep for long"
        );
        let rests =
            deadline > now || chance < 1e-3 || config.backoff.initial < Duration::from_millis(1);
        assert!(rests || !matches!(event, Event::Tick), "no busy loop");
    }
    if let Some(by) = model
        .left_at
        .and_then(|left| left.checked_add(config.timeout))
    {
        assert!(
            model.finished || now < by || !matches!(event, Event::Tick),
            "left in time"
        );
        assert!(now <= by, "left in time");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_thing_at_a_time_in_each_lane_always_going_on_and_out_in_time(turns in turns(), checks: bool) {
        play(&Config::default(), checks, turns);
    }

    #[test]
    fn any_settings_are_refused_or_hold_too_and_none_panics(config in configs(), checks: bool, turns in turns()) {
        if config.validate().is_ok() {
            play(&config, checks, turns.clone());
        }
        // Most settings are invalid for their TTL alone, so the others are tested with a valid one.
        let config = Config { ttl: Duration::from_secs(60), interval: Duration::from_secs(20), ..config };
        if config.validate().is_ok() {
            play(&config, checks, turns);
        }
    }
}
