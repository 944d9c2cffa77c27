//! Fleet on an etcd of its own: nodes that register, a client that watches them, and an observer of
//! the client's snapshots.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use waypost_core::directory::{Config, Directory, Snapshot, Subscription};
use waypost_core::record::{Node, Service};
use waypost_core::registry::{AnyRegistry, Registry, WatchOptions};
use waypost_testkit::etcd::{Binary, Etcd, Options};

use super::report::Report;
pub(crate) use super::server::{INTERVAL, Server, TTL, key, service};
use super::{SECRET, gateway};

/// Maximum time to recover: one interval, its spread, the longest backoff, and the delays of a busy
/// machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Interval between two checks.
const POLL: Duration = Duration::from_millis(20);

/// Key prefix of the rig's nodes.
const PREFIX: &str = "/micro/registry/greeter/";

/// Runs a test on every etcd of this machine concurrently, and checks that no output shows the
/// password.
pub(crate) async fn each<F, R>(test: F)
where
    F: Fn(Binary) -> R,
    R: Future<Output = ()> + Send + 'static,
{
    waypost_testkit::etcd::each(test).await;
    super::assert_no_secret_in_log();
}

/// Returns a URL with a user and a password. An etcd without authentication ignores them, but they
/// must not be shown either.
pub(crate) fn url(addresses: &[std::net::SocketAddr]) -> String {
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    format!("etcd://waypost:{SECRET}@{}", addresses.join(","))
}

/// Observations of the client's snapshots since the last report.
#[derive(Debug, Default)]
struct Observations {
    /// Lowest number of nodes available to calls, suspects included.
    fewest: AtomicUsize,
    fewest_confirmed: AtomicUsize,
    /// True if any node was ever a suspect.
    has_suspected: AtomicBool,
}

impl Observations {
    fn begin(&self, nodes: usize) {
        self.fewest.store(nodes, Relaxed);
        self.fewest_confirmed.store(nodes, Relaxed);
    }
}

/// Recovery times.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    /// Time until every node's own record was in etcd, with a lease. None while this does not hold.
    registered: Option<Duration>,
    /// Time until the client's snapshot was correct. None while it is not.
    current: Option<Duration>,
}

impl Figures {
    /// Creates figures without an outage.
    pub(crate) fn without_outage() -> Self {
        Self {
            registered: Some(Duration::ZERO),
            current: Some(Duration::ZERO),
        }
    }

    pub(crate) fn registered(&self) -> Duration {
        self.registered.expect("all are registered")
    }

    fn are_complete(&self) -> bool {
        self.registered.is_some() && self.current.is_some()
    }
}

pub(crate) struct Rig {
    pub(crate) etcd: Etcd,
    pub(crate) servers: Vec<Server>,
    /// Nodes in other processes.
    pub(crate) others: Vec<Node>,
    pub(crate) client: AnyRegistry,
    subscription: Subscription,
    directory: Directory,
    observations: Arc<Observations>,
    observers: JoinSet<()>,
    /// Number of registered nodes at the last report.
    node_count: usize,
    /// Revision at the last report; none if the gateway cannot be used, with authentication or TLS.
    revision: Option<i64>,
}

impl Rig {
    /// Starts an etcd and this number of nodes; returns once a client sees all of them.
    pub(crate) async fn start(binary: &Binary, options: &Options, nodes: usize) -> Self {
        let etcd = Etcd::start(binary, options).await.unwrap();
        let at = url(&etcd.addresses());
        Self::on(etcd, &at, &at, nodes).await
    }

