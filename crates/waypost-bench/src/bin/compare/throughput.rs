//! Calls per second, and the cost of each for the client, over four server processes.
//!
//! Both sides alternate on the same runtime and the same servers. Each round gives one ratio, and
//! the median of the ratios is the result: on a shared machine calls per second drift by half,
//! ratios and CPU time hardly.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use waypost_testkit::paths;
use waypost_testkit::report::{Figures, Result, median, one_thread, quantile, rounded};

use crate::caller::{Caller, Ours, Theirs, balance_list, ours};
use crate::servers::{RunningServer, addresses};

const SERVERS: usize = 4;
const CALLERS: [usize; 2] = [64, 512];
const WARM_UP: Duration = Duration::from_millis(500);
const ROUND: Duration = Duration::from_secs(1);

pub(crate) fn run(rounds: usize) -> Result<Figures> {
    let runtime = one_thread()?;
    let loads = runtime.block_on(async {
        let servers = RunningServer::plain(SERVERS).await?;
        let addresses = addresses(&servers);
        let (client, mine) = ours(&addresses).await?;
        let theirs = balance_list(&addresses)?;
        let mut loads = Vec::new();
        for callers in CALLERS {
            loads.push((
                callers,
                measure(&mine, &theirs, &servers, callers, rounds).await?,
            ));
        }
        client.close().await;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(loads)
    })?;
    let allocations = runtime.block_on(allocations())?;
    Ok(figures(&loads, rounds, &allocations))
}

/// Measurement of one side in one round.
#[derive(Clone, Copy, Debug)]
struct SideTurn {
    calls_per_s: f64,
    client_cpu_us: f64,
    server_cpu_us: f64,
}

/// Measurements of both sides in one round.
#[derive(Clone, Copy, Debug)]
struct CompareRound {
    waypost: SideTurn,
    tonic: SideTurn,
}

async fn measure(
    mine: &Ours,
    theirs: &Theirs,
    servers: &[RunningServer],
    callers: usize,
    rounds: usize,
) -> Result<Vec<CompareRound>> {
    turn(mine, servers, callers, WARM_UP).await?;
    turn(theirs, servers, callers, WARM_UP).await?;
    let mut measured = Vec::new();
    for round in 0..rounds {
        measured.push(if round % 2 == 0 {
            let tonic = turn(theirs, servers, callers, ROUND).await?;
            CompareRound {
                waypost: turn(mine, servers, callers, ROUND).await?,
                tonic,
            }
        } else {
            let waypost = turn(mine, servers, callers, ROUND).await?;
            CompareRound {
                waypost,
                tonic: turn(theirs, servers, callers, ROUND).await?,
            }
        });
    }
    Ok(measured)
}

async fn turn(
    caller: &impl Caller,
    servers: &[RunningServer],
    callers: usize,
    time: Duration,
) -> Result<SideTurn> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    let (start, client_cpu, server_cpu) = (Instant::now(), client_cpu()?, server_cpu(servers)?);
    for _ in 0..callers {
        tasks.spawn(call_on(caller.clone(), Arc::clone(&stop)));
    }
    sleep(time).await;
    stop.store(true, Relaxed);
    let mut calls = 0;
    while let Some(made) = tasks.join_next().await {
        calls += made??;
    }
    let took = start.elapsed();
    let (client_cpu, server_cpu) = (
        self::client_cpu()? - client_cpu,
        self::server_cpu(servers)? - server_cpu,
    );
    let n = calls as f64;
    let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / n;
    Ok(SideTurn {
        calls_per_s: n / took.as_secs_f64(),
        client_cpu_us: each(client_cpu),
        server_cpu_us: each(server_cpu),
    })
}

async fn call_on(mut caller: impl Caller, stop: Arc<AtomicBool>) -> Result<u64> {
    let mut calls = 0;
    while !stop.load(Relaxed) {
        caller.hello(None).await?;
        calls += 1;
    }
    Ok(calls)
}

/// Returns the CPU time of this thread, which is all of the client.
fn client_cpu() -> Result<Duration> {
    on_cpu("/proc/thread-self/schedstat")
}

