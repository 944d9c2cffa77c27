//! Keep-alive rules, in paused time.

use super::*;

const START: Duration = Duration::ZERO;

fn keep_alive(config: &ConnectionConfig) -> (KeepAlive, impl Fn(u64) -> Instant + use<>) {
    let start = Instant::now();
    let keep_alive = KeepAlive::new(config, EnhanceYourCalm::default(), start, START);
    (keep_alive, move |ms| start + Duration::from_millis(ms))
}

fn default() -> (KeepAlive, impl Fn(u64) -> Instant) {
    keep_alive(&ConnectionConfig::default())
}

fn read(activity: Activity) -> KeepAliveEvent {
    KeepAliveEvent::Read(activity)
}

fn waiting() -> KeepAliveEvent {
    read(Activity {
        calls: 1,
        ..Activity::default()
    })
}

fn opened() -> KeepAliveEvent {
    read(Activity {
        calls: 1,
        opened: true,
        ..Activity::default()
    })
}

fn pong(calls: usize) -> KeepAliveEvent {
    read(Activity {
        bytes: true,
        pong: true,
        calls,
        ..Activity::default()
    })
}

fn answer(calls: usize) -> KeepAliveEvent {
    read(Activity {
        bytes: true,
        answers: true,
        calls,
        ..Activity::default()
    })
}

/// Simulates `seconds` with one call in flight, each PING acknowledged within 100 ms; returns the
/// times of the PINGs in seconds.
fn quiet_pings(keep_alive: &mut KeepAlive, at: &impl Fn(u64) -> Instant, seconds: u64) -> Vec<u64> {
    let mut pings = Vec::new();
    let mut sent = false;
    for ms in (0..seconds * 1_000).step_by(100) {
        let event = if sent { pong(1) } else { waiting() };
        sent = keep_alive.step(at(ms), event) == KeepAliveAction::Ping;
        pings.extend(sent.then_some(ms / 1_000));
    }
    pings
}

#[tokio::test(start_paused = true)]
async fn a_quiet_stream_is_asked_at_5_15_and_45_seconds() {
    let (mut keep_alive, at) = default();
    assert_eq!(quiet_pings(&mut keep_alive, &at, 120), [5, 15, 45]);
}

#[tokio::test(start_paused = true)]
async fn calm_spaces_the_pings_and_not_the_time_for_their_answers() {
    let start = Instant::now();
    let mut calm = EnhanceYourCalm::default();
    calm.raise(start);
    let mut keep_alive = KeepAlive::new(&ConnectionConfig::default(), calm, start, START);
    let at = |ms| start + Duration::from_millis(ms);
    keep_alive.step(at(0), waiting());
    assert_eq!(keep_alive.next_wake(), Some(at(10_000)));
    assert_eq!(
        keep_alive.step(at(10_000), waiting()),
        KeepAliveAction::Ping
    );
    keep_alive.step(at(12_000), waiting());
    assert_eq!(keep_alive.liveness(), Liveness::Unresponsive);
}

