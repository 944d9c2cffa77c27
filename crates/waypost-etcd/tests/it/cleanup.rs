//! After registrations, watchers and handles are closed, nothing of them is left in etcd, in the
//! kernel, or in the runtime.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use waypost_core::directory::{Config, Directory};
use waypost_core::record::{Node, Service};
use waypost_core::registrar::Registration;
use waypost_core::registry::{AnyRegistry, WatchOptions};
use waypost_testkit::etcd::{Etcd, Options};

use super::rig::{INTERVAL, TTL, each, url};

const REGISTRIES: usize = 3;
const SERVICES: usize = 8;
/// Maximum time for etcd to notice a closed connection.
const PATIENCE: Duration = Duration::from_secs(10);

/// Resources that etcd holds for its clients, and the number of connections.
#[derive(Debug, PartialEq)]
struct Resources {
    leases: usize,
    keys: usize,
    watches: f64,
    watch_streams: f64,
    keep_alive_streams: f64,
    connections: usize,
}

impl Resources {
    async fn by(etcd: &mut Etcd) -> Self {
        let metrics = etcd.member(0).metrics().await.unwrap();
        let open = |service: &str, method: &str| {
            let count = |name| metrics.get(name, &[service, method]).unwrap();
            count("grpc_server_started_total") - count("grpc_server_handled_total")
        };
        Self {
            leases: etcd.leases().await.unwrap().len(),
            keys: etcd.keys("/").await.unwrap().len(),
            watches: metrics
                .get("etcd_debugging_mvcc_watcher_total", &[])
                .unwrap(),
            watch_streams: open("\"etcdserverpb.Watch\"", "\"Watch\""),
            keep_alive_streams: open("\"etcdserverpb.Lease\"", "\"LeaseKeepAlive\""),
            connections: connections(etcd.addresses()[0]),
        }
    }
}

/// Returns the number of established connections to a port of this host, from the kernel.
fn connections(to: SocketAddr) -> usize {
    const ESTABLISHED: &str = "01";
    let port = format!(":{:04X}", to.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row.len() > 3 && row[1].ends_with(&port) && row[3] == ESTABLISHED)
        .count()
}

/// Creates the record of one node of one service.
fn record(service: usize, node: usize) -> Service {
    let name = format!("service-{service}");
    let mut record = Service::new(&name);
    record.nodes.push(Node::with_id(
        &name,
        &node.to_string(),
        format!("127.0.0.1:{}", 1000 + node),
    ));
    record
}

/// Runs registries, registrations and watchers on a runtime of its own, whose tasks can be counted.
/// Calls `stop` while all are active. Returns the number of tasks left at the end.
fn run_clients(at: &str, stop: impl FnOnce()) -> usize {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (mut registries, mut registrations) = (Vec::new(), Vec::new());
        for node in 0..REGISTRIES {
            let registry = AnyRegistry::new(super::open(at));
            for service in 0..SERVICES {
                let builder = Registration::builder(registry.clone(), record(service, node));
                registrations.push(builder.ttl(TTL).interval(INTERVAL).start().unwrap());
            }
            registries.push(registry);
        }
        for registration in &registrations {
            registration.registered().await.unwrap();
        }
        let registry = AnyRegistry::new(super::open(at));
        let directory = Directory::new(registry.clone(), Config::default());
        let mut subscription = Vec::new();
        for service in 0..SERVICES {
            subscription.push(
                directory
                    .subscribe(&format!("service-{service}").parse().unwrap())
                    .unwrap(),
            );
        }
        for subscription in &mut subscription {
            assert!(subscription.synced().await);
        }
        let mut watcher = registry.watch(&WatchOptions::all()).await.unwrap();
        watcher.next().await.unwrap().unwrap();
        // Wait for the watches of all services and own records: each is created once its first
        // event has arrived.
        sleep(INTERVAL).await;
        stop();
        // Half of the registrations are closed; the others are released with their registry.
        let dropped = registrations.split_off(registrations.len() / 2);
        for registration in registrations {
            registration.close().await.unwrap();
        }
        drop(dropped);
        drop(subscription);
        directory.close().await;
        for registry in registries.into_iter().chain([registry]) {
            registry.close().await.unwrap();
        }
        assert!(
            watcher.next().await.is_none(),
            "a watcher ends with its registry"
        );
    });
    // Dropped tasks are aborted, and end a moment later.
    let alive = || runtime.metrics().num_alive_tasks();
    runtime.block_on(async {
        let begun = Instant::now();
        while alive() > 0 && begun.elapsed() < PATIENCE {
            sleep(Duration::from_millis(1)).await;
        }
    });
    alive()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_in_etcd_or_in_the_process() {
    each(async |binary| {
        let mut etcd = Etcd::start(&binary, &Options::one()).await.unwrap();
        let before = Resources::by(&mut etcd).await;
        let at = url(&etcd.addresses());
        let (started, has_started) = tokio::sync::oneshot::channel();
        let (stop, stopped) = std::sync::mpsc::channel();
        let clients_thread = thread::spawn(move || {
            run_clients(&at, || {
                started.send(()).unwrap();
                stopped.recv().unwrap();
            })
        });
        has_started.await.unwrap();
        let during = Resources::by(&mut etcd).await;
        let (nodes, clients) = (REGISTRIES * SERVICES, REGISTRIES as f64 + 1.0);
        assert_eq!(
            (during.leases, during.keys),
            (before.leases + REGISTRIES, before.keys + nodes)
        );
        assert_eq!(
            during.watches,
            before.watches + (nodes + SERVICES) as f64 + 1.0
        );
        assert_eq!(during.watch_streams, before.watch_streams + clients);
        assert_eq!(
            during.keep_alive_streams,
            before.keep_alive_streams + REGISTRIES as f64
        );
        // A handle whose request waited 0.5 s for a busy etcd has a second connection, and keeps the
        // first one for the streams on it.
        let connections = during.connections - before.connections;
        assert!(
            (REGISTRIES + 1..=2 * (REGISTRIES + 1)).contains(&connections),
            "{connections} connections"
        );
        stop.send(()).unwrap();
        let tasks = tokio::task::spawn_blocking(move || clients_thread.join())
            .await
            .unwrap()
            .unwrap();
        let begun = Instant::now();
        let mut after = Resources::by(&mut etcd).await;
        while after != before && begun.elapsed() < PATIENCE {
            sleep(Duration::from_millis(20)).await;
            after = Resources::by(&mut etcd).await;
        }
        assert_eq!((tasks, after), (0, before), "on etcd {}", binary.version());
    })
    .await;
}
