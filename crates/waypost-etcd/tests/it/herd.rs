//! Many registrars on one etcd: their load when idle, and their return after a wipe.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use waypost_core::record::{Node, Service};
use waypost_core::registrar::Registration;
use waypost_core::registry::{AnyRegistry, WatchOptions, Watcher};
use waypost_testkit::etcd::{Data, Etcd, Options};

use super::rig::{each, url};

/// Default values: shorter ones would leave less time for the spread.
const TTL: Duration = Duration::from_secs(15);
const INTERVAL: Duration = Duration::from_secs(5);
/// One interval, the spread, and two seconds.
const IN_TIME: Duration = INTERVAL.saturating_add(Duration::from_secs(3 + 2));
const PATIENCE: Duration = Duration::from_secs(60);

/// Handles that each register one node of every service.
struct Fleet {
    registries: Vec<AnyRegistry>,
    registrations: Vec<Registration>,
}

impl Fleet {
    async fn start(at: &str, handles: usize, services: usize) -> Self {
        let mut fleet = Self {
            registries: Vec::new(),
            registrations: Vec::new(),
        };
        for node in 0..handles {
            let registry = AnyRegistry::new(super::open(at));
            for service in 0..services {
                let builder = Registration::builder(registry.clone(), record(service, node));
                fleet
                    .registrations
                    .push(builder.ttl(TTL).interval(INTERVAL).start().unwrap());
            }
            fleet.registries.push(registry);
        }
        for registration in &fleet.registrations {
            timeout(PATIENCE, registration.registered())
                .await
                .unwrap()
                .unwrap();
        }
        fleet
    }

    /// Closes all registrations concurrently, as many processes would.
    async fn close(self) {
        let mut closing = JoinSet::new();
        for registration in self.registrations {
            closing.spawn(async move { drop(registration.close().await) });
        }
        closing.join_all().await;
        for registry in self.registries {
            registry.close().await.unwrap();
        }
    }
}

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

/// Opens a watcher of all services, on a handle of its own.
async fn watch(at: &str) -> (AnyRegistry, Watcher) {
    let registry = AnyRegistry::new(super::open(at));
    let mut watcher = registry.watch(&WatchOptions::all()).await.unwrap();
    watcher.next().await.unwrap().unwrap();
    (registry, watcher)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_fleet_writes_nothing_and_emits_no_event() {
    each(async |binary| {
        const HANDLES: usize = 2;
        const SERVICES: usize = 100;
        let mut etcd = Etcd::start(&binary, &Options::one()).await.unwrap();
        let at = url(&etcd.addresses());
        let fleet = Fleet::start(&at, HANDLES, SERVICES).await;
        let (registry, mut watcher) = watch(&at).await;
        let (before, heartbeats) = (etcd.revision().await.unwrap(), keep_alives(&mut etcd).await);
        let event = timeout(INTERVAL * 3, watcher.next()).await;
        assert!(event.is_err(), "a watcher emitted {event:?}");
        let heartbeats = keep_alives(&mut etcd).await - heartbeats;
        assert_eq!(etcd.revision().await.unwrap(), before, "a heartbeat wrote");
        assert_eq!(etcd.leases().await.unwrap().len(), HANDLES);
        // One keepalive for each lease and interval, and up to one more at either end.
        let most = HANDLES as f64 * 5.0;
        assert!(
            (HANDLES as f64 * 2.0..=most).contains(&heartbeats),
            "{heartbeats} keep-alives of {HANDLES} leases in three intervals"
        );
        registry.close().await.unwrap();
        fleet.close().await;
        assert_eq!(etcd.keys("/").await.unwrap(), [""; 0]);
        assert_eq!(etcd.leases().await.unwrap(), [""; 0]);
    })
    .await;
}

async fn keep_alives(etcd: &mut Etcd) -> f64 {
    let metrics = etcd.member(0).metrics().await.unwrap();
    metrics
        .get("grpc_server_msg_received_total", &["\"LeaseKeepAlive\""])
        .unwrap()
}

/// Returns the time of each registration since etcd became available, as seen by a poll every few
/// milliseconds.
async fn returns(address: SocketAddr, expected: usize) -> Vec<Duration> {
    let range = "/micro/registry/service-0/";
    while tokio::net::TcpStream::connect(address).await.is_err() {
        sleep(Duration::from_millis(2)).await;
    }
    super::gateway::count(address, range).await;
    let (up, mut seen) = (Instant::now(), Vec::new());
    while seen.len() < expected && up.elapsed() < PATIENCE {
        let (count, at) = (super::gateway::count(address, range).await, up.elapsed());
        seen.resize(count.max(seen.len()), at);
        sleep(Duration::from_millis(10)).await;
    }
    seen
}

/// etcd is down for longer than every registrar needs to notice. On its return it accepts
/// connections a while before it serves, and so collects all registrars that try meanwhile. Without
/// the spread, more than half of them are back within 600 ms.
///
/// The times are drawn evenly over 3 s, and delays can only make them later. Of sixty, half come in
/// the first 600 ms once in 10^7 draws (binomial, a fifth each); if the poll itself started 300 ms
/// late, once in 10^3. The guarantee, at most a quarter in any 250 ms for a hundred and more, holds
/// for machines that do not stall meanwhile. Half of sixty is once in 10^15, and once in 10^4 if
/// three slots fall into one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registrations_are_spread_after_a_wipe() {
    each(async |binary| {
        const REGISTRARS: usize = 60;
        const HALF: usize = REGISTRARS / 2;
        const SLOT: Duration = Duration::from_millis(250);
        const EARLY: Duration = Duration::from_millis(600);
        let mut etcd = Etcd::start(&binary, &Options::one()).await.unwrap();
        let address = etcd.addresses()[0];
        let fleet = Fleet::start(&url(&etcd.addresses()), REGISTRARS, 1).await;
        etcd.kill().await.unwrap();
        sleep(INTERVAL + Duration::from_secs(3)).await;
        let (seen, started) = tokio::join!(returns(address, REGISTRARS), etcd.restart(Data::Lost));
        started.unwrap();
        assert_eq!(seen.len(), REGISTRARS, "some did not come back");
        let within = |begin: &Duration| {
            seen.iter()
                .filter(|at| (*begin..*begin + SLOT).contains(*at))
                .count()
        };
        let fullest = seen.iter().map(within).max().unwrap();
        let last = *seen.iter().max().unwrap();
        println!(
            "etcd {}: {REGISTRARS} back after {last:?}, {fullest} of them within {SLOT:?}",
            binary.version()
        );
        let early = seen.iter().filter(|at| **at < EARLY).count();
        assert!(
            early < HALF,
            "{early} of {REGISTRARS} came back within {EARLY:?}: {seen:?}"
        );
        assert!(
            fullest <= HALF,
            "{fullest} of {REGISTRARS} came back within {SLOT:?}: {seen:?}"
        );
        assert!(last <= IN_TIME, "the last came back after {last:?}");
        assert_eq!(
            etcd.leases().await.unwrap().len(),
            REGISTRARS,
            "a lease each, and none left over"
        );
        fleet.close().await;
    })
    .await;
}
