//! Cost of an idle fleet of handles, by its size, and the line to ten thousand.

use std::fmt::Write;
use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;
use waypost_testkit::etcd::{Binary, Etcd, Options};
use waypost_testkit::report::{Figures, Result, rounded};

use super::counters::Counters;
use crate::fleet::{INTERVAL, RunningFleet, WatchLoad, url};

const SIZES: [usize; 3] = [1_000, 2_000, 5_000];
/// Number of child processes that hold the handles.
const CHILDREN: usize = 4;
/// Size to which the figures are extended.
const EXTENDED: f64 = 10_000.0;

pub(crate) async fn run(binary: &Binary, lasting: Duration) -> Result<Figures> {
    let mut table = format!(
        "processes at rest, one node each, measured for {lasting:?}\n  \
         processes   messages/s   etcd cores   etcd MiB"
    );
    let mut rows: Vec<(f64, [f64; 3])> = Vec::new();
    for processes in SIZES {
        let cost = measure(binary, processes, lasting).await?;
        rows.push((processes as f64, cost));
        table.push_str(&line(processes as f64, cost));
    }
    let at = |index: usize| extend(&rows, index);
    let extended = [at(0), at(1), at(2)];
    table.push_str(&line(EXTENDED, extended));
    table.push_str("  (by the line)");
    rows.push((EXTENDED, extended));
    let json: Vec<_> = rows
        .iter()
        .map(|(processes, [messages, cores, memory])| {
            json!({
                "processes": processes, "messages_per_s": rounded(*messages), "etcd_cores": rounded(*cores),
                "etcd_mib": rounded(*memory), "measured": *processes < EXTENDED,
            })
        })
        .collect();
    Ok(Figures {
        table,
        json: json!({ "sizes": json, "seconds": lasting.as_secs() }),
        failures: Vec::new(),
    })
}

fn line(processes: f64, [messages, cores, memory]: [f64; 3]) -> String {
    let mut line = String::new();
    // Writing to a string does not fail.
    let _ = write!(
        line,
        "\n  {processes:>9.0} {messages:>12.0} {cores:>12.3} {memory:>10.0}"
    );
    line
}

/// Returns the value at [`EXTENDED`] of the line through the first and the last size.
fn extend(rows: &[(f64, [f64; 3])], index: usize) -> f64 {
    let (Some((x0, y0)), Some((x1, y1))) = (rows.first(), rows.last()) else {
        return f64::NAN;
    };
    let slope = (y1[index] - y0[index]) / (x1 - x0);
    y1[index] + slope * (EXTENDED - x1)
}

async fn measure(binary: &Binary, processes: usize, lasting: Duration) -> Result<[f64; 3]> {
    let mut etcd = Etcd::start(binary, &Options::one()).await?;
    let mut fleet = Vec::new();
    for child in 0..CHILDREN {
        let handles = processes / CHILDREN;
        fleet.push(RunningFleet::start(
            &url(&etcd),
            WatchLoad {
                handles,
                services: 1,
                first: child * handles,
            },
        )?);
    }
    for child in &mut fleet {
        child.registered().await?;
    }
    sleep(INTERVAL * 2).await;
    let before = Counters::at(&mut etcd).await?;
    sleep(lasting).await;
    let after = Counters::at(&mut etcd).await?;
    let rates = after.since(&before);
    Ok([rates.messages, rates.cores, after.memory_mib])
}