    /// Does the same on a running etcd, with these URLs.
    pub(crate) async fn on(etcd: Etcd, servers_at: &str, client_at: &str, nodes: usize) -> Self {
        let mut servers = Vec::new();
        for number in 0..nodes {
            servers.push(Server::start(servers_at, &number.to_string()).await);
        }
        let client = AnyRegistry::new(super::open(client_at));
        let directory = Directory::new(client.clone(), Config::default());
        let subscription = directory.subscribe(&"greeter".parse().unwrap()).unwrap();
        let (observations, observers, others) =
            (Arc::<Observations>::default(), JoinSet::new(), Vec::new());
        let revision = gateway::revision(etcd.addresses()[0]).await.ok();
        let mut rig = Self {
            etcd,
            servers,
            others,
            client,
            subscription,
            directory,
            observations,
            observers,
            node_count: nodes,
            revision,
        };
        rig.until_current().await;
        rig.observations.begin(nodes);
        rig.observers.spawn(observe_snapshots(
            rig.directory
                .subscribe(&"greeter".parse().unwrap())
                .unwrap(),
            Arc::clone(&rig.observations),
        ));
        rig.observers.spawn(watch(rig.client.clone()));
        rig.observers
            .spawn(request_repeatedly(super::open(client_at)));
        rig
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.subscription.snapshot()
    }

    /// Returns the expected nodes.
    fn nodes(&self) -> Vec<Node> {
        self.servers
            .iter()
            .map(Server::node)
            .chain(self.others.iter().cloned())
            .collect()
    }

    /// Returns true if every node is registered, and its own record is in etcd with a lease.
    ///
    /// # Errors
    /// etcd does not respond.
    async fn are_registered(&mut self) -> Result<bool, String> {
        if !self
            .servers
            .iter()
            .all(|server| server.registration.state().is_registered())
        {
            return Ok(false);
        }
        let found = self.records().await?;
        let stored = |node: &Node| {
            found
                .iter()
                .any(|(lease, found)| *lease != 0 && is_same(found, node))
        };
        Ok(self.nodes().iter().all(stored))
    }

    /// Returns the number of nodes whose own record is in etcd.
    pub(crate) async fn count_registered(&mut self) -> usize {
        let found = self.records().await.unwrap();
        self.nodes()
            .iter()
            .filter(|node| found.iter().any(|(_, found)| is_same(found, node)))
            .count()
    }

    /// Returns the nodes of all records in etcd, and their leases.
    async fn records(&mut self) -> Result<Vec<(i64, Node)>, String> {
        let stored = match self.revision {
            Some(_) => gateway::read(self.up(), PREFIX).await?,
            None => {
                let json = self
                    .etcd
                    .ctl(&["get", "--prefix", PREFIX, "--write-out=json"])
                    .await;
                let json = json.map_err(|failure| failure.to_string())?;
                gateway::values(&serde_json::from_str(&json).map_err(|error| error.to_string())?)
            }
        };
        let node = |stored: gateway::StoredValue| {
            Some((
                stored.lease,
                Service::from_json(&stored.value)
                    .ok()?
                    .nodes
                    .first()?
                    .clone(),
            ))
        };
        Ok(stored.into_iter().filter_map(node).collect())
    }

    /// Returns the address of a member that is up.
    pub(crate) fn up(&mut self) -> std::net::SocketAddr {
        let up = (0..self.etcd.size()).find(|index| self.etcd.member(*index).is_up());
        self.etcd.addresses()[up.expect("a member is up")]
    }

    /// Returns true if the client sees every node as expected, without suspects and without an
    /// outage.
    fn is_current(&self) -> bool {
        let (snapshot, nodes) = (self.subscription.snapshot(), self.nodes());
        let seen = |node: &Node| snapshot.confirmed().any(|entry| is_same(&entry.node, node));
        let is_whole = snapshot.confirmed().len() == nodes.len() && nodes.iter().all(seen);
        is_whole && snapshot.suspects().len() == 0 && snapshot.outage.is_none()
    }

    /// Waits until the client's snapshot is correct. Returns the time that this took.
    pub(crate) async fn until_current(&mut self) -> Duration {
        let begun = Instant::now();
        while !self.is_current() {
            assert!(
                begun.elapsed() < PATIENCE,
                "the snapshot stays outdated: {:#?}",
                self.subscription.snapshot()
            );
            // The expected nodes may change while the snapshot does not.
            let _ = timeout(POLL, self.subscription.changed()).await;
        }
        begun.elapsed()
    }

