//! `bench churn`: cost of the membership of a service for a client, by the number of nodes that it
//! knows.
//!
//! The client, the decoding of its registry and the copy of its watcher run on this one thread,
//! whose CPU time and allocations are counted; the servers have a thread of their own.

mod backoff;
mod events;
mod memory;
mod rolling;
mod scene;
mod table;

use serde_json::{Value, json};
use waypost_testkit::report::{Figures, Result, rounded};

use crate::options::BenchOptions;
use crate::peers::Peers;

const NODES: [u64; 4] = [100, 1_000, 10_000, 100_000];
/// Bounds: one event at 10 000 and at 100 000 nodes, a rolling replacement of 10 000, backoff of
/// 100 among 10 000, bytes at 100 000.
const LIMITS: [(&str, u64, f64); 9] = [
    ("added_us", 10_000, 50.0),
    ("changed_us", 10_000, 50.0),
    ("removed_us", 10_000, 50.0),
    ("added_us", 100_000, 100.0),
    ("changed_us", 100_000, 100.0),
    ("removed_us", 100_000, 100.0),
    ("rolling_s", 10_000, 3.0),
    ("backoff_percent", 10_000, 1.0),
    ("idle_bytes", 100_000, 400.0),
];

pub(crate) fn run(options: &BenchOptions) -> Result<Figures> {
    let before = options.value("before").map(table::read).transpose()?;
    let seconds = options.number("seconds", 15)?;
    let mut rows = Vec::new();
    for nodes in options.numbers("nodes", &NODES)? {
        eprintln!("{nodes} nodes");
        rows.push(measure(usize::try_from(nodes)?, seconds)?);
    }
    let failures = failures(&rows);
    Ok(Figures {
        table: table::of(&rows, before.as_deref()),
        json: json!({ "by_nodes": rows }),
        failures,
    })
}

fn measure(nodes: usize, seconds: u64) -> Result<Value> {
    let peers = Peers::start()?;
    let idle = memory::idle(nodes, &peers)?;
    let channel = memory::channel(nodes, &peers)?;
    let first = events::first_answer(nodes, &peers)?;
    let events = events::measure(nodes, &peers)?;
    let rolling = rolling::measure(nodes, &peers)?;
    let backoff = backoff::measure(nodes, seconds)?;
    Ok(json!({
        "nodes": nodes,
        "added_us": rounded(events.added),
        "changed_us": rounded(events.changed),
        "removed_us": rounded(events.removed),
        "added_after_rest_us": rounded(events.added_after_rest),
        "changed_after_rest_us": rounded(events.changed_after_rest),
        "removed_after_rest_us": rounded(events.removed_after_rest),
        "rolling_s": rounded(rolling.seconds),
        "rolling_share": rounded(rolling.share),
        "backoff_percent": rounded(backoff),
        "idle_bytes": idle.round(),
        "channel_bytes": channel.round(),
        "first_answer_ms": rounded(first.wall.as_secs_f64() * 1e3),
        "first_answer_cpu_ms": rounded(first.cpu.as_secs_f64() * 1e3),
    }))
}

fn failures(rows: &[Value]) -> Vec<String> {
    let over = |(figure, nodes, limit): &(&str, u64, f64)| {
        let row = rows.iter().find(|row| row["nodes"] == *nodes)?;
        let value = row[*figure].as_f64()?;
        (value > *limit)
            .then(|| format!("{figure} at {nodes} nodes is {value}, not at most {limit}"))
    };
    LIMITS.iter().filter_map(over).collect()
}
