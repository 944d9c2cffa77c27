//! Failed calls over three servers that are restarted one after another under load.
//!
//! All sides call the same servers at the same time, so that they see the same restarts: SIGTERM,
//! wait for the end, start again on the same port. `balance_channel` follows the same registry as
//! Waypost: a node is inserted when it is registered, and removed when it is marked as leaving.
//! `balance_list` has the three addresses, as a client without a registry has.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tonic::transport::Endpoint;
use tonic::transport::channel::Change;
use waypost::AnyRegistry;
use waypost::registry::{Event, WatchOptions};
use waypost_testkit::report::{Figures, Result, one_thread};

use crate::caller::{Caller, SERVICE, balance_channel, balance_list, endpoint, ours_from};
use crate::servers::{RunningServer, ServerKind, addresses};

const RUNS: usize = 5;
const RESTARTS: usize = 6;
const SERVERS: usize = 3;
const CALLERS: usize = 32;
/// Pause of each caller after a call: enough load that calls are always in flight, and time for the
/// servers to start.
const REST: Duration = Duration::from_millis(2);
const LIMIT: Duration = Duration::from_secs(10);
const STOP: Duration = Duration::from_secs(20);
/// Delays between leaving the registry and GOAWAY. With none, GOAWAY is unexpected; with the
/// default, the registry's event comes a second before it.
const DRAIN_DELAYS: [Duration; 2] = [Duration::ZERO, Duration::from_secs(1)];
const SIDES: [&str; 3] = ["waypost", "balance_channel", "balance_list"];

pub(crate) fn run() -> Result<Figures> {
    one_thread()?.block_on(async {
        let mut rows = Vec::new();
        for drain_delay in DRAIN_DELAYS {
            let mut runs = Vec::new();
            for _ in 0..RUNS {
                runs.push(one_run(drain_delay).await?);
            }
            rows.push((drain_delay, runs));
        }
        Ok(figures(&rows))
    })
}

/// Results of one side's calls.
#[derive(Debug, Default)]
struct CallCounts {
    calls: u64,
    failed: u64,
    why: BTreeMap<String, u64>,
}

impl CallCounts {
    fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.failed += other.failed;
        for (why, n) in &other.why {
            *self.why.entry(why.clone()).or_default() += n;
        }
    }
}

type Run = [CallCounts; 3];

async fn one_run(drain_delay: Duration) -> Result<Run> {
    let dir = tempfile::tempdir()?;
    let url = format!("local://{}", dir.path().display());
    let kind = ServerKind::Registered {
        registry: &url,
        drain_delay,
    };
    let mut servers = Vec::new();
    for _ in 0..SERVERS {
        servers.push(RunningServer::start(kind, "127.0.0.1:0").await?);
    }
    let registry = waypost::connect(&url).await?;
    let (client, mine) = ours_from(registry.clone())?;
    let (changes, updated) = balance_channel();
    let mut follower = JoinSet::new();
    follower.spawn(follow(registry.clone(), changes));
    let listed = balance_list(&addresses(&servers))?;

    let stop = Arc::new(AtomicBool::new(false));
    let load = async { tokio::join!(call(mine, &stop), call(updated, &stop), call(listed, &stop)) };
    let restarts = async {
        let result = restart_all(&mut servers, kind).await;
        stop.store(true, Relaxed);
        result
    };
    let (tallies, result) = tokio::join!(load, restarts);
    result?;
    client.close().await;
    follower.shutdown().await;
    registry.close().await?;
    Ok(tallies.into())
}

async fn restart_all(servers: &mut [RunningServer], kind: ServerKind<'_>) -> Result<()> {
    let settle = Duration::from_millis(200);
    sleep(settle).await;
    for restart in 0..RESTARTS {
        let server = &mut servers[restart % SERVERS];
        server.child.sigterm()?;
        server.child.wait(STOP).await?;
        *server = RunningServer::start(kind, &server.address.clone()).await?;
        sleep(settle).await;
    }
    Ok(())
}

/// Forwards the registry's events to tonic.
async fn follow(
    registry: AnyRegistry,
    changes: mpsc::Sender<Change<String, Endpoint>>,
) -> Result<()> {
    let mut watcher = registry.watch(&WatchOptions::service(SERVICE)).await?;
    while let Some(event) = watcher.next().await {
        let entries = match event? {
            Event::Reset(entries) => entries,
            Event::Created(entry) | Event::Updated(entry) => vec![entry],
            Event::Deleted(key) => {
                changes.send(Change::Remove(key.id)).await?;
                continue;
            }
        };
        for entry in entries {
            let id = entry.node.id.clone();
            let change = if entry.node.is_leaving() {
                Change::Remove(id)
            } else {
                Change::Insert(id, endpoint(&entry.node.address)?)
            };
            changes.send(change).await?;
        }
    }
    Ok(())
}

/// Calls from all callers until `stop` is set.
async fn call(caller: impl Caller, stop: &Arc<AtomicBool>) -> CallCounts {
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        callers.spawn(call_on(caller.clone(), Arc::clone(stop)));
    }
    let mut sum = CallCounts::default();
    for counts in callers.join_all().await {
        sum.add(&counts);
    }
    sum
}

async fn call_on(mut caller: impl Caller, stop: Arc<AtomicBool>) -> CallCounts {
    let mut counts = CallCounts::default();
    while !stop.load(Relaxed) {
        counts.calls += 1;
        let why = match timeout(LIMIT, caller.hello(None)).await {
            Ok(Ok(())) => None,
            Ok(Err(status)) => Some(format!("{:?}: {}", status.code(), status.message())),
            Err(_) => Some("no answer".to_owned()),
        };
        if let Some(why) = why {
            counts.failed += 1;
            *counts.why.entry(why).or_default() += 1;
        }
        sleep(REST).await;
    }
    counts
}

fn figures(rows: &[(Duration, Vec<Run>)]) -> Figures {
    let mut table = format!(
        "{RESTARTS} graceful restarts of {SERVERS} servers under {CALLERS} callers a side, {RUNS} runs: failed of all calls, by run"
    );
    let mut variants = Vec::new();
    let mut lost = 0;
    for (drain_delay, runs) in rows {
        let drain_ms = drain_delay.as_millis();
        let mut variant = json!({ "drain_delay_ms": drain_ms as u64 });
        // Writing to a string does not fail.
        let _ = write!(
            table,
            "\n  {drain_ms} ms between leaving the registry and GOAWAY"
        );
        for (side, name) in SIDES.into_iter().enumerate() {
            let mut sum = CallCounts::default();
            runs.iter().for_each(|run| sum.add(&run[side]));
            let by_run: Vec<_> = runs.iter().map(|run| run[side].failed).collect();
            let _ = write!(
                table,
                "\n    {name:<16} {:>6} of {:>7}  {by_run:?}",
                sum.failed, sum.calls
            );
            variant[name] = tallied(&sum, &by_run);
            lost += if side == 0 { sum.failed } else { 0 };
        }
        variants.push(variant);
    }
    let json = json!({ "servers": SERVERS, "restarts": RESTARTS, "callers": CALLERS, "runs": RUNS, "by_drain_delay": variants });
    Figures {
        table,
        json,
        failures: (lost > 0)
            .then(|| format!("waypost failed {lost} calls across graceful restarts"))
            .into_iter()
            .collect(),
    }
}

fn tallied(sum: &CallCounts, by_run: &[u64]) -> Value {
    json!({ "calls": sum.calls, "failed": sum.failed, "by_run": by_run, "why": sum.why })
}
