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

use crate::baseline::{Baseline, EventStream};
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

pub(crate) async fn run(binary: &Binary, idle: Duration) -> Result<Figures> {
    let mut etcd = Etcd::start(binary, &Options::one()).await?;
    sleep(SETTLE).await;
    let alone = IdleCounters::at(&mut etcd, &[]).await?;
    sleep(ALONE).await;
    let alone = IdleCounters::at(&mut etcd, &[]).await?.since(&alone);
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
    let baseline = Baseline::connect(etcd.addresses()[0]).await?;
    let mut events_stream = baseline.watch(0).await?;
    let before = IdleCounters::at(&mut etcd, &fleet).await?;
    sleep(idle).await;
    let after = IdleCounters::at(&mut etcd, &fleet).await?;
    let events = events(&mut events_stream).await?;
    let seen = IdleCost {
        leases: etcd.leases().await?.len(),
        nodes: baseline.records().await?.len(),
        events,
    };
    let memory = fleet
        .iter()
        .map(|process| usage::resident_mib(process.pid()))
        .collect::<Result<Vec<_>>>()?;
    let etcd_memory = usage::resident_mib(pid(&mut etcd)?)?;
    let shutdown = shut_down(fleet, &baseline).await?;
    let times = IdleTimes {
        registered,
        shutdown,
    };
    Ok(figures(
        &alone,
        &after.since(&before),
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
    shutdown: Shutdown,
}

struct Shutdown {
    took: Duration,
    /// Number of registrations that left before they were gone.
    deregistered: usize,
    /// Number of records left afterwards.
    remaining: usize,
}

async fn shut_down(fleet: Vec<RunningFleet>, baseline: &Baseline) -> Result<Shutdown> {
    let begun = Instant::now();
    let mut leaving = tokio::task::JoinSet::new();
    for process in fleet {
        leaving.spawn(process.shut_down());
    }
    let mut deregistered = 0;
    while let Some(left) = leaving.join_next().await {
        deregistered += left??;
    }
    Ok(Shutdown {
        took: begun.elapsed(),
        deregistered,
        remaining: baseline.records().await?.len(),
    })
}

async fn events(events_stream: &mut EventStream) -> Result<usize> {
    let mut events = 0;
    while let Ok(next) = timeout(LAST_EVENT, events_stream.next()).await {
        events += next?.events.len();
    }
    Ok(events)
}

/// Counters at one moment; or, by [`since`](IdleCounters::since), their growth.
struct IdleCounters {
    at: Instant,
    revision: i64,
    wal_bytes: f64,
    keep_alives: f64,
    /// Requests on the watch streams, mostly progress requests.
    watch_requests: f64,
    requests: f64,
    etcd_cpu: Duration,
    process_cpu: Vec<Duration>,
    over: Duration,
}

impl IdleCounters {
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
            watch_requests: count(
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
            watch_requests: self.watch_requests - before.watch_requests,
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
    alone: &IdleCounters,
    idle: &IdleCounters,
    seen: &IdleCost,
    times: &IdleTimes,
    memory: (&[f64], f64),
) -> Figures {
    let nodes = PROCESSES * SERVICES;
    let process_cpu: Vec<f64> = idle
        .process_cpu
        .iter()
        .map(|cpu| idle.ms_per_second(*cpu))
        .collect();
    let (memory, etcd_memory) = memory;
    let over = idle.over.as_secs_f64();
    let rows: [(&str, &str, f64); 11] = [
        (
            "register_s",
            "s until all were registered",
            times.registered.as_secs_f64(),
        ),
        ("wal_bytes", "bytes written to the WAL", idle.wal_bytes),
        (
            "watch_events",
            "events that a watcher of all saw",
            seen.events as f64,
        ),
        (
            "keep_alives_per_s",
            "keepalives per second",
            idle.per_second(idle.keep_alives),
        ),
        (
            "watch_requests_per_s",
            "requests on watch streams per second",
            idle.per_second(idle.watch_requests),
        ),
        (
            "etcd_cpu_ms_per_s",
            "ms of etcd's CPU per second",
            idle.ms_per_second(idle.etcd_cpu),
        ),
        (
            "etcd_cpu_ms_per_s_alone",
            "the same without the fleet",
            alone.ms_per_second(alone.etcd_cpu),
        ),
        (
            "process_cpu_ms_per_s",
            "ms of CPU per second of one process (median)",
            median(&process_cpu),
        ),
        (
            "process_memory_mib",
            "MiB of memory of one process (median)",
            median(memory),
        ),
        ("etcd_memory_mib", "MiB of etcd's memory", etcd_memory),
        (
            "deregister_s",
            "s until all were deregistered",
            times.shutdown.took.as_secs_f64(),
        ),
    ];
    let mut table = format!(
        "{SERVICES} services x {PROCESSES} nodes in {PROCESSES} processes, ttl {TTL:?}, interval {INTERVAL:?}, idle for {over:.0} s\n  \
         {} leases, {} nodes; revision moved by {}, {} reads and writes; {} of {nodes} deregistered, {} records left",
        seen.leases,
        seen.nodes,
        idle.revision,
        idle.requests,
        times.shutdown.deregistered,
        times.shutdown.remaining,
    );
    let mut json = json!({
        "nodes": seen.nodes, "leases": seen.leases, "seconds": rounded(over), "revision_moved_by": idle.revision,
        "reads_and_writes": idle.requests, "deregistered": times.shutdown.deregistered, "records_left": times.shutdown.remaining,
    });
    for (name, label, value) in rows {
        // Writing to a string does not fail.
        let _ = write!(table, "\n  {value:>10.2}  {label}");
        json[name] = Value::from(rounded(value));
    }
    Figures {
        table,
        json,
        failures: failures(idle, seen, &times.shutdown, nodes),
    }
}

fn failures(
    idle: &IdleCounters,
    seen: &IdleCost,
    shutdown: &Shutdown,
    nodes: usize,
) -> Vec<String> {
    let mut failures = Vec::new();
    let mut require = |holds: bool, why: String| failures.extend((!holds).then_some(why));
    require(
        seen.nodes == nodes,
        format!("{} of {nodes} nodes were registered", seen.nodes),
    );
    require(
        seen.leases == PROCESSES,
        format!("{PROCESSES} processes had {} leases", seen.leases),
    );
    require(
        idle.revision == 0,
        format!("the revision moved by {} while idle", idle.revision),
    );
    require(
        idle.wal_bytes == 0.0,
        format!(
            "{} bytes were written to the WAL while idle",
            idle.wal_bytes
        ),
    );
    require(
        seen.events == 0,
        format!("a watcher got {} events while idle", seen.events),
    );
    require(
        shutdown.remaining == 0,
        format!(
            "{} records were left after all had deregistered",
            shutdown.remaining
        ),
    );
    failures
}