    /// Waits until the client's snapshot satisfies a condition.
    pub(crate) async fn until_seen(&mut self, what: &str, wanted: impl Fn(&Snapshot) -> bool) {
        while !wanted(&self.subscription.snapshot()) {
            let changed = timeout(PATIENCE, self.subscription.changed()).await;
            assert!(
                changed.is_ok(),
                "{what}: {:#?}",
                self.subscription.snapshot()
            );
        }
    }

    /// Observes for at least `lasting`, and then until all has recovered. The figures are the times
    /// since `begun` from which on all was correct; a relapse resets them.
    pub(crate) async fn observe(
        &mut self,
        figures: &mut Figures,
        begun: Instant,
        lasting: Duration,
    ) {
        let started = Instant::now();
        loop {
            let registered = self.are_registered().await;
            // Without a response, the state is unchanged.
            let was = figures.registered.is_some();
            update_since(
                &mut figures.registered,
                *registered.as_ref().unwrap_or(&was),
                begun,
            );
            update_since(&mut figures.current, self.is_current(), begun);
            if started.elapsed() >= lasting && registered == Ok(true) && figures.are_complete() {
                return;
            }
            let seen = || {
                format!(
                    "{figures:?} {registered:?} {:#?}",
                    self.subscription.snapshot()
                )
            };
            assert!(
                started.elapsed() < lasting + PATIENCE,
                "it does not recover: {}",
                seen()
            );
            sleep(POLL).await;
        }
    }

    /// Waits until all has recovered from a fault, and reports it.
    pub(crate) async fn recovered(&mut self, fault: &str, begun: Instant) -> Figures {
        let mut figures = Figures::default();
        self.observe(&mut figures, begun, Duration::ZERO).await;
        self.report(fault, &figures).await;
        figures
    }

    /// Reports a fault, and checks that no registered node was missing from the client's snapshots.
    /// Returns the number of nodes that vanished from etcd, if its history is available.
    pub(crate) async fn report(&mut self, fault: &str, figures: &Figures) -> Option<usize> {
        self.assert_none_lost();
        self.report_any(fault, figures).await
    }

    /// Does the same where a node was deregistered.
    pub(crate) async fn report_any(&mut self, fault: &str, figures: &Figures) -> Option<usize> {
        let report = Report {
            fault,
            etcd: self.etcd.binary().version(),
            registered: figures.registered(),
            current: figures.current.expect("the snapshot is current"),
            nodes: self.node_count,
            fewest: self.observations.fewest.load(Relaxed),
            confirmed: self.observations.fewest_confirmed.load(Relaxed),
            vanished: self.vanished().await,
        };
        report.print();
        assert!(report.fewest > 0, "the snapshot was empty");
        let vanished = report.vanished;
        self.capture_debug();
        self.begin().await;
        vanished
    }

    /// Starts a new period: from now on, the current nodes must not be missing from the client's
    /// snapshots.
    pub(crate) async fn begin(&mut self) {
        self.until_current().await;
        self.node_count = self.nodes().len();
        self.observations.begin(self.node_count);
        if self.revision.is_some() {
            self.revision = Some(gateway::revision(self.up()).await.unwrap());
        }
    }

    /// Returns the number of nodes deleted since the last report without a mark as leaving, from
    /// etcd's history.
    async fn vanished(&mut self) -> Option<usize> {
        let changes = gateway::history(self.up(), self.revision?).await?;
        let nodes = changes
            .into_iter()
            .filter(|change| change.deleted && change.key.starts_with(PREFIX.as_bytes()));
        let had_left = |change: &gateway::Change| {
            let before = change
                .before
                .as_deref()
                .and_then(|before| Service::from_json(before).ok());
            before.is_some_and(|before| before.nodes.iter().all(Node::is_leaving))
        };
        Some(nodes.filter(|change| !had_left(change)).count())
    }

