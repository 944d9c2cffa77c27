//! Time of the first list of ten thousand nodes by a new handle, beside a baseline range read of the
//! same.

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use waypost::registry::{Event, WatchOptions};
use waypost_testkit::etcd::{Binary, Etcd, Options};
use waypost_testkit::report::{Figures, Result, median, rounded};

use crate::baseline::Baseline;
use crate::fleet::{connect, key, record, url};

const SERVICES: usize = 1_000;
const NODES: usize = 10;
const ROUNDS: usize = 15;

/// Times of one round, in seconds.
struct ListRound {
    baseline: f64,
    list: f64,
    reset: f64,
}

pub(crate) async fn run(binary: &Binary) -> Result<Figures> {
    let etcd = Etcd::start(binary, &Options::one()).await?;
    let address = etcd.addresses()[0];
    let bytes = fill(address).await?;
    // The first round finds cold caches, here and in etcd.
    round(address, &url(&etcd), 0).await?;
    let mut rounds = Vec::new();
    for number in 0..ROUNDS {
        rounds.push(round(address, &url(&etcd), number).await?);
    }
    Ok(figures(&rounds, bytes))
}

async fn fill(address: SocketAddr) -> Result<usize> {
    let mut records = Vec::new();
    for service in 0..SERVICES {
        for node in 0..NODES {
            let record = record(service, node)?;
            records.push((key(&record), record.to_json()));
        }
    }
    Baseline::connect(address).await?.put(&records).await?;
    Ok(records
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum())
}

/// Measures each side; the order rotates, so that no side always comes first.
async fn round(address: SocketAddr, url: &str, number: usize) -> Result<ListRound> {
    let mut round = ListRound {
        baseline: 0.0,
        list: 0.0,
        reset: 0.0,
    };
    for turn in 0..3 {
        match (turn + number) % 3 {
            0 => round.baseline = baseline(address).await?.as_secs_f64(),
            1 => round.list = list(url).await?.as_secs_f64(),
            _ => round.reset = reset(url).await?.as_secs_f64(),
        }
    }
    Ok(round)
}

async fn baseline(address: SocketAddr) -> Result<Duration> {
    let begun = Instant::now();
    let records = Baseline::connect(address).await?.records().await?;
    let took = begun.elapsed();
    complete(records.len(), took)
}

async fn list(url: &str) -> Result<Duration> {
    let begun = Instant::now();
    let registry = connect(url)?;
    let services = registry.list_services().await?;
    let took = begun.elapsed();
    registry.close().await?;
    complete(
        services.iter().map(|service| service.nodes.len()).sum(),
        took,
    )
}

async fn reset(url: &str) -> Result<Duration> {
    let begun = Instant::now();
    let registry = connect(url)?;
    let mut watcher = registry.watch(&WatchOptions::all()).await?;
    let first = watcher.next().await;
    let took = begun.elapsed();
    registry.close().await?;
    let Some(Ok(Event::Reset(entries))) = first else {
        return Err(format!("no Reset came first: {first:?}").into());
    };
    complete(entries.len(), took)
}

fn complete(nodes: usize, took: Duration) -> Result<Duration> {
    if nodes == SERVICES * NODES {
        Ok(took)
    } else {
        Err(format!("a list of {nodes} nodes is not complete").into())
    }
}

fn figures(rounds: &[ListRound], bytes: usize) -> Figures {
    let all = |of: fn(&ListRound) -> f64| rounds.iter().map(of).collect::<Vec<_>>();
    let rows = [
        (
            "baseline_range",
            "baseline range read",
            all(|round| round.baseline),
            all(|_| 1.0),
        ),
        (
            "list_services",
            "connect to list_services",
            all(|round| round.list),
            all(|round| round.list / round.baseline),
        ),
        (
            "watcher_reset",
            "connect to a Watcher's Reset",
            all(|round| round.reset),
            all(|round| round.reset / round.baseline),
        ),
    ];
    let mut table = format!(
        "first list of {} nodes ({:.1} MB) by a fresh handle, median of {ROUNDS} rounds (ratio: median of each round's)",
        SERVICES * NODES,
        bytes as f64 / 1e6,
    );
    let mut json = json!({ "nodes": SERVICES * NODES, "bytes": bytes, "rounds": ROUNDS });
    for (name, label, seconds, ratios) in rows {
        let (took, ratio) = (median(&seconds), median(&ratios));
        // Writing to a string does not fail.
        let _ = write!(
            table,
            "\n  {label:<30} {:>7.1} ms  ratio {ratio:.2}",
            took * 1e3
        );
        json[name] = json!({ "s": rounded(took), "ratio": rounded(ratio) });
    }
    Figures {
        table,
        json,
        failures: Vec::new(),
    }
}
