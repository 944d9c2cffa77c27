//! Resources that are left, in etcd and here, once registrations, watchers and clients are closed.

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use waypost::Registration;
use waypost::directory::{Config, Directory};
use waypost::registry::WatchOptions;
use waypost_testkit::etcd::{Binary, Etcd, Options};
use waypost_testkit::report::{Figures, Result, one_thread, rounded};

use crate::fleet::{INTERVAL, TTL, connect, record, service, url};
use crate::{two_threads, usage};

const REGISTRIES: usize = 4;
const SERVICES: usize = 25;
/// Maximum time in which etcd notices that its clients are gone.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn run(binary: &Binary) -> Result<Figures> {
    let runtime = two_threads()?;
    let mut etcd = runtime.block_on(Etcd::start(binary, &Options::one()))?;
    let before = runtime.block_on(Resources::in_etcd(&mut etcd))?;
    let (url, address) = (url(&etcd), etcd.addresses()[0]);
    // A runtime of its own, so that its tasks can be counted.
    let result = std::thread::spawn(move || run_clients(&url, address)).join();
    let (tasks, alive) = result.map_err(|_| "the clients panicked")??;
    let (after, took) = runtime.block_on(until_nothing(&mut etcd, &before))?;
    let _context = runtime.enter();
    drop(etcd);
    Ok(figures(&after.beyond(&before), tasks, &alive, took))
}

/// Resources in etcd, as etcd and the kernel report them.
#[derive(Clone, Debug, Default, PartialEq)]
struct Resources {
    leases: f64,
    keys: f64,
    watches: f64,
    watch_streams: f64,
    keep_alive_streams: f64,
    connections: f64,
}

impl Resources {
    async fn in_etcd(etcd: &mut Etcd) -> Result<Self> {
        let (leases, keys) = (
            etcd.leases().await?.len() as f64,
            etcd.keys("/").await?.len() as f64,
        );
        let metrics = etcd.member(0).metrics().await?;
        let open = |service: &str, method: &str| {
            let labels = [service, method];
            let count = |name: &str| metrics.get(name, &labels).unwrap_or_default();
            count("grpc_server_started_total") - count("grpc_server_handled_total")
        };
        Ok(Self {
            leases,
            keys,
            watches: metrics
                .get("etcd_debugging_mvcc_watcher_total", &[])
                .ok_or("etcd does not count watches")?,
            watch_streams: open("\"etcdserverpb.Watch\"", "\"Watch\""),
            keep_alive_streams: open("\"etcdserverpb.Lease\"", "\"LeaseKeepAlive\""),
            connections: usage::connections(etcd.addresses()[0])? as f64,
        })
    }

    fn rows(&self) -> [(&'static str, f64); 6] {
        [
            ("leases", self.leases),
            ("keys", self.keys),
            ("watches", self.watches),
            ("watch_streams", self.watch_streams),
            ("keep_alive_streams", self.keep_alive_streams),
            ("connections", self.connections),
        ]
    }

    fn beyond(&self, before: &Self) -> Self {
        Self {
            leases: self.leases - before.leases,
            keys: self.keys - before.keys,
            watches: self.watches - before.watches,
            watch_streams: self.watch_streams - before.watch_streams,
            keep_alive_streams: self.keep_alive_streams - before.keep_alive_streams,
            connections: self.connections - before.connections,
        }
    }
}

/// Registers, watches and closes; returns the number of tasks left then, and the counts from
/// before.
fn run_clients(url: &str, address: SocketAddr) -> Result<(usize, Value)> {
    let runtime = one_thread()?;
    let alive = runtime.block_on(use_clients(url, address))?;
    // A task that was aborted at the end is removed in the next iteration of the runtime.
    runtime.block_on(tokio::task::yield_now());
    Ok((runtime.metrics().num_alive_tasks(), alive))
}

async fn use_clients(url: &str, address: SocketAddr) -> Result<Value> {
    let (mut registries, mut registrations) = (Vec::new(), Vec::new());
    for number in 0..REGISTRIES {
        let registry = connect(url)?;
        for service in 0..SERVICES {
            let builder = Registration::builder(registry.clone(), record(service, number)?);
            registrations.push(builder.ttl(TTL).interval(INTERVAL).start()?);
        }
        registries.push(registry);
    }
    for registration in &registrations {
        registration.registered().await?;
    }
    let registry = connect(url)?;
    let directory = Directory::new(registry.clone(), Config::default());
    for number in 0..SERVICES {
        directory
            .subscribe(&service(number).parse()?)?
            .synced()
            .await;
    }
    let client = waypost::Client::new(registry.clone());
    let channel = client.channel(&service(0))?;
    let mut watcher = registry.watch(&WatchOptions::all()).await?;
    let _ = watcher.next().await;
    let listed = registry.list_services().await?.len();
    sleep(INTERVAL).await;
    let alive = json!({ "registrations": registrations.len(), "registries": registries.len() + 1, "services": listed,
        "connections": usage::connections(address)? });
    for registration in registrations {
        registration.close().await?;
    }
    drop(channel);
    client.close().await;
    directory.close().await;
    drop(watcher);
    for registry in registries.into_iter().chain([registry]) {
        registry.close().await?;
    }
    Ok(alive)
}

/// Waits until etcd has noticed; returns what is left then, and the time that took.
async fn until_nothing(etcd: &mut Etcd, before: &Resources) -> Result<(Resources, Duration)> {
    let begun = Instant::now();
    loop {
        let after = Resources::in_etcd(etcd).await?;
        if after == *before || begun.elapsed() > PATIENCE {
            return Ok((after, begun.elapsed()));
        }
        sleep(Duration::from_millis(20)).await;
    }
}

fn figures(left: &Resources, tasks: usize, alive: &Value, took: Duration) -> Figures {
    let mut table = format!(
        "{} registrations on {REGISTRIES} registries, a directory, a client and a watcher, all closed; left in etcd {:.2} s later",
        REGISTRIES * SERVICES,
        took.as_secs_f64()
    );
    let mut json = json!({ "clients": alive, "measured_after_s": rounded(took.as_secs_f64()), "tasks": tasks });
    let mut failures = Vec::new();
    for (name, count) in left.rows().into_iter().chain([("tasks", tasks as f64)]) {
        // Writing to a string does not fail.
        let _ = write!(table, "\n  {count:>5}  {}", name.replace('_', " "));
        json[name] = count.into();
        failures.extend(
            (count != 0.0).then(|| format!("{count} {name} were left when all was closed")),
        );
    }
    Figures {
        table,
        json,
        failures,
    }
}
