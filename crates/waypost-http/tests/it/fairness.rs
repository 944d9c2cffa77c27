//! Calls that find no capacity are served in order of arrival, and none is starved or overtaken.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use waypost_http::ServiceChannel;

use crate::net::{Host, World, call};

const LONG: Duration = Duration::from_secs(5);
/// Number of streams on eight connections to a node that allows five on each.
const ROOM: usize = 40;

/// Returns a channel to one node that allows five streams per connection, with the maximum number
/// of connections open.
async fn narrow() -> (World, Host, ServiceChannel) {
    let world = World::new();
    let host = world.host("a").await;
    host.limit_streams(5);
    let sender = world.sender();
    sender.ready(LONG).await.unwrap();
    (world, host, sender)
}

/// Starts calls one after another, so that they arrive in order; each records its number when it is
/// answered.
fn begin_in_order(
    calls: &mut JoinSet<()>,
    sender: &ServiceChannel,
    numbers: std::ops::Range<usize>,
    answered: &Arc<Mutex<Vec<usize>>>,
) {
    for number in numbers {
        let (sender, answered) = (sender.clone(), Arc::clone(answered));
        calls.spawn(async move {
            call(&sender, "/act", "sleep 20")
                .await
                .unwrap_or_else(|error| panic!("call {number}: {error}"));
            answered.lock().unwrap().push(number);
        });
    }
}

/// Asserts that every response arrives at most `ROOM` calls before or after its position in the
/// order.
fn assert_in_order(answered: &[usize]) {
    for (at, number) in answered.iter().enumerate() {
        assert!(
            at.abs_diff(*number) <= ROOM,
            "call {number} was answered as number {at}: {answered:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn calls_that_wait_are_answered_in_the_order_they_came() {
    for callers in [200, 400] {
        let (_world, _host, sender) = narrow().await;
        let (mut calls, answered) = (JoinSet::new(), Arc::default());
        begin_in_order(&mut calls, &sender, 0..callers, &answered);
        calls.join_all().await;
        assert_eq!(answered.lock().unwrap().len(), callers);
        assert_in_order(&answered.lock().unwrap());
    }
}

/// Starts one new call each time permits are returned.
#[tokio::test(start_paused = true)]
async fn a_new_call_does_not_overtake_those_that_wait() {
    let (_world, _host, sender) = narrow().await;
    let (mut calls, answered) = (JoinSet::new(), Arc::default());
    begin_in_order(&mut calls, &sender, 0..400, &answered);
    for late in 400..800 {
        tokio::time::sleep(Duration::from_micros(500)).await;
        begin_in_order(&mut calls, &sender, late..late + 1, &answered);
    }
    calls.join_all().await;
    assert_eq!(answered.lock().unwrap().len(), 800);
    assert_in_order(&answered.lock().unwrap());
}

/// Runs `callers` callers, each of which calls again as soon as it is answered, until all calls are
/// made. Asserts that none fails and that each makes its part of the calls. Returns the longest
/// wait as a multiple of the mean.
async fn closed_loop(callers: usize, calls: usize) -> f64 {
    let (_world, _host, sender) = narrow().await;
    let left = Arc::new(AtomicUsize::new(calls));
    let mut running = JoinSet::new();
    let start = Instant::now();
    for _ in 0..callers {
        let (sender, left) = (sender.clone(), Arc::clone(&left));
        running.spawn(async move {
            let (mut made, mut longest) = (0, Duration::ZERO);
            while left
                .fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1))
                .is_ok()
            {
                let begun = Instant::now();
                call(&sender, "/act", "sleep 5").await.unwrap();
                (made, longest) = (made + 1, longest.max(begun.elapsed()));
            }
            (made, longest)
        });
    }
    let ended = running.join_all().await;
    let mean = start.elapsed().as_secs_f64() * callers as f64 / calls as f64;
    let part = calls / callers;
    for (made, _) in &ended {
        assert!(
            (part / 2..=part * 2).contains(made),
            "a caller made {made} calls, its part is {part}"
        );
    }
    ended
        .iter()
        .map(|(_, longest)| longest.as_secs_f64() / mean)
        .fold(0.0, f64::max)
}

#[tokio::test(start_paused = true)]
async fn callers_that_call_again_at_once_share_the_room() {
    for callers in [200, 400] {
        let longest = closed_loop(callers, callers * 8).await;
        assert!(
            longest < 4.0,
            "{callers} callers: a call took {longest} times the mean"
        );
    }
}

/// Two threads in real time: permits are returned while calls join the wait queue.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_call_again_at_once_share_the_room_in_real_time() {
    closed_loop(200, 2_000).await;
}
