//! Every setting may be as large or as small as its type allows: nothing panics, and calls are
//! answered unless the setting itself forbids it.

use std::cell::Cell;
use std::future::Future;
use std::panic;
use std::sync::{Arc, Once};
use std::time::Duration;

use waypost_http::{CallError, ChannelConfig, ClientConfig, FailureKind, ServiceChannel, Silence};

use crate::net::{World, begin, call};

const LONG: Duration = Duration::from_secs(5);
/// Idle period, longer than every default idle timeout.
const REST: Duration = Duration::from_secs(15 * 60);

thread_local! {
    static PANICS: Cell<usize> = const { Cell::new(0) };
}

/// Returns the number of panics on this thread, contained or not. A test in paused time has its
/// thread for itself.
fn panics() -> usize {
    static COUNTED: Once = Once::new();
    COUNTED.call_once(|| {
        let hook = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            PANICS.set(PANICS.get() + 1);
            hook(info);
        }));
    });
    PANICS.get()
}

/// Settings of a client and its channel.
#[derive(Default)]
struct Settings {
    client: ClientConfig,
    channel: ChannelConfig,
}

/// Failures of calls, by the phase in which they were made.
type Failures = Vec<(&'static str, FailureKind)>;

/// Runs a client through each phase in which some setting is read, with a single node, so that no
/// other hides its failure.
async fn live(settings: Settings) -> Failures {
    let world = World::with(settings.client);
    let channel = settings.channel;
    let mut failures = Failures::new();
    let mut note = |when, result: Result<(), CallError>| {
        if let Err(error) = result {
            failures.push((when, error.kind));
        }
    };
    let sender = world.sender_with(channel.clone());
    let (waited, host) = tokio::join!(spawned(&sender, "/look", "hi"), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.host("a").await
    });
    note("before the node", waited);
    host.limit_streams(100);
    let _ = sender.ready(LONG).await;
    let _ = sender.ready(Duration::ZERO).await;
    note("ready", spawned(&sender, "/act", "hi").await);
    note("slow", spawned(&sender, "/act", "sleep 3000").await);
    note(
        "unavailable",
        spawned(&sender, "/look", "unavailable").await,
    );
    for when in ["lost", "lost again"] {
        let (moved, ()) = tokio::join!(spawned(&sender, "/look", "sleep 50"), async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            host.break_off();
        });
        note(when, moved);
        // Long enough to reset the backoff.
        tokio::time::sleep(LONG).await;
    }
    tokio::time::sleep(REST).await;
    note("idle", spawned(&sender, "/act", "hi").await);
    host.drain();
    note("drained", spawned(&sender, "/act", "hi").await);
    let burst: Vec<_> = (0..150)
        .map(|_| spawned(&sender, "/act", "sleep 10"))
        .collect();
    for answered in burst {
        note("burst", answered.await);
    }
    world.memory.faults().remove_raw("echo", "echo-a");
    tokio::time::sleep(LONG).await;
    note("suspect", spawned(&sender, "/act", "hi").await);
    tokio::time::sleep(REST).await;
    world.register("a").await;
    tokio::time::sleep(LONG).await;
    note("back", spawned(&sender, "/act", "hi").await);
    drop(sender);
    tokio::time::sleep(REST).await;
    note(
        "used again",
        spawned(&world.sender_with(channel), "/act", "hi").await,
    );
    world.client.close().await;
    failures.dedup();
    failures
}

/// Starts a call in its own task at once. Its panic is counted; a response that reports a failure
/// is a response.
fn spawned(
    sender: &ServiceChannel,
    path: &'static str,
    body: &'static str,
) -> impl Future<Output = Result<(), CallError>> + use<> {
    let sender = sender.clone();
    let made = tokio::spawn(async move { call(&sender, path, body).await.map(drop) });
    async move { made.await.unwrap() }
}