    /// Checks the `Debug` output of all objects for secrets.
    fn capture_debug(&self) {
        let servers: Vec<_> = self
            .servers
            .iter()
            .map(|server| (&server.registry, &server.registration))
            .collect();
        super::capture(&format!(
            "{:?} {:?} {:?} {servers:?}",
            self.client,
            self.directory,
            self.snapshot()
        ));
    }

    /// Checks that every node was available to the client all the time.
    pub(crate) fn assert_none_lost(&self) {
        assert!(
            self.observations.fewest.load(Relaxed) >= self.node_count,
            "a live node was missing from a snapshot: {:?}",
            self.observations
        );
    }

    /// Checks that no node was ever a suspect.
    pub(crate) fn assert_none_suspected(&self) {
        self.assert_none_lost();
        let suspected = self.observations.has_suspected.load(Relaxed);
        assert!(
            !suspected,
            "a live node was lost, on etcd {}",
            self.etcd.binary().version()
        );
    }

    /// Closes everything, and checks that nothing is left in etcd.
    pub(crate) async fn close(mut self) {
        self.capture_debug();
        for server in self.servers.drain(..) {
            server.close().await;
        }
        self.observers.shutdown().await;
        self.directory.close().await;
        self.client.close().await.unwrap();
        assert_eq!(
            self.etcd.leases().await.unwrap(),
            [""; 0],
            "leases are left"
        );
        assert_eq!(
            self.etcd.keys(PREFIX).await.unwrap(),
            [""; 0],
            "records are left"
        );
        self.etcd.assert_alive();
    }
}

/// Returns true if the node matches the expected one; it may have more metadata.
fn is_same(found: &Node, wanted: &Node) -> bool {
    let has_metadata = wanted
        .metadata
        .iter()
        .all(|(name, value)| found.metadata.get(name) == Some(value));
    found.id == wanted.id && found.address == wanted.address && has_metadata
}

/// Updates the time since which a condition holds.
fn update_since(since: &mut Option<Duration>, is_so: bool, begun: Instant) {
    *since = is_so.then(|| since.unwrap_or_else(|| begun.elapsed()));
}

/// Observes the client's snapshots.
async fn observe_snapshots(mut subscription: Subscription, observations: Arc<Observations>) {
    loop {
        let snapshot = subscription.snapshot();
        observations.fewest.fetch_min(
            snapshot.confirmed().len() + snapshot.suspects().len(),
            Relaxed,
        );
        observations
            .fewest_confirmed
            .fetch_min(snapshot.confirmed().len(), Relaxed);
        if snapshot.suspects().len() > 0 {
            observations.has_suspected.store(true, Relaxed);
            let suspects: Vec<_> = snapshot
                .suspects()
                .map(|suspect| &suspect.entry.node.id)
                .collect();
            tracing::info!(?suspects, "the client sees losses");
        }
        super::capture(&format!(
            "{:?} {:?}",
            snapshot.outage,
            snapshot.suspects().collect::<Vec<_>>()
        ));
        if !subscription.changed().await {
            return;
        }
    }
}

/// Checks the errors that watchers get for secrets.
async fn watch(client: AnyRegistry) {
    let mut watcher = client
        .watch(&WatchOptions::service("greeter"))
        .await
        .unwrap();
    while let Some(item) = watcher.next().await {
        if let Err(error) = item {
            super::capture_error(&error);
        }
    }
}

/// Checks the errors of requests for secrets, on a handle of its own.
async fn request_repeatedly(registry: waypost_etcd::EtcdRegistry) {
    let mut times = interval(Duration::from_millis(500));
    times.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        times.tick().await;
        if let Err(error) = registry.get_service("greeter").await {
            super::capture_error(&error);
        }
    }
}
