//! A fleet on an etcd of our own: nodes that register, a client that follows them, and an eye on what the client sees meanwhile.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use waypost_core::directory::{Config, Directory, Following, Snapshot};
use waypost_core::record::{Key, Node, Service};
use waypost_core::registrar::{Registration, State};
use waypost_core::registry::{AnyRegistry, Registry};
use waypost_testkit::etcd::{Binary, Etcd, Options};

use super::{SECRET, hand, path};

pub(crate) const TTL: Duration = Duration::from_secs(5);
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);
/// How long anything may take to be well again: one interval, its spread, the longest back-off and a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs a test on every etcd of this machine, side by side.
pub(crate) async fn each<F, R>(test: F)
where
    F: Fn(Binary) -> R,
    R: Future<Output = ()> + Send + 'static,
{
    let mut running = JoinSet::new();
    for binary in super::binaries() {
        running.spawn(test(binary));
    }
    while let Some(ended) = running.join_next().await {
        ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    }
    super::assert_secret_is_not_in(&super::log());
}

/// A URL with a user and a password: where etcd has no users, they are not used, and must not be shown all the same.
pub(crate) fn url(addresses: &[std::net::SocketAddr]) -> String {
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    format!("etcd://waypost:{SECRET}@{}", addresses.join(","))
}

pub(crate) fn service(id: &str, address: &str) -> Service {
    let mut service = Service::new("greeter");
    service.nodes.push(Node::with_id("greeter", id, address));
    service
}

pub(crate) fn key(id: &str) -> Key {
    Key { service: "greeter".to_owned(), id: format!("greeter-{id}") }
}

/// One node, as a process of its own would be.
pub(crate) struct Server {
    pub(crate) registry: AnyRegistry,
    pub(crate) registration: Registration,
}

impl Server {
    pub(crate) async fn start(url: &str, id: &str) -> Self {
        let server = Self::begin(url, id);
        timeout(PATIENCE, server.registration.registered()).await.unwrap().unwrap();
        server
    }

    /// Started, but not waited for.
    pub(crate) fn begin(url: &str, id: &str) -> Self {
        let registry = AnyRegistry::new(super::open(url));
        let record = service(id, &format!("127.0.0.1:{}", 10 + id.parse().unwrap_or(90)));
        let registration = Registration::builder(registry.clone(), record).ttl(TTL).interval(INTERVAL).start().unwrap();
        Self { registry, registration }
    }

    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&State) -> bool) {
        let mut states = self.registration.watch();
        let reached = timeout(PATIENCE, states.wait_for(|state| wanted(state))).await;
        assert!(reached.is_ok(), "{what}: {:?}", self.registration.state());
    }

    pub(crate) async fn close(self) {
        self.registration.close().await.unwrap();
        self.registry.close().await.unwrap();
    }
}

/// What the client saw.
#[derive(Debug, Default)]
pub(crate) struct Eye {
    /// The fewest nodes that could have been called, suspects included.
    fewest: AtomicUsize,
    fewest_confirmed: AtomicUsize,
}

pub(crate) struct Rig {
    pub(crate) etcd: Etcd,
    pub(crate) servers: Vec<Server>,
    pub(crate) client: AnyRegistry,
    following: Following,
    directory: Directory,
    eye: Arc<Eye>,
    _looking: JoinSet<()>,
    nodes: usize,
    /// The member that is asked what stands.
    pub(crate) asked: usize,
}

impl Rig {
    /// So many nodes, all seen by a client.
    pub(crate) async fn start(binary: &Binary, options: &Options, nodes: usize) -> Self {
        let etcd = Etcd::start(binary, options).await.unwrap();
        let at = url(&etcd.addresses());
        Self::on(etcd, &at, &at, nodes).await
    }

    /// The same on an etcd that is there, with other ways to it.
    pub(crate) async fn on(etcd: Etcd, servers_at: &str, client_at: &str, nodes: usize) -> Self {
        let mut servers = Vec::new();
        for number in 0..nodes {
            servers.push(Server::start(servers_at, &number.to_string()).await);
        }
        let client = AnyRegistry::new(super::open(client_at));
        let directory = Directory::new(client.clone(), Config::default());
        let following = directory.follow(&"greeter".parse().unwrap()).unwrap();
        let eye = Arc::new(Eye { fewest: AtomicUsize::new(nodes), fewest_confirmed: AtomicUsize::new(nodes) });
        let mut rig = Self { etcd, servers, client, following, directory, eye, _looking: JoinSet::new(), nodes, asked: 0 };
        rig.until_right().await;
        rig._looking.spawn(look(rig.directory.follow(&"greeter".parse().unwrap()).unwrap(), Arc::clone(&rig.eye)));
        rig
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.following.snapshot()
    }