/// Setting, and the function that sets its extreme value.
type Setting<T> = (&'static str, fn(&mut Settings, T));

fn durations() -> Vec<Setting<Duration>> {
    vec![
        ("directory.suspect_grace", |s, d| {
            s.client.directory.suspect_grace = d;
        }),
        ("directory.idle_watch", |s, d| {
            s.client.directory.idle_watch = d;
        }),
        ("directory.backoff.initial", |s, d| {
            s.client.directory.backoff.initial = d;
        }),
        ("directory.backoff.max", |s, d| {
            s.client.directory.backoff.max = d;
        }),
        ("connection.silence", |s, d| {
            s.client.connection.silence = Silence::Sparse([d; 3]);
        }),
        ("connection.silence.every", |s, d| {
            s.client.connection.silence = Silence::Every(d);
        }),
        ("wait_for_node", |s, d| s.channel.wait_for_node = d),
        ("stall.after", |s, d| s.channel.stall.after = d),
        ("connection.connect_timeout", |s, d| {
            s.client.connection.connect_timeout = d;
        }),
        ("connection.dial_slot_timeout", |s, d| {
            s.client.connection.dial_slot_timeout = d;
        }),
        ("connection.idle_timeout", |s, d| {
            s.client.connection.idle_timeout = d;
        }),
        ("connection.proof_timeout", |s, d| {
            s.client.connection.proof_timeout = d;
        }),
        ("connection.ping_timeout", |s, d| {
            s.client.connection.ping_timeout = d;
        }),
        ("connection.close_timeout", |s, d| {
            s.client.connection.close_timeout = d;
        }),
        ("reconnect.backoff.initial", |s, d| {
            s.client.reconnect.backoff.initial = d;
        }),
        ("reconnect.backoff.max", |s, d| {
            s.client.reconnect.backoff.max = d;
        }),
        ("reconnect.settled_after", |s, d| {
            s.client.reconnect.settled_after = d;
        }),
        ("budget.window", |s, d| s.client.budget.window = d),
        ("wait_for_ready", |s, d| s.channel.wait_for_ready = Some(d)),
        ("default_timeout", |s, d| {
            s.channel.default_timeout = Some(d);
        }),
        ("policy.retry_delay.0", |s, d| {
            Arc::make_mut(&mut s.channel.policy).retry_delay.0 = d;
        }),
        ("policy.retry_delay.1", |s, d| {
            Arc::make_mut(&mut s.channel.policy).retry_delay.1 = d;
        }),
    ]
}

fn counts() -> Vec<Setting<usize>> {
    vec![
        ("max_dials", |s, n| s.client.max_dials = n),
        ("stall.p50s", |s, n| {
            s.channel.stall.p50s = u32::try_from(n).unwrap_or(u32::MAX);
        }),
        ("waiting_calls", |s, n| s.client.waiting_calls = n),
        ("waiting_bytes", |s, n| s.client.waiting_bytes = n),
        ("replay_limit", |s, n| s.channel.replay_limit = n),
        ("balance.max_peers", |s, n| s.channel.balance.max_peers = n),
        ("budget.initial", |s, n| {
            s.client.budget.initial = u32::try_from(n).unwrap_or(u32::MAX);
        }),
        ("policy.max_attempts", |s, n| {
            Arc::make_mut(&mut s.channel.policy).max_attempts =
                u32::try_from(n).unwrap_or(u32::MAX);
        }),
    ]
}

fn ratios() -> Vec<Setting<f64>> {
    vec![
        ("budget.per_call", |s, n| s.client.budget.per_call = n),
        ("budget.per_second", |s, n| s.client.budget.per_second = n),
    ]
}

/// Setting that causes failures by itself: the phases in which it does (none: any), and the
/// failures.
type Denial = (
    &'static str,
    Option<&'static [&'static str]>,
    &'static [FailureKind],
);

