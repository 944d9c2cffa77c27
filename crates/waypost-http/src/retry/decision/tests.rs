use proptest::prelude::*;
use tokio::time::Instant;

use super::FailureCause::{GoAwayError, Lost, NotSent, Reset, Unavailable, Unprocessed};
use super::RetryDecision::{Move, MoveToUntried, Retry, Stop};
use super::*;
use crate::retry::{Budget, BudgetConfig, Policy};

const LOST: FailureCause = Lost { stale: false };
const STALE: FailureCause = Lost { stale: true };
const NOW: RetryDecision = Retry(Duration::ZERO);

fn context() -> RetryContext {
    RetryContext {
        replayable: true,
        remaining: None,
        peers: 3,
        untried: true,
    }
}

fn state(idempotent: bool, max_attempts: u32) -> RetryState {
    let mut state = RetryState::new(&Policy {
        max_attempts,
        ..Policy::default()
    });
    state.set_idempotent(idempotent);
    state
}

fn budget(initial: u32) -> Budget {
    let config = BudgetConfig {
        initial,
        per_second: 0.0,
        ..BudgetConfig::default()
    };
    Budget::new(config, Instant::now())
}

/// Returns the decisions for a sequence of failures of one call. Every move to an untried peer
/// finds one.
fn decide(
    mut state: RetryState,
    context: &RetryContext,
    budget: &Budget,
    failures: &[AttemptFailure],
) -> Vec<RetryDecision> {
    failures
        .iter()
        .map(|failure| state.on_failure(*failure, context, budget, Instant::now()))
        .collect()
}

fn first(idempotent: bool, failure: AttemptFailure, context: &RetryContext) -> RetryDecision {
    decide(state(idempotent, 3), context, &budget(10), &[failure])[0]
}

#[test]
fn the_table() {
    let after = |ms| Unavailable(Pushback::After(Duration::from_millis(ms)));
    let no = Stop(StopReason::NotIdempotent);
    let table = [
        // cause, committed, if idempotent, if not
        (NotSent, false, MoveToUntried, MoveToUntried),
        (Unprocessed, false, MoveToUntried, MoveToUntried),
        (GoAwayError, false, MoveToUntried, MoveToUntried),
        (LOST, false, Move, no),
        (STALE, false, Move, no),
        (Unavailable(Pushback::None), false, NOW, no),
        (after(70), false, Retry(Duration::from_millis(70)), no),
        (
            Unavailable(Pushback::Never),
            false,
            Stop(StopReason::PushbackNever),
            no,
        ),
        (
            Reset,
            false,
            Stop(StopReason::Final),
            Stop(StopReason::Final),
        ),
        // Response headers prove that the request was processed.
        (Unprocessed, true, NOW, no),
        (GoAwayError, true, Move, no),
        (LOST, true, Move, no),
        (STALE, true, Move, no),
        (Unavailable(Pushback::None), true, NOW, no),
        (after(70), true, Retry(Duration::from_millis(70)), no),
        (
            Reset,
            true,
            Stop(StopReason::Final),
            Stop(StopReason::Final),
        ),
    ];
    for (cause, committed, idempotent, other) in table {
        let failure = AttemptFailure { cause, committed };
        assert_eq!(
            first(true, failure, &context()),
            idempotent,
            "idempotent, {failure:?}"
        );
        assert_eq!(
            first(false, failure, &context()),
            other,
            "not idempotent, {failure:?}"
        );
    }
}

#[test]
fn the_body_the_deadline_and_the_pushback_are_obstacles() {
    let with = |replayable, ms: Option<u64>| RetryContext {
        replayable,
        remaining: ms.map(Duration::from_millis),
        ..context()
    };
    let after = Unavailable(Pushback::After(Duration::from_millis(100)));
    let late = Stop(StopReason::PushbackBeyondDeadline);
    let table = [
        (
            Unprocessed,
            with(false, None),
            Stop(StopReason::BodyNotReplayable),
        ),
        (LOST, with(false, None), Stop(StopReason::BodyNotReplayable)),
        (Unprocessed, with(true, Some(0)), Stop(StopReason::Deadline)),
        (LOST, with(true, Some(0)), Stop(StopReason::Deadline)),
        (after, with(true, Some(99)), late),
        (after, with(true, Some(100)), late),
        (
            after,
            with(true, Some(101)),
            Retry(Duration::from_millis(100)),
        ),
        (
            Unavailable(Pushback::After(Duration::MAX)),
            with(true, Some(u64::MAX)),
            late,
        ),
    ];
    for (cause, context, expected) in table {
        assert_eq!(
            first(true, AttemptFailure::uncommitted(cause), &context),
            expected,
            "{cause:?} {context:?}"
        );
    }
}

#[test]
fn a_pushback_beyond_the_deadline_costs_no_budget() {
    let budget = budget(1);
    let failure = AttemptFailure::uncommitted(Unavailable(Pushback::After(Duration::from_secs(9))));
    let context = RetryContext {
        remaining: Some(Duration::from_secs(1)),
        ..context()
    };
    decide(state(true, 3), &context, &budget, &[failure]);
    assert!(budget.withdraw(Instant::now()));
}

