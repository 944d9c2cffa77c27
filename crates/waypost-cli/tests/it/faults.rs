//! Servers that die and freeze while `demo client` calls them.

use std::time::{Duration, SystemTime};

use serde::Deserialize;
use waypost_testkit::Child;

use crate::support::{DEADLINE, Host};

const SERVERS: [&str; 5] = ["a", "b", "c", "d", "e"];
const VICTIM: &str = "greeter-c";

/// Line of the client for one call.
#[derive(Clone, Debug, Deserialize)]
struct Call {
    start_us: u64,
    duration_us: u64,
    node: Option<String>,
    result: String,
    moved: bool,
}

impl Call {
    fn is_on(&self, node: &str) -> bool {
        self.node.as_deref() == Some(node)
    }

    fn took(&self, ms: u64) -> bool {
        self.duration_us > ms * 1000
    }

    fn overlaps_call(&self, other: &Self) -> bool {
        self.overlaps(other.start_us, other.start_us + other.duration_us)
    }

    /// Returns true if the call was outstanding at some moment between these two.
    fn overlaps(&self, from: u64, to: u64) -> bool {
        self.start_us <= to && self.start_us + self.duration_us >= from
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the client measures its times by the wall clock too"
)]
fn now_us() -> u64 {
    u64::try_from(
        SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_micros(),
    )
    .unwrap()
}

/// Servers in a registry of their own, and a client that calls them.
struct Town {
    servers: Vec<Child>,
    client: Child,
    _host: Host,
}

impl Town {
    /// Starts five servers, and a client with 200 calls per second for four seconds.
    async fn new(more: &[&str]) -> Self {
        Self::of(
            &SERVERS,
            &[&["--rate", "200", "--for", "4s"], more].concat(),
        )
        .await
    }

    async fn of(ids: &[&str], client: &[&str]) -> Self {
        let host = Host::new();
        let mut servers = Vec::new();
        for id in ids {
            servers.push(host.greeter(id).await);
        }
        let client = host.start(&[&["demo", "client"], client].concat());
        Self {
            servers,
            client,
            _host: host,
        }
    }

    fn victim(&mut self) -> &mut Child {
        &mut self.servers[2]
    }

    /// Waits for `count` more calls.
    async fn calls(&mut self, count: usize) {
        for _ in 0..count {
            self.client.line(DEADLINE).await.unwrap();
        }
    }

    /// Returns the client's exit code and all its calls, once it has ended. The summary must agree
    /// with them.
    async fn end(&mut self) -> (Option<i32>, Vec<Call>) {
        let code = self.client.wait(DEADLINE).await.unwrap().code();
        let lines = self.client.stdout();
        let (summary, calls) = lines.split_last().unwrap();
        let calls: Vec<Call> = calls
            .iter()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let summary: serde_json::Value = serde_json::from_str(summary).unwrap();
        println!("{summary}");
        assert_eq!(
            (&summary["event"], &summary["calls"]),
            (&"summary".into(), &calls.len().into())
        );
        assert_eq!(summary["failed"], failed(&calls).len());
        (code, calls)
    }

    /// Freezes the victim so that calls are in flight on it, then kills it. Returns the times
    /// before and after the kill.
    async fn kill_with_calls_in_flight(&mut self) -> (u64, u64) {
        self.calls(200).await;
        self.victim().sigstop().unwrap();
        self.calls(100).await;
        let from = now_us();
        self.victim().sigkill().unwrap();
        self.victim().wait(DEADLINE).await.unwrap();
        (from, now_us())
    }
}

fn failed(calls: &[Call]) -> Vec<&Call> {
    calls.iter().filter(|call| call.result != "ok").collect()
}

#[tokio::test]
async fn a_killed_server_fails_no_call() {
    let mut town = Town::new(&[]).await;
    town.calls(200).await;
    town.victim().sigkill().unwrap();
    let (code, calls) = town.end().await;
    assert_eq!((code, failed(&calls).len()), (Some(0), 0));
    assert!(calls.iter().any(|call| call.is_on(VICTIM)) && calls.len() >= 700);
}

