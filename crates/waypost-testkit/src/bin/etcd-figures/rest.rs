//! Cost of ten thousand idle nodes.
//!
//! A thousand services of ten nodes, one node of each in each of ten processes. Once all are
//! registered and two intervals are over, etcd, the processes and an independent watcher are
//! measured before and after a minute in which nothing happens.

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
use waypost_testkit::etcd::{Binary, Etcd, Metrics, Options};
use waypost_testkit::report::{Figures, Result, median, rounded};

use crate::bare::{Bare, Watching};
use crate::fleet::{INTERVAL, RunningFleet, TTL, WatchLoad, url};
use crate::usage;

const PROCESSES: usize = 10;
const SERVICES: usize = 1_000;
/// Time after which a new etcd writes nothing more: it decides its cluster version a few seconds
/// after its start, and writes that down.
const SETTLE: Duration = Duration::from_secs(6);
/// Time for which etcd is measured alone.
const ALONE: Duration = Duration::from_secs(10);
const LAST_EVENT: Duration = Duration::from_secs(1);

pub(crate) async fn run(binary: &Binary, rest: Duration) -> Result<Figures> {
    let mut etcd = Etcd::start(binary, &Options::one()).await?;
    sleep(SETTLE).await;
    let alone = Look::at(&mut etcd, &[]).await?;
    sleep(ALONE).await;
    let alone = Look::at(&mut etcd, &[]).await?.since(&alone);
    let (mut fleet, begun) = (Vec::new(), Instant::now());
    for process in 0..PROCESSES {
        fleet.push(RunningFleet::start(
            &url(&etcd),
            WatchLoad {
                handles: 1,
                services: SERVICES,
                first: process,
            },
        )?);
    }
    for process in &mut fleet {
        process.registered().await?;
    }
    let registered = begun.elapsed();
    sleep(INTERVAL * 2).await;
    let bare = Bare::connect(etcd.addresses()[0]).await?;
    let mut watching = bare.watch(0).await?;
    let before = Look::at(&mut etcd, &fleet).await?;
    sleep(rest).await;
    let at_rest = Look::at(&mut etcd, &fleet).await?;
    let events = events(&mut watching).await?;
    let seen = IdleCost {
        leases: etcd.leases().await?.len(),
        nodes: bare.records().await?.len(),
        events,
    };
    let memory = fleet
        .iter()
        .map(|process| usage::resident_mib(process.pid()))
        .collect::<Result<Vec<_>>>()?;
    let etcd_memory = usage::resident_mib(pid(&mut etcd)?)?;
    let leave = leave(fleet, &bare).await?;
    let times = IdleTimes { registered, leave };
    Ok(figures(
        &alone,
        &at_rest.since(&before),
        &seen,
        &times,
        (&memory, etcd_memory),
    ))
}

/// State at the end of the idle time.
struct IdleCost {
    leases: usize,
    nodes: usize,
    events: usize,
}

struct IdleTimes {
    registered: Duration,
    leave: Leave,
}

struct Leave {
    took: Duration,
    /// Number of registrations that left before they were gone.
    said: usize,
    /// Number of records left afterwards.
    left: usize,
}

async fn leave(fleet: Vec<RunningFleet>, bare: &Bare) -> Result<Leave> {
    let begun = Instant::now();
    let mut leaving = tokio::task::JoinSet::new();
    for process in fleet {
        leaving.spawn(process.leave());
    }
    let mut said = 0;
    while let Some(left) = leaving.join_next().await {
        said += left??;
    }
    Ok(Leave {
        took: begun.elapsed(),
        said,
        left: bare.records().await?.len(),
    })
}

async fn events(watching: &mut Watching) -> Result<usize> {
    let mut events = 0;
    while let Ok(next) = timeout(LAST_EVENT, watching.next()).await {
        events += next?.events.len();
    }
    Ok(events)
}

/// Counters at one moment; or, by [`since`](Look::since), their growth.
struct Look {
    at: Instant,
    revision: i64,
    wal_bytes: f64,
    keep_alives: f64,
    /// Requests on the watch streams, mostly progress requests.
    watch_questions: f64,
    requests: f64,
    etcd_cpu: Duration,
    process_cpu: Vec<Duration>,
    over: Duration,
}

impl Look {
    async fn at(etcd: &mut Etcd, fleet: &[RunningFleet]) -> Result<Self> {
        let metrics = etcd.member(0).metrics().await?;
        Ok(Self {
            at: Instant::now(),
            revision: etcd.revision().await?,
            wal_bytes: count(&metrics, "etcd_disk_wal_write_bytes_total", &[])?,
            keep_alives: count(
                &metrics,
                "grpc_server_msg_received_total",
                &["grpc_method=\"LeaseKeepAlive\""],
            )?,
            watch_questions: count(
                &metrics,
                "grpc_server_msg_received_total",
                &["\"etcdserverpb.Watch\""],
            )?,
            requests: count(
                &metrics,
                "grpc_server_msg_received_total",
                &["\"etcdserverpb.KV\""],
            )?,
            etcd_cpu: usage::cpu(pid(etcd)?)?,
            process_cpu: fleet
                .iter()
                .map(|process| usage::cpu(process.pid()))
                .collect::<Result<_>>()?,
            over: Duration::ZERO,
        })
    }