#[tokio::test(start_paused = true)]
async fn calm_decays_while_the_connection_lives() {
    let start = Instant::now();
    let mut calm = EnhanceYourCalm::default();
    (0..6).for_each(|_| calm.raise(start));
    let mut keep_alive = KeepAlive::new(&ConnectionConfig::default(), calm, start, START);
    let later = start + Duration::from_secs(400);
    keep_alive.step(later, answer(0));
    keep_alive.step(later, waiting());
    assert_eq!(keep_alive.next_wake(), Some(later + Duration::from_secs(5)));
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_ping_is_unresponsive_after_2_and_closes_after_8_seconds() {
    let (mut keep_alive, at) = default();
    keep_alive.step(at(1_000), opened());
    assert_eq!(
        keep_alive.step(at(2_000), KeepAliveEvent::Slow),
        KeepAliveAction::Ping
    );
    assert_eq!(
        (keep_alive.liveness(), keep_alive.next_wake()),
        (Liveness::Probing, Some(at(4_000)))
    );
    assert_eq!(
        keep_alive.step(at(2_500), KeepAliveEvent::Slow),
        KeepAliveAction::None,
        "one PING at a time"
    );
    assert_eq!(keep_alive.step(at(4_000), waiting()), KeepAliveAction::None);
    assert_eq!(
        (keep_alive.liveness(), keep_alive.next_wake()),
        (Liveness::Unresponsive, Some(at(10_000)))
    );
    assert_eq!(keep_alive.step(at(9_999), waiting()), KeepAliveAction::None);
    assert_eq!(
        keep_alive.step(at(10_000), waiting()),
        KeepAliveAction::Close
    );
}

#[tokio::test(start_paused = true)]
async fn whatever_is_read_is_life() {
    let (mut keep_alive, at) = default();
    keep_alive.step(at(0), opened());
    keep_alive.step(at(1_000), KeepAliveEvent::Slow);
    keep_alive.step(at(3_000), waiting());
    assert_eq!(keep_alive.liveness(), Liveness::Unresponsive);
    keep_alive.step(
        at(7_000),
        read(Activity {
            bytes: true,
            calls: 1,
            ..Activity::default()
        }),
    );
    assert_eq!(keep_alive.liveness(), Liveness::Alive);
    assert_eq!(
        keep_alive.step(at(9_000), waiting()),
        KeepAliveAction::None,
        "the old PING closes nothing any more"
    );
}

#[tokio::test(start_paused = true)]
async fn slow_calls_ping_at_most_once_a_second_and_three_times_without_an_answer() {
    let (mut keep_alive, at) = default();
    let mut pings = 0;
    for ms in (0..4_900).step_by(100) {
        keep_alive.step(at(ms), pong(1));
        pings += u32::from(keep_alive.step(at(ms), KeepAliveEvent::Slow) == KeepAliveAction::Ping);
    }
    assert_eq!(pings, 3);
    keep_alive.step(at(4_900), pong(1));
    assert_eq!(
        keep_alive.step(at(5_000), KeepAliveEvent::Slow),
        KeepAliveAction::None
    );
    assert_eq!(
        keep_alive.liveness(),
        Liveness::Alive,
        "with none left, a slow call puts nothing in doubt"
    );
    keep_alive.step(at(5_000), answer(1));
    assert_eq!(
        keep_alive.step(at(5_000), KeepAliveEvent::Slow),
        KeepAliveAction::Ping,
        "an answer restores them"
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_restores_all_but_the_ping_that_is_out() {
    let (mut keep_alive, at) = default();
    keep_alive.step(at(0), waiting());
    assert_eq!(
        keep_alive.step(at(0), KeepAliveEvent::Slow),
        KeepAliveAction::Ping
    );
    keep_alive.step(at(1), answer(2));
    assert_eq!(keep_alive.pings_left, 2);
    assert_eq!(
        keep_alive.step(at(2_000), KeepAliveEvent::Slow),
        KeepAliveAction::None,
        "the last one is still out"
    );
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_proven_beside_its_first_call() {
    let (mut keep_alive, at) = default();
    keep_alive.step(at(0), answer(0));
    assert_eq!(keep_alive.step(at(9_999), opened()), KeepAliveAction::None);
    assert_eq!(keep_alive.step(at(10_000), opened()), KeepAliveAction::Ping);
    assert_eq!(
        (keep_alive.liveness(), keep_alive.next_wake()),
        (Liveness::Alive, Some(at(10_500))),
        "not doubted yet"
    );
    keep_alive.step(at(10_500), waiting());
    assert_eq!(
        (keep_alive.liveness(), keep_alive.next_wake()),
        (Liveness::Unresponsive, Some(at(18_000)))
    );
    assert_eq!(
        keep_alive.step(at(18_000), waiting()),
        KeepAliveAction::Close
    );
}

#[tokio::test(start_paused = true)]
async fn a_far_connection_has_eight_round_trips_for_its_proof() {
    let start = Instant::now();
    let rtt = Duration::from_millis(200);
    let mut keep_alive = KeepAlive::new(
        &ConnectionConfig::default(),
        EnhanceYourCalm::default(),
        start,
        rtt,
    );
    let at = |ms| start + Duration::from_millis(ms);
    assert_eq!(keep_alive.step(at(20_000), opened()), KeepAliveAction::Ping);
    assert_eq!(keep_alive.next_wake(), Some(at(21_600)));
    keep_alive.step(at(20_010), pong(1));
    assert_eq!(keep_alive.rtt, Duration::from_millis(10));
}

#[tokio::test(start_paused = true)]
async fn siblings_are_proven_when_asked_and_only_if_idle() {
    let (mut keep_alive, at) = default();
    assert_eq!(
        keep_alive.step(at(9_000), KeepAliveEvent::Prove),
        KeepAliveAction::None
    );
    assert_eq!(
        keep_alive.step(at(11_000), KeepAliveEvent::Prove),
        KeepAliveAction::Ping
    );
    keep_alive.step(at(11_400), pong(0));
    assert_eq!(keep_alive.liveness(), Liveness::Alive);
    assert_eq!(
        keep_alive.step(at(11_500), KeepAliveEvent::Prove),
        KeepAliveAction::None
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_slow_while_a_proof_is_out_doubts_at_once() {
    let start = Instant::now();
    let rtt = Duration::from_millis(900);
    let mut keep_alive = KeepAlive::new(
        &ConnectionConfig::default(),
        EnhanceYourCalm::default(),
        start,
        rtt,
    );
    let at = |ms| start + Duration::from_millis(ms);
    keep_alive.step(at(20_000), opened());
    assert_eq!(
        keep_alive.step(at(21_000), KeepAliveEvent::Slow),
        KeepAliveAction::None
    );
    assert_eq!(keep_alive.liveness(), Liveness::Probing);
}

#[tokio::test(start_paused = true)]
async fn durations_without_end_mean_never() {
    let config = ConnectionConfig {
        connect_timeout: Duration::MAX,
        dial_slot_timeout: Duration::MAX,
        idle_timeout: Duration::MAX,
        proof_timeout: Duration::MAX,
        ping_timeout: Duration::MAX,
        close_timeout: Duration::MAX,
        silence: Silence::default(),
    };
    let (mut keep_alive, at) = keep_alive(&config);
    keep_alive.step(at(0), opened());
    assert_eq!(
        keep_alive.step(at(1_000), KeepAliveEvent::Slow),
        KeepAliveAction::Ping
    );
    assert_eq!(keep_alive.next_wake(), None);
    assert_eq!(
        keep_alive.step(at(1 << 40), opened()),
        KeepAliveAction::None
    );
    assert_eq!(keep_alive.liveness(), Liveness::Probing);
}

/// A timer that is due and causes no action would spin; one that is due and not armed would be
/// lost.
#[tokio::test(start_paused = true)]
async fn the_next_wake_is_always_acted_on() {
    for seed in 0..200 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (mut keep_alive, at) = default();
        let mut now = 0;
        for _ in 0..100 {
            now += rng.u64(0..4_000);
            let calls = rng.usize(0..3);
            let activity = Activity {
                bytes: rng.bool(),
                answers: rng.bool(),
                pong: rng.bool(),
                opened: rng.bool(),
                calls,
            };
            let event = match rng.u8(0..4) {
                0 => KeepAliveEvent::Slow,
                1 => KeepAliveEvent::Prove,
                _ => read(Activity {
                    bytes: activity.bytes || activity.answers || activity.pong,
                    ..activity
                }),
            };
            keep_alive.step(at(now), event);
            while keep_alive.next_wake().is_some_and(|wake| wake <= at(now)) {
                let before = keep_alive.next_wake();
                let action = keep_alive.step(
                    at(now),
                    read(Activity {
                        calls,
                        ..Activity::default()
                    }),
                );
                assert!(
                    action == KeepAliveAction::Close || keep_alive.next_wake() != before,
                    "seed {seed}: {keep_alive:?}"
                );
                if action == KeepAliveAction::Close {
                    break;
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_period_of_silence_is_probed_again_and_again_without_a_budget() {
    let period = Duration::from_secs(6);
    let (mut keep_alive, at) = keep_alive(&ConnectionConfig {
        silence: Silence::Every(period),
        ..ConnectionConfig::default()
    });
    let pings = quiet_pings(&mut keep_alive, &at, 120);
    assert_eq!(pings.len(), 19, "{pings:?}");
    assert!(
        pings
            .windows(2)
            .all(|pair| (6..=7).contains(&(pair[1] - pair[0]))),
        "{pings:?}"
    );
    // Without calls in flight, none is sent.
    keep_alive.step(at(121_000), pong(0));
    assert_eq!(
        keep_alive.step(at(600_000), read(Activity::default())),
        KeepAliveAction::None
    );
    assert_eq!(keep_alive.next_wake(), None);
    // An endless period is never over.
    let (mut keep_alive, at) = self::keep_alive(&ConnectionConfig {
        silence: Silence::Every(Duration::MAX),
        ..ConnectionConfig::default()
    });
    assert_eq!(quiet_pings(&mut keep_alive, &at, 120), [0_u64; 0]);
}