#[tokio::test]
async fn calls_in_flight_on_a_killed_server_move_to_another() {
    let mut town = Town::new(&[]).await;
    let (from, to) = town.kill_with_calls_in_flight().await;
    let (code, calls) = town.end().await;
    assert_eq!((code, failed(&calls).len()), (Some(0), 0));
    let moved: Vec<_> = calls.iter().filter(|call| call.moved).collect();
    assert!(
        !moved.is_empty() && moved.iter().all(|call| call.overlaps(from, to)),
        "{moved:?}"
    );
}

#[tokio::test]
async fn of_calls_that_may_not_be_sent_twice_only_those_in_flight_on_it_fail() {
    let mut town = Town::new(&["--not-idempotent"]).await;
    let (from, to) = town.kill_with_calls_in_flight().await;
    let (code, calls) = town.end().await;
    let failed = failed(&calls);
    assert_eq!(code, Some(1));
    assert!(
        !failed.is_empty()
            && failed
                .iter()
                .all(|call| call.is_on(VICTIM) && call.overlaps(from, to)),
        "{failed:?}"
    );
    assert!(calls.iter().all(|call| !call.moved));
}

#[tokio::test]
async fn a_frozen_server_is_left_alone_and_found_again() {
    let mut town = Town::of(&SERVERS, &["--rate", "200", "--for", "34s"]).await;
    // This client has no connection to the frozen server: a call that is slow here too is slow
    // because of the machine.
    let mut control = Town::of(&["a"], &["--rate", "50", "--for", "34s"]).await;
    town.calls(600).await;
    town.victim().sigstop().unwrap();
    let stopped = now_us();
    tokio::time::sleep(Duration::from_secs(20)).await;
    let woken = now_us();
    town.victim().sigcont().unwrap();
    let (code, calls) = town.end().await;
    assert_eq!((code, failed(&calls).len()), (Some(0), 0));

    let second = 1_000_000;
    let frozen = calls
        .iter()
        .filter(|call| (stopped + 2 * second..woken).contains(&call.start_us));
    // A call that was first sent to the frozen server has moved, or waited for it.
    let on_it: Vec<_> = frozen
        .filter(|call| call.moved || call.is_on(VICTIM))
        .collect();
    assert!(on_it.is_empty(), "{on_it:?}");
    let again = calls
        .iter()
        .filter(|call| call.is_on(VICTIM) && call.start_us > woken)
        .map(|call| call.start_us)
        .min();
    assert!(
        again.is_some_and(|again| again < woken + 8 * second),
        "picked again {again:?}, woken {woken}"
    );
    let elsewhere = calls
        .iter()
        .filter(|call| !call.moved && !call.is_on(VICTIM) && call.start_us >= stopped);
    let control = control.end().await.1;
    let is_the_machines = |call: &&Call| {
        control
            .iter()
            .any(|other| other.took(125) && call.overlaps_call(other))
    };
    let slow: Vec<_> = elsewhere
        .filter(|call| call.took(250) && !is_the_machines(call))
        .collect();
    report(&calls, stopped, woken);
    assert!(
        slow.is_empty(),
        "stopped {stopped}, woken {woken}: {slow:?}"
    );
}

/// Prints figures for people. Benchmarks measure the speed.
fn report(calls: &[Call], stopped: u64, woken: u64) {
    let p99 = |mut times: Vec<u64>| {
        times.sort_unstable();
        times.get(times.len() * 99 / 100).copied()
    };
    let elsewhere = calls
        .iter()
        .filter(|call| !call.moved && !call.is_on(VICTIM));
    let (before, during): (Vec<_>, Vec<_>) = elsewhere
        .filter(|call| call.start_us < woken)
        .partition(|call| call.start_us < stopped);
    let [before, during] =
        [before, during].map(|calls| p99(calls.iter().map(|call| call.duration_us).collect()));
    let moved = calls.iter().filter(|call| call.moved).count();
    println!("moved {moved}; p99 elsewhere before {before:?} us, frozen {during:?} us");
}