/// Returns the CPU time of the servers' threads, one each.
fn server_cpu(servers: &[RunningServer]) -> Result<Duration> {
    servers
        .iter()
        .map(|server| on_cpu(&format!("/proc/{}/schedstat", server.child.pid())))
        .sum()
}

fn on_cpu(schedstat: &str) -> Result<Duration> {
    let text = std::fs::read_to_string(schedstat)?;
    let ns = text
        .split_whitespace()
        .next()
        .ok_or("no schedstat on this kernel")?;
    Ok(Duration::from_nanos(ns.parse()?))
}

/// Counts allocations in another program, so that counting costs nothing here.
async fn allocations() -> Result<Value> {
    let program = paths::binary("waypost-bench", "compare-allocations")?;
    let output = Command::new(program).kill_on_drop(true).output().await?;
    if !output.status.success() {
        return Err(format!(
            "compare-allocations: {}",
            String::from_utf8_lossy(&output.stderr)
        )
        .into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn figures(loads: &[(usize, Vec<CompareRound>)], rounds: usize, allocations: &Value) -> Figures {
    let mut table = format!(
        "unary calls over {SERVERS} servers, median of {rounds} rounds (ratio: median of each round's)"
    );
    let mut by_callers = Vec::new();
    for (callers, measured) in loads {
        let rows = [
            (
                "calls_per_s",
                "calls a second",
                field(measured, |turn| turn.calls_per_s),
            ),
            (
                "client_cpu_us_per_call",
                "client CPU us/call",
                field(measured, |turn| turn.client_cpu_us),
            ),
            (
                "server_cpu_us_per_call",
                "server CPU us/call",
                field(measured, |turn| turn.server_cpu_us),
            ),
        ];
        let mut load = json!({ "callers": callers });
        for (key, label, figure) in rows {
            // Writing to a string does not fail.
            let _ = write!(
                table,
                "\n  {callers:>3} callers  {label:<18}  {}",
                figure.shown()
            );
            load[key] = figure.json();
        }
        by_callers.push(load);
    }
    for what in ["allocations", "bytes"] {
        let (waypost, tonic) = (
            &allocations["waypost"][what],
            &allocations["balance_list"][what],
        );
        let _ = write!(
            table,
            "\n               {what:<18}  waypost {waypost:>9}  balance_list {tonic:>9}  a call"
        );
    }
    let json = json!({ "servers": SERVERS, "rounds": rounds, "by_callers": by_callers, "allocated_per_call": allocations });
    Figures {
        table,
        json,
        failures: Vec::new(),
    }
}

/// One figure of both sides, by round.
struct Figure {
    waypost: Vec<f64>,
    tonic: Vec<f64>,
}

fn field(rounds: &[CompareRound], of: impl Fn(&SideTurn) -> f64) -> Figure {
    let side =
        |side: fn(&CompareRound) -> &SideTurn| rounds.iter().map(|round| of(side(round))).collect();
    Figure {
        waypost: side(|round| &round.waypost),
        tonic: side(|round| &round.tonic),
    }
}

impl Figure {
    fn ratios(&self) -> Vec<f64> {
        self.waypost
            .iter()
            .zip(&self.tonic)
            .map(|(waypost, tonic)| waypost / tonic)
            .collect()
    }

    fn shown(&self) -> String {
        let (waypost, tonic, ratios) = (median(&self.waypost), median(&self.tonic), self.ratios());
        let (ratio, least, most) = (
            median(&ratios),
            quantile(&ratios, 0.0),
            quantile(&ratios, 1.0),
        );
        format!(
            "waypost {waypost:>9.2}  balance_list {tonic:>9.2}  ratio {ratio:.2} ({least:.2} to {most:.2})"
        )
    }

    fn json(&self) -> Value {
        let all = |values: &[f64]| values.iter().copied().map(rounded).collect::<Vec<_>>();
        let ratios = self.ratios();
        json!({
            "waypost": rounded(median(&self.waypost)),
            "balance_list": rounded(median(&self.tonic)),
            "ratio": rounded(median(&ratios)),
            "rounds": { "waypost": all(&self.waypost), "balance_list": all(&self.tonic), "ratio": all(&ratios) },
        })
    }
}