    /// Waits until every node's record stands in etcd, is its own, and has a lease; how long that took.
    pub(crate) async fn until_registered(&self) -> Duration {
        let (begun, address) = (Instant::now(), self.etcd.addresses()[self.asked]);
        loop {
            let mut stand = 0;
            for number in 0..self.nodes {
                let lease = hand::lease_of(address, &path(&key(&number.to_string()))).await;
                stand += usize::from(lease.is_some_and(|lease| lease != 0));
            }
            if stand == self.nodes {
                return begun.elapsed();
            }
            assert!(begun.elapsed() < PATIENCE, "only {stand} of {} are registered", self.nodes);
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the client's picture is right: every node confirmed, none suspect, no trouble; how long that took.
    pub(crate) async fn until_right(&mut self) -> Duration {
        let (begun, nodes) = (Instant::now(), self.nodes);
        let is_right =
            |snapshot: &Snapshot| snapshot.confirmed.len() == nodes && snapshot.suspects.is_empty() && snapshot.trouble.is_none();
        while !is_right(&self.following.snapshot()) {
            let changed = timeout(PATIENCE, self.following.changed()).await;
            assert!(changed.is_ok(), "the picture stays wrong: {:#?}", self.following.snapshot());
        }
        begun.elapsed()
    }

    /// Waits for what the client is to see.
    pub(crate) async fn until_seen(&mut self, what: &str, wanted: impl Fn(&Snapshot) -> bool) {
        while !wanted(&self.following.snapshot()) {
            let changed = timeout(PATIENCE, self.following.changed()).await;
            assert!(changed.is_ok(), "{what}: {:#?}", self.following.snapshot());
        }
    }

    /// Well again: registered, and seen; the times are printed.
    pub(crate) async fn well_again(&mut self, after: &str, begun: Instant) {
        self.until_registered().await;
        let registered = begun.elapsed();
        self.until_right().await;
        let (right, version) = (begun.elapsed(), self.etcd.binary().version());
        let (fewest, confirmed) = (self.eye.fewest.load(Relaxed), self.eye.fewest_confirmed.load(Relaxed));
        println!(
            "etcd {version}: {after}: registered after {:.2} s, picture right after {:.2} s; fewest seen {fewest} of {}, {confirmed} confirmed",
            registered.as_secs_f64(),
            right.as_secs_f64(),
            self.nodes
        );
        self.never_lost_one();
    }

    /// The client could have called every node at any moment.
    pub(crate) fn never_lost_one(&self) {
        assert_eq!(self.eye.fewest.load(Relaxed), self.nodes, "a live node was out of the picture");
    }

    /// No node was ever lost in the registry's eyes.
    pub(crate) fn never_suspected_one(&self) {
        assert_eq!(self.eye.fewest_confirmed.load(Relaxed), self.nodes, "a live node was lost");
    }

    /// Closes everything, and sees that nothing is left in etcd.
    pub(crate) async fn close(mut self) {
        let registries: Vec<_> = self.servers.iter().map(|server| &server.registry).collect();
        super::assert_secret_is_not_in(&format!("{:?} {registries:?}", self.client));
        for server in self.servers.drain(..) {
            server.close().await;
        }
        self.directory.close().await;
        self.client.close().await.unwrap();
        assert_eq!(self.etcd.leases().await.unwrap(), [""; 0], "leases are left");
        assert_eq!(self.etcd.keys("/micro/registry/greeter/").await.unwrap(), [""; 0], "records are left");
        self.etcd.assert_alive();
    }
}

async fn look(mut following: Following, eye: Arc<Eye>) {
    loop {
        let snapshot = following.snapshot();
        eye.fewest.fetch_min(snapshot.confirmed.len() + snapshot.suspects.len(), Relaxed);
        eye.fewest_confirmed.fetch_min(snapshot.confirmed.len(), Relaxed);
        if !following.changed().await {
            return;
        }
    }
}