    fn since(&self, before: &Self) -> Self {
        let pairs = self.process_cpu.iter().zip(&before.process_cpu);
        Self {
            at: self.at,
            revision: self.revision - before.revision,
            wal_bytes: self.wal_bytes - before.wal_bytes,
            keep_alives: self.keep_alives - before.keep_alives,
            watch_questions: self.watch_questions - before.watch_questions,
            requests: self.requests - before.requests,
            etcd_cpu: self.etcd_cpu.saturating_sub(before.etcd_cpu),
            process_cpu: pairs
                .map(|(after, before)| after.saturating_sub(*before))
                .collect(),
            over: self.at - before.at,
        }
    }

    fn per_second(&self, count: f64) -> f64 {
        count / self.over.as_secs_f64()
    }

    fn ms_per_second(&self, cpu: Duration) -> f64 {
        self.per_second(cpu.as_secs_f64() * 1e3)
    }
}

fn count(metrics: &Metrics, name: &str, labels: &[&str]) -> Result<f64> {
    metrics
        .get(name, labels)
        .ok_or_else(|| format!("etcd does not count {name}").into())
}

fn pid(etcd: &mut Etcd) -> Result<u32> {
    Ok(etcd.member(0).pid().ok_or("etcd is down")?)
}

fn figures(
    alone: &Look,
    rest: &Look,
    seen: &IdleCost,
    times: &IdleTimes,
    memory: (&[f64], f64),
) -> Figures {
    let nodes = PROCESSES * SERVICES;
    let process_cpu: Vec<f64> = rest
        .process_cpu
        .iter()
        .map(|cpu| rest.ms_per_second(*cpu))
        .collect();
    let (memory, etcd_memory) = memory;
    let over = rest.over.as_secs_f64();
    let rows: [(&str, &str, f64); 11] = [
        (
            "register_s",
            "s until all were registered",
            times.registered.as_secs_f64(),
        ),
        ("wal_bytes", "bytes written to the WAL", rest.wal_bytes),
        (
            "watch_events",
            "events that a watcher of all saw",
            seen.events as f64,
        ),
        (
            "keep_alives_per_s",
            "keep-alives a second",
            rest.per_second(rest.keep_alives),
        ),
        (
            "watch_questions_per_s",
            "questions to watch streams a second",
            rest.per_second(rest.watch_questions),
        ),
        (
            "etcd_cpu_ms_per_s",
            "ms of etcd's CPU a second",
            rest.ms_per_second(rest.etcd_cpu),
        ),
        (
            "etcd_cpu_ms_per_s_alone",
            "the same without the fleet",
            alone.ms_per_second(alone.etcd_cpu),
        ),
        (
            "process_cpu_ms_per_s",
            "ms of CPU a second, the middle one of our processes",
            median(&process_cpu),
        ),
        (
            "process_memory_mib",
            "MiB of memory of that",
            median(memory),
        ),
        ("etcd_memory_mib", "MiB of etcd's memory", etcd_memory),
        (
            "leave_s",
            "s until all had left",
            times.leave.took.as_secs_f64(),
        ),
    ];
    let mut table = format!(
        "{SERVICES} services x {PROCESSES} nodes in {PROCESSES} processes, ttl {TTL:?}, interval {INTERVAL:?}, at rest for {over:.0} s\n  \
         {} leases, {} nodes; revision moved by {}, {} reads and writes; {} of {nodes} said that they leave, {} stood afterwards",
        seen.leases, seen.nodes, rest.revision, rest.requests, times.leave.said, times.leave.left,
    );
    let mut json = json!({
        "nodes": seen.nodes, "leases": seen.leases, "seconds": rounded(over), "revision_moved_by": rest.revision,
        "reads_and_writes": rest.requests, "said_leaving": times.leave.said, "stood_afterwards": times.leave.left,
    });
    for (name, label, value) in rows {
        // Writing to a string does not fail.
        let _ = write!(table, "\n  {value:>10.2}  {label}");
        json[name] = Value::from(rounded(value));
    }
    Figures {
        table,
        json,
        failures: failures(rest, seen, &times.leave, nodes),
    }
}

fn failures(rest: &Look, seen: &IdleCost, leave: &Leave, nodes: usize) -> Vec<String> {
    let mut failures = Vec::new();
    let mut hold = |holds: bool, why: String| failures.extend((!holds).then_some(why));
    hold(
        seen.nodes == nodes,
        format!("{} of {nodes} nodes stood", seen.nodes),
    );
    hold(
        seen.leases == PROCESSES,
        format!("{PROCESSES} processes had {} leases", seen.leases),
    );
    hold(
        rest.revision == 0,
        format!("the revision moved by {} at rest", rest.revision),
    );
    hold(
        rest.wal_bytes == 0.0,
        format!("{} bytes went to the WAL at rest", rest.wal_bytes),
    );
    hold(
        seen.events == 0,
        format!("a watcher saw {} events at rest", seen.events),
    );
    hold(
        leave.left == 0,
        format!("{} records stood after all had left", leave.left),
    );
    failures
}
