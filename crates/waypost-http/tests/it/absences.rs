//! All nodes are unavailable for a while: calls wait, and the nodes that recover share them.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use waypost_http::{CallError, ClientConfig, FailureKind, ServiceChannel};

use crate::net::{Host, World, call};

/// Kind of unavailability of a node.
#[derive(Clone, Copy, Debug)]
enum Absence {
    /// Frozen or partitioned: nothing is answered, and connections stay.
    Silent,
    /// Dead: connections break, and no new ones are accepted.
    Dead,
    /// Dead, and also removed from the registry until registered again.
    Lost,
}

impl Absence {
    async fn begin(self, world: &World, hosts: &[Host]) {
        match self {
            Self::Silent => hosts.iter().for_each(|host| host.freeze(true)),
            Self::Dead | Self::Lost => hosts.iter().for_each(Host::kill),
        }
        if matches!(self, Self::Lost) {
            (0..hosts.len()).for_each(|i| {
                world
                    .memory
                    .faults()
                    .remove_raw("echo", &format!("echo-n{i}"));
            });
        }
    }

    async fn end(self, world: &World, hosts: &[Host]) {
        for (i, host) in hosts.iter().enumerate() {
            host.freeze(false);
            host.revive();
            if matches!(self, Self::Lost) {
                world.register(&format!("n{i}")).await;
            }
        }
    }
}

type Outcome = Result<(String, u32, String), CallError>;

/// Starts calls at a steady pace, whatever the outcome of earlier ones.
fn start_calls(
    sender: &ServiceChannel,
    order: &'static str,
    calls: u32,
    per_second: u32,
) -> JoinSet<Outcome> {
    let (start, mut all) = (Instant::now(), JoinSet::new());
    for i in 0..calls {
        let sender = sender.clone();
        all.spawn(async move {
            sleep_until(start + Duration::from_secs(1) * i / per_second).await;
            call(&sender, "/look", order).await
        });
    }
    all
}

async fn none_fails(absence: Absence, away: Duration, per_second: u32) {
    let world = World::new();
    let hosts = world.hosts(5).await;
    let sender = world.sender();
    start_calls(&sender, "hi", 20, 20).join_all().await;
    let seconds = u32::try_from(away.as_secs()).unwrap();
    let calls = start_calls(&sender, "hi", (seconds + 2) * per_second, per_second);
    sleep(Duration::from_secs(1)).await;
    absence.begin(&world, &hosts).await;
    sleep(away).await;
    absence.end(&world, &hosts).await;
    let back = Instant::now();
    let failed: Vec<_> = calls
        .join_all()
        .await
        .into_iter()
        .filter_map(Result::err)
        .collect();
    assert!(
        failed.is_empty(),
        "{absence:?} {away:?}: {} calls failed, one so: {}",
        failed.len(),
        failed[0]
    );
    assert!(
        back.elapsed() < Duration::from_secs(7),
        "{absence:?} {away:?}: the last was answered after {:?}",
        back.elapsed()
    );
    assert_eq!(
        sender
            .snapshot()
            .nodes
            .iter()
            .map(|node| node.in_flight)
            .sum::<u32>(),
        0
    );
}

#[tokio::test(start_paused = true)]
async fn no_call_fails_while_all_nodes_are_away_for_seconds() {
    for away in [4, 8] {
        for absence in [Absence::Silent, Absence::Dead, Absence::Lost] {
            none_fails(absence, Duration::from_secs(away), 100).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn thousands_of_calls_wait_for_nodes_that_come_back() {
    none_fails(Absence::Dead, Duration::from_secs(4), 1_000).await;
}

/// Makes ten calls with a body each; returns their outcomes in order. Dropped, it ends them.
async fn ten_calls(sender: &ServiceChannel, body: usize) -> Vec<Outcome> {
    let mut all = JoinSet::new();
    for i in 0..10 {
        let (sender, body) = (sender.clone(), "x".repeat(body));
        all.spawn(async move { (i, call(&sender, "/look", &body).await) });
        sleep(Duration::from_millis(1)).await;
    }
    let mut outcomes = all.join_all().await;
    outcomes.sort_by_key(|(i, _)| *i);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

#[tokio::test(start_paused = true)]
async fn a_full_line_reports_it_by_number_and_by_bytes_and_empties() {
    let mut by_number = ClientConfig::default();
    by_number.waiting_calls = 7;
    let mut by_bytes = ClientConfig::default();
    by_bytes.waiting_bytes = 75_000;
    let cases = [
        (
            by_number,
            FailureKind::QueueFull,
            "too many calls wait for a node already",
        ),
        (
            by_bytes,
            FailureKind::QueueBytes,
            "calls that wait for a node keep too many bytes already",
        ),
    ];
    for (config, kind, text) in cases {
        let world = World::with(config);
        let host = world.host("a").await;
        host.kill();
        let sender = world.sender();
        // Calls abandoned by their callers free capacity for others.
        assert!(
            tokio::time::timeout(Duration::from_secs(1), ten_calls(&sender, 10_000))
                .await
                .is_err()
        );
        let calls = {
            let sender = sender.clone();
            tokio::spawn(async move { ten_calls(&sender, 10_000).await })
        };
        sleep(Duration::from_secs(1)).await;
        host.revive();
        let outcomes = calls.await.unwrap();
        let answered: Vec<_> = outcomes.iter().map(Result::is_ok).collect();
        assert_eq!(
            answered,
            (0..10).map(|i| i < 7).collect::<Vec<_>>(),
            "{kind:?}"
        );
        for error in outcomes[7..]
            .iter()
            .map(|outcome| outcome.as_ref().unwrap_err())
        {
            assert_eq!((error.kind, error.after), (kind, Duration::ZERO));
            assert!(
                error
                    .to_string()
                    .starts_with(&format!("echo: {text} (1 known, 0 ready, 1 not_connected")),
                "{error}"
            );
        }
        assert!(
            ten_calls(&sender, 10_000).await.iter().all(Result::is_ok),
            "the line is empty again"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_calls_are_spread_over_nodes_that_are_ready_shortly_after_each_other() {
    for (count, announced_at_once) in [(100, true), (100, false), (900, true), (900, false)] {
        let world = World::new();
        let sender = world.sender();
        let calls = start_calls(&sender, "sleep 200", count, 1_000 * count);
        sleep(Duration::from_millis(10)).await;
        let mut hosts = Vec::new();
        for i in 0..5 {
            let host = world.host(&format!("n{i}")).await;
            if announced_at_once {
                host.delay_dials(Duration::from_millis(20) * i);
            } else {
                host.delay_dials(Duration::from_millis(50));
                sleep(Duration::from_millis(20)).await;
            }
            hosts.push(host);
        }
        assert!(calls.join_all().await.iter().all(Result::is_ok));
        let served: Vec<_> = hosts
            .iter()
            .map(|host| host.requests.load(Relaxed))
            .collect();
        let most = u32::try_from(*served.iter().max().unwrap()).unwrap();
        assert!((count / 5..=count * 2 / 5).contains(&most), "{served:?}");
        assert!(served.iter().all(|served| *served > 0), "{served:?}");
    }
}