/// Sequences of causes in one call, and the decisions that they lead to.
#[test]
fn what_a_call_gets_in_all() {
    let max = Stop(StopReason::MaxAttempts);
    let poor = Stop(StopReason::Budget);
    let suspect = Stop(StopReason::ConnectionsEnded(2));
    let unavailable = Unavailable(Pushback::None);
    type Steps<'a> = &'a [(FailureCause, RetryDecision)];
    // name, idempotent, attempts, budget, causes and decisions
    let table: &[(&str, bool, u32, u32, Steps<'_>)] = &[
        (
            "three attempts",
            true,
            3,
            10,
            &[(unavailable, NOW), (unavailable, NOW), (unavailable, max)],
        ),
        (
            "one attempt still moves",
            true,
            1,
            10,
            &[
                (Unprocessed, MoveToUntried),
                (LOST, Move),
                (unavailable, max),
            ],
        ),
        (
            "no attempt is as one",
            true,
            0,
            10,
            &[(LOST, Move), (LOST, max)],
        ),
        (
            "a move is free",
            true,
            3,
            0,
            &[(LOST, Move), (unavailable, poor)],
        ),
        (
            "the second loss is paid",
            true,
            3,
            1,
            &[(LOST, Move), (LOST, NOW), (LOST, poor)],
        ),
        (
            "losses end",
            true,
            3,
            10,
            &[(LOST, Move), (LOST, NOW), (LOST, NOW), (LOST, max)],
        ),
        (
            "connections that were dead before do not count",
            true,
            1,
            0,
            &[(STALE, Move), (STALE, Move), (LOST, Move), (LOST, max)],
        ),
        (
            "moves end",
            false,
            3,
            1,
            &[
                (Unprocessed, MoveToUntried),
                (Unprocessed, MoveToUntried),
                (Unprocessed, MoveToUntried),
                (Unprocessed, NOW),
                (Unprocessed, poor),
            ],
        ),
        (
            "a request that ends connections stops",
            false,
            3,
            10,
            &[(GoAwayError, MoveToUntried), (GoAwayError, suspect)],
        ),
        (
            "also if it may be sent twice",
            true,
            3,
            10,
            &[(GoAwayError, MoveToUntried), (LOST, suspect)],
        ),
        (
            "in either order",
            true,
            3,
            10,
            &[(LOST, Move), (GoAwayError, suspect)],
        ),
        (
            "a dead connection does not make a suspect",
            true,
            3,
            10,
            &[
                (STALE, Move),
                (GoAwayError, MoveToUntried),
                (GoAwayError, suspect),
            ],
        ),
    ];
    for (name, idempotent, attempts, retries, steps) in table {
        let failures: Vec<_> = steps
            .iter()
            .map(|(cause, _)| AttemptFailure::uncommitted(*cause))
            .collect();
        let expected: Vec<_> = steps.iter().map(|(_, decision)| *decision).collect();
        assert_eq!(
            decide(
                state(*idempotent, *attempts),
                &context(),
                &budget(*retries),
                &failures
            ),
            expected,
            "{name}"
        );
    }
}

#[test]
fn without_an_untried_peer_what_was_processed_by_none_is_retried_and_what_was_not_sent_waits() {
    let budget = budget(10);
    for (cause, expected) in [(NotSent, Move), (Unprocessed, NOW), (GoAwayError, NOW)] {
        let failure = AttemptFailure::uncommitted(cause);
        let mut state = state(false, 3);
        assert_eq!(
            state.on_failure(failure, &context(), &budget, Instant::now()),
            MoveToUntried
        );
        assert_eq!(
            state.on_no_untried_peer(failure, &context(), &budget, Instant::now()),
            expected,
            "{cause:?}"
        );
        assert_eq!(state.moves(), u32::from(expected == Move));
    }
}

#[test]
fn the_error_names_the_connections_that_ended() {
    let text = StopReason::ConnectionsEnded(2).to_string();
    assert_eq!(
        text,
        "2 connections ended under this request, and it may be the cause: check its size and content"
    );
}

fn cause() -> impl Strategy<Value = FailureCause> {
    prop_oneof![
        Just(NotSent),
        Just(Unprocessed),
        Just(GoAwayError),
        any::<bool>().prop_map(|stale| Lost { stale }),
        Just(Unavailable(Pushback::None)),
        Just(Unavailable(Pushback::After(Duration::ZERO))),
    ]
}

proptest! {
    #[test]
    fn every_call_ends_after_bounded_attempts_and_nothing_processed_is_sent_twice_unless_idempotent(
        failures in prop::collection::vec((cause(), any::<bool>(), any::<bool>()), 40),
        idempotent in any::<bool>(),
        max_attempts in 0u32..6,
        peers in 0u32..20,
    ) {
        let mut state = state(idempotent, max_attempts);
        let context = RetryContext { peers, ..context() };
        let budget = budget(1_000);
        let mut sent = 1;
        for (cause, committed, untried) in failures {
            let failure = AttemptFailure { cause, committed };
            let mut decision = state.on_failure(failure, &context, &budget, Instant::now());
            if decision == MoveToUntried && !untried {
                decision = state.on_no_untried_peer(failure, &context, &budget, Instant::now());
            }
            if let Stop(_) = decision {
                break;
            }
            let processed = committed || !matches!(cause, NotSent | Unprocessed | GoAwayError);
            prop_assert!(idempotent || !processed, "{failure:?} was sent again");
            sent += 1;
        }
        prop_assert!(sent <= max_attempts.max(1) + MAX_MOVES.min(peers.max(1)), "{sent}");
    }
}
