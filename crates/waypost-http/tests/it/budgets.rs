//! Retry budgets of a client.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::net::{World, call};

#[tokio::test(start_paused = true)]
async fn a_total_failure_after_an_idle_hour_costs_no_more_retries_than_a_window_gives() {
    let world = World::new();
    let hosts = world.hosts(2).await;
    for name in ["n0", "n1"] {
        world
            .register_for(name, Duration::from_secs(24 * 3600))
            .await;
    }
    let requests = || {
        hosts
            .iter()
            .map(|host| host.requests.load(Relaxed))
            .sum::<usize>()
    };
    let sender = world.sender();
    for _ in 0..2_000 {
        call(&sender, "/look", "hi").await.unwrap();
        sleep(Duration::from_millis(5)).await;
    }
    // One retry of many, so that the budget has counted the earlier calls.
    let attempts = call(&sender, "/look", "unavailable").await.unwrap().1;
    assert!(attempts > 1);
    sleep(Duration::from_secs(3600)).await;
    let before = requests();
    let mut calls = JoinSet::new();
    for _ in 0..300 {
        let sender = sender.clone();
        calls.spawn(async move { call(&sender, "/look", "unavailable").await.unwrap() });
    }
    calls.join_all().await;
    let retries = requests() - before - 300;
    // A fifth of the calls, and ten for each of the window's ten seconds.
    assert!(
        (100..=160).contains(&retries),
        "{retries} retries of 300 calls"
    );
}