const DENIALS: [Denial; 14] = [
    (
        "directory.suspect_grace = 0ns",
        Some(&["suspect"]),
        &[FailureKind::NoReadyNode],
    ),
    (
        "connection.connect_timeout = 0ns",
        None,
        &[FailureKind::NoReadyNode],
    ),
    (
        "connection.close_timeout = 0ns",
        Some(&["slow"]),
        &[FailureKind::NoAnswer],
    ),
    ("wait_for_ready = 0ns", None, &[FailureKind::NoReadyNode]),
    ("wait_for_node = 0ns", None, &[FailureKind::NoReadyNode]),
    (
        "default_timeout = 0ns",
        None,
        &[FailureKind::NoReadyNode, FailureKind::Deadline],
    ),
    (
        "waiting_bytes = 0",
        Some(&["burst"]),
        &[FailureKind::QueueBytes],
    ),
    ("waiting_calls = 0", None, &[FailureKind::QueueFull]),
    // The only node is never tried a second time, or without end.
    (
        "policy.retry_delay.0 = MAX",
        Some(AGAIN),
        &[FailureKind::Deadline],
    ),
    (
        "policy.retry_delay.1 = MAX",
        Some(AGAIN),
        &[FailureKind::Deadline],
    ),
    (
        "budget.per_call = NaN",
        Some(AGAIN),
        &[FailureKind::NoAnswer],
    ),
    (
        "budget.per_second = NaN",
        Some(AGAIN),
        &[FailureKind::NoAnswer],
    ),
    (
        "policy.max_attempts = 0",
        Some(AGAIN),
        &[FailureKind::NoAnswer],
    ),
    (
        "policy.max_attempts = MAX",
        Some(&["unavailable"]),
        &[FailureKind::Deadline],
    ),
];

/// Phases in which the only node is to be tried a second time in a call.
const AGAIN: &[&str] = &["unavailable", "lost", "lost again", "drained"];

fn is_denied(setting: &str, (moment, kind): (&str, FailureKind)) -> bool {
    DENIALS.iter().any(|(denied, moments, kinds)| {
        *denied == setting
            && moments.is_none_or(|moments| moments.contains(&moment))
            && kinds.contains(&kind)
    })
}

/// Runs all phases for each setting at each value, given with its name.
async fn assert_lives<T: Copy>(settings: Vec<Setting<T>>, values: &[(T, &str)]) {
    for (name, set) in settings {
        for (value, text) in values {
            let setting = format!("{name} = {text}");
            let (before, mut settings) = (panics(), Settings::default());
            set(&mut settings, *value);
            let mut failures = live(settings).await;
            failures.retain(|failure| !is_denied(&setting, *failure));
            assert_eq!((failures, panics() - before), (Vec::new(), 0), "{setting}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn durations_may_be_endless() {
    assert_lives(durations(), &[(Duration::MAX, "MAX")]).await;
}

#[tokio::test(start_paused = true)]
async fn durations_may_be_next_to_nothing() {
    assert_lives(durations(), &[(Duration::ZERO, "0ns")]).await;
}

#[tokio::test(start_paused = true)]
async fn numbers_may_be_any() {
    assert_lives(counts(), &[(0, "0"), (usize::MAX, "MAX")]).await;
    assert_lives(
        ratios(),
        &[
            (0.0, "0"),
            (f64::MAX, "MAX"),
            (f64::INFINITY, "inf"),
            (f64::NAN, "NaN"),
        ],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_call_and_a_wait_may_have_an_endless_deadline() {
    let world = World::new();
    let sender = world.sender();
    let ready = tokio::spawn({
        let sender = sender.clone();
        async move { sender.ready(Duration::MAX).await }
    });
    tokio::time::sleep(REST).await;
    world.host("a").await;
    ready.await.unwrap().unwrap();
    for path in ["/look", "/act", "/unknown"] {
        begin(
            &sender,
            path,
            "sleep 3000",
            Some(Duration::from_millis(u64::MAX)),
        )
        .await
        .unwrap();
    }
}
