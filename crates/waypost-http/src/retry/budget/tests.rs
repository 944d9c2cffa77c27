use proptest::prelude::*;

use super::*;

fn at(start: Instant, ms: u64) -> Instant {
    start + Duration::from_millis(ms)
}

fn withdraw_all(budget: &Budget, now: Instant) -> usize {
    (0..200_000).take_while(|_| budget.withdraw(now)).count()
}

/// Returns the calls and retries of a service that fails each of `per_second` calls for `seconds`,
/// after `calm` seconds of calls without a failure.
fn total_failure(per_second: u64, calm: u64, seconds: u64) -> (u64, u64) {
    let start = Instant::now();
    let budget = Budget::new(BudgetConfig::default(), start);
    let (mut calls, mut retries) = (0, 0);
    for call in 0..(calm + seconds) * per_second {
        let now = at(start, call * 1_000 / per_second);
        budget.deposit(now);
        if call >= calm * per_second {
            calls += 1;
            retries += (0..2).filter(|_| budget.withdraw(now)).count() as u64;
        }
    }
    (calls, retries)
}

#[test]
fn total_failure_costs_a_fifth_more_and_ten_a_second_whatever_was_before() {
    for per_second in [200, 2_000] {
        for calm in [0, 5, 60] {
            for seconds in [10, 30] {
                let (calls, retries) = total_failure(per_second, calm, seconds);
                let bound = calls / 5 + 10 * seconds;
                assert!(
                    retries <= bound,
                    "{per_second}/s, {calm} s calm, {seconds} s: {retries} of {bound}"
                );
                assert!(
                    retries >= bound * 8 / 10,
                    "{per_second}/s, {calm} s calm, {seconds} s: {retries} of {bound}"
                );
            }
        }
    }
}

#[test]
fn a_plenty_of_an_hour_ago_is_worth_nothing() {
    let start = Instant::now();
    let budget = Budget::new(BudgetConfig::default(), start);
    (0..100_000).for_each(|call| budget.deposit(at(start, call / 10)));
    assert!(
        budget.withdraw(at(start, 10_000)),
        "a plenty is worth something while it lasts"
    );
    assert_eq!(withdraw_all(&budget, at(start, 3_600_000)), 100);
}

#[test]
fn the_initial_retries_are_part_of_the_first_window_and_not_on_top_of_it() {
    let start = Instant::now();
    let budget = Budget::new(BudgetConfig::default(), start);
    assert_eq!(withdraw_all(&budget, start), 10);
    assert_eq!(withdraw_all(&budget, at(start, 1_000)), 10);
    assert_eq!(
        (2..=10)
            .map(|s| withdraw_all(&budget, at(start, s * 1_000)))
            .sum::<usize>(),
        80
    );
}

#[test]
fn no_window_and_an_endless_one_are_bounded() {
    let start = Instant::now();
    for window in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
        let budget = Budget::new(
            BudgetConfig {
                window,
                ..BudgetConfig::default()
            },
            start,
        );
        assert_eq!(withdraw_all(&budget, start), 10, "{window:?}");
        let far = start + Duration::from_secs(400 * 365 * 24 * 3600);
        (0..1_000).for_each(|_| budget.deposit(far));
        let retries = withdraw_all(&budget, far);
        assert!(
            (200..=200 + 10 * 86_400).contains(&retries),
            "{window:?}: {retries}"
        );
    }
}

#[test]
fn odd_numbers_never_panic() {
    let start = Instant::now();
    for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, 0.0] {
        let config = BudgetConfig {
            per_call: number,
            per_second: number,
            ..BudgetConfig::default()
        };
        let budget = Budget::new(config, start);
        budget.deposit(start);
        budget.withdraw(at(start, 500));
    }
}

#[test]
fn an_instant_before_the_start_counts_as_the_start() {
    let start = Instant::now();
    let budget = Budget::new(BudgetConfig::default(), at(start, 5_000));
    budget.deposit(start);
    assert!(budget.withdraw(start));
}

#[test]
fn deposits_of_many_threads_are_all_counted() {
    let start = Instant::now();
    let config = BudgetConfig {
        per_call: 1.0,
        per_second: 0.0,
        initial: 0,
        ..BudgetConfig::default()
    };
    let budget = Budget::new(config, start);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..1_000).for_each(|call| budget.deposit(at(start, call * 9))));
        }
    });
    assert_eq!(withdraw_all(&budget, at(start, 9_000)), 4_000);
}

/// Exact times of all calls and retries.
#[derive(Default)]
struct Naive {
    calls: Vec<u64>,
    retries: Vec<u64>,
}

impl Naive {
    fn within(times: &[u64], from: u64, now: u64) -> f64 {
        times
            .iter()
            .filter(|time| **time > from && **time <= now || from == 0)
            .count() as f64
    }

    /// Returns true if the retries of the last window, this one included, are within the calls'
    /// fraction and the reserve.
    fn permits(&self, config: &BudgetConfig, now: u64) -> bool {
        let window = config.window.as_millis() as u64;
        let from = now.saturating_sub(window);
        let reserve =
            (config.per_second * config.window.as_secs_f64()).max(f64::from(config.initial));
        Self::within(&self.retries, from, now) + 1.0
            <= config.per_call * Self::within(&self.calls, from, now) + reserve
    }

    /// Returns true if the same holds with a tenth of the window counted against the caller, and
    /// the reserve as grown so far.
    fn demands(&self, config: &BudgetConfig, now: u64) -> bool {
        let window = config.window.as_millis() as u64;
        let spent = Self::within(&self.retries, now.saturating_sub(window + window / 10), now);
        let calls = Self::within(&self.calls, now.saturating_sub(window - window / 10), now);
        let most = (config.per_second * config.window.as_secs_f64()).max(f64::from(config.initial));
        let reserve =
            (f64::from(config.initial) + config.per_second * now as f64 / 1_000.0).min(most);
        spent + 1.0 <= config.per_call * calls + reserve - 1e-6
    }
}

#[derive(Clone, Debug)]
enum Event {
    Calls(u64),
    Retries(u64),
    Pause(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (1..200u64).prop_map(Event::Calls),
        (1..200u64).prop_map(Event::Retries),
        (0..3_000u64).prop_map(Event::Pause),
        (0..3_600_000u64).prop_map(Event::Pause),
    ]
}

proptest! {
    #[test]
    fn retries_of_a_window_never_exceed_its_share_and_are_never_withheld_without_need(
        events in prop::collection::vec(event(), 1..60),
        per_call in 0.0..1.5f64,
        per_second in 0u32..20,
        initial in 0u32..30,
        window in 1u64..20,
    ) {
        let window = Duration::from_secs(window);
        let config = BudgetConfig { per_call, per_second: f64::from(per_second), initial, window };
        let start = Instant::now();
        let budget = Budget::new(config, start);
        let mut naive = Naive::default();
        let mut now = 0;
        for event in events {
            match event {
                Event::Pause(ms) => now += ms,
                Event::Calls(calls) => {
                    for _ in 0..calls {
                        budget.deposit(at(start, now));
                        naive.calls.push(now);
                    }
                }
                Event::Retries(retries) => {
                    for _ in 0..retries {
                        let (permitted, demanded) = (naive.permits(&config, now), naive.demands(&config, now));
                        let given = budget.withdraw(at(start, now));
                        prop_assert!(permitted || !given, "a retry too many at {now} ms");
                        prop_assert!(given || !demanded, "a retry withheld at {now} ms");
                        if given {
                            naive.retries.push(now);
                        }
                    }
                }
            }
        }
    }
}
