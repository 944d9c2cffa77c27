//! A fleet on an etcd of our own: nodes that register, a client that follows them, and an eye on what the client sees meanwhile.

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
use super::{SECRET, hand};

/// How long anything may take to be well again: one interval, its spread, the longest back-off and a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Between two looks at what stands.
const LOOK: Duration = Duration::from_millis(20);

/// Where the nodes of a rig stand.
const FOLDER: &str = "/micro/registry/greeter/";

/// Runs a test on every etcd of this machine, side by side, and looks for the password in all that was said.
pub(crate) async fn each<F, R>(test: F)
where
    F: Fn(Binary) -> R,
    R: Future<Output = ()> + Send + 'static,
{
    waypost_testkit::etcd::each(test).await;
    super::assert_secret_was_not_heard();
}

/// A URL with a user and a password: where etcd has no users, they are not used, and must not be shown all the same.
pub(crate) fn url(addresses: &[std::net::SocketAddr]) -> String {
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    format!("etcd://waypost:{SECRET}@{}", addresses.join(","))
}

/// What the client saw since the last report.
#[derive(Debug, Default)]
struct Eye {
    /// The fewest nodes that could have been called, suspects included.
    fewest: AtomicUsize,
    fewest_confirmed: AtomicUsize,
    /// Ever since it looks.
    has_suspected: AtomicBool,
}

impl Eye {
    fn begin(&self, nodes: usize) {
        self.fewest.store(nodes, Relaxed);
        self.fewest_confirmed.store(nodes, Relaxed);
    }
}

/// How long it took until all was well.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    /// Every node stands in etcd as its own record, on a lease. None while that is not so.
    registered: Option<Duration>,
    /// The client's picture is right. None while that is not so.
    right: Option<Duration>,
}

impl Figures {
    /// All is well from the beginning, for all that is known.
    pub(crate) fn well() -> Self {
        Self { registered: Some(Duration::ZERO), right: Some(Duration::ZERO) }
    }

    pub(crate) fn registered(&self) -> Duration {
        self.registered.expect("all are registered")
    }

    fn are_well(&self) -> bool {
        self.registered.is_some() && self.right.is_some()
    }
}

pub(crate) struct Rig {
    pub(crate) etcd: Etcd,
    pub(crate) servers: Vec<Server>,
    /// Nodes of processes of their own.
    pub(crate) others: Vec<Node>,
    pub(crate) client: AnyRegistry,
    subscription: Subscription,
    directory: Directory,
    eye: Arc<Eye>,
    looking: JoinSet<()>,
    /// The nodes that stood when the last report was made.
    stood: usize,
    /// Where history had got to then; none where the gateway is not for us: etcd has users, or encrypts.
    revision: Option<i64>,
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
        let subscription = directory.subscribe(&"greeter".parse().unwrap()).unwrap();
        let (eye, looking, others) = (Arc::<Eye>::default(), JoinSet::new(), Vec::new());
        let revision = hand::revision(etcd.addresses()[0]).await.ok();
        let mut rig = Self { etcd, servers, others, client, subscription, directory, eye, looking, stood: nodes, revision };
        rig.until_right().await;
        rig.eye.begin(nodes);
        rig.looking.spawn(look(rig.directory.subscribe(&"greeter".parse().unwrap()).unwrap(), Arc::clone(&rig.eye)));
        rig.looking.spawn(watch(rig.client.clone()));
        rig.looking.spawn(ask(super::open(client_at)));
        rig
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.subscription.snapshot()
    }

    /// The nodes as they are to stand.
    fn nodes(&self) -> Vec<Node> {
        self.servers.iter().map(Server::node).chain(self.others.iter().cloned()).collect()
    }

    /// Whether every node is registered, and its record stands in etcd: its own, and on a lease.
    ///
    /// # Errors
    /// etcd cannot say now.
    async fn are_registered(&mut self) -> Result<bool, String> {
        if !self.servers.iter().all(|server| server.registration.state().is_registered()) {
            return Ok(false);
        }
        let found = self.records().await?;
        let stands = |node: &Node| found.iter().any(|(lease, found)| *lease != 0 && is(found, node));
        Ok(self.nodes().iter().all(stands))
    }

    /// How many nodes stand in etcd as their own record.
    pub(crate) async fn standing(&mut self) -> usize {
        let found = self.records().await.unwrap();
        self.nodes().iter().filter(|node| found.iter().any(|(_, found)| is(found, node))).count()
    }

    /// The nodes of all records that stand, and their leases.
    async fn records(&mut self) -> Result<Vec<(i64, Node)>, String> {
        let stands = match self.revision {
            Some(_) => hand::read(self.up(), FOLDER).await?,
            None => {
                let json = self.etcd.ctl(&["get", "--prefix", FOLDER, "--write-out=json"]).await;
                let json = json.map_err(|failure| failure.to_string())?;
                hand::stands(&serde_json::from_str(&json).map_err(|error| error.to_string())?)
            }
        };
        let node = |stands: hand::Stands| Some((stands.lease, Service::from_json(&stands.value).ok()?.nodes.first()?.clone()));
        Ok(stands.into_iter().filter_map(node).collect())
    }

    /// A member that can be asked.
    pub(crate) fn up(&mut self) -> std::net::SocketAddr {
        let up = (0..self.etcd.size()).find(|index| self.etcd.member(*index).is_up());
        self.etcd.addresses()[up.expect("a member is up")]
    }

    /// Whether the client sees every node as it is, none suspect, no trouble.
    fn is_right(&self) -> bool {
        let (snapshot, nodes) = (self.subscription.snapshot(), self.nodes());
        let seen = |node: &Node| snapshot.confirmed().any(|entry| is(&entry.node, node));
        let is_whole = snapshot.confirmed().len() == nodes.len() && nodes.iter().all(seen);
        is_whole && snapshot.suspects().len() == 0 && snapshot.outage.is_none()
    }

    /// Waits until the client's picture is right; how long that took.
    pub(crate) async fn until_right(&mut self) -> Duration {
        let begun = Instant::now();
        while !self.is_right() {
            assert!(begun.elapsed() < PATIENCE, "the picture stays wrong: {:#?}", self.subscription.snapshot());
            // A picture that has not changed is right once the truth has.
            let _ = timeout(LOOK, self.subscription.changed()).await;
        }
        begun.elapsed()
    }

    /// Waits for what the client is to see.
    pub(crate) async fn until_seen(&mut self, what: &str, wanted: impl Fn(&Snapshot) -> bool) {
        while !wanted(&self.subscription.snapshot()) {
            let changed = timeout(PATIENCE, self.subscription.changed()).await;
            assert!(changed.is_ok(), "{what}: {:#?}", self.subscription.snapshot());
        }
    }

    /// Looks on for so long, and then until all is well. The figures are the times, since the fault began or was over, from which on all
    /// was well: what goes wrong again meanwhile counts.
    pub(crate) async fn look_on(&mut self, figures: &mut Figures, begun: Instant, lasting: Duration) {
        let looking = Instant::now();
        loop {
            let registered = self.are_registered().await;
            // Unknown changes nothing.
            let was = figures.registered.is_some();
            note(&mut figures.registered, *registered.as_ref().unwrap_or(&was), begun);
            note(&mut figures.right, self.is_right(), begun);
            if looking.elapsed() >= lasting && registered == Ok(true) && figures.are_well() {
                return;
            }
            let seen = || format!("{figures:?} {registered:?} {:#?}", self.subscription.snapshot());
            assert!(looking.elapsed() < lasting + PATIENCE, "it does not get well: {}", seen());
            sleep(LOOK).await;
        }
    }

    /// Waits until all is well again after a fault, and reports it.
    pub(crate) async fn well_again(&mut self, fault: &str, begun: Instant) -> Figures {
        let mut figures = Figures::default();
        self.look_on(&mut figures, begun, Duration::ZERO).await;
        self.report(fault, &figures).await;
        figures
    }

    /// Reports a fault; all is well again, and meanwhile no node that stood was out of the picture. How many vanished from etcd, where
    /// its history tells.
    pub(crate) async fn report(&mut self, fault: &str, figures: &Figures) -> Option<usize> {
        self.never_lost_one();
        self.report_any(fault, figures).await
    }

    /// The same, where a node has left.
    pub(crate) async fn report_any(&mut self, fault: &str, figures: &Figures) -> Option<usize> {
        let report = Report {
            fault,
            etcd: self.etcd.binary().version(),
            registered: figures.registered(),
            right: figures.right.expect("the picture is right"),
            nodes: self.stood,
            fewest: self.eye.fewest.load(Relaxed),
            confirmed: self.eye.fewest_confirmed.load(Relaxed),
            vanished: self.vanished().await,
        };
        report.tell();
        assert!(report.fewest > 0, "the picture was empty");
        let vanished = report.vanished;
        self.hear_debug();
        self.begin().await;
        vanished
    }

    /// From here on, these nodes must never be out of the picture.
    pub(crate) async fn begin(&mut self) {
        self.until_right().await;
        self.stood = self.nodes().len();
        self.eye.begin(self.stood);
        if self.revision.is_some() {
            self.revision = Some(hand::revision(self.up()).await.unwrap());
        }
    }

    /// How many nodes were deleted since the last report that had not been marked as leaving, by etcd's own history.
    async fn vanished(&mut self) -> Option<usize> {
        let changes = hand::history(self.up(), self.revision?).await?;
        let nodes = changes.into_iter().filter(|change| change.deleted && change.key.starts_with(FOLDER.as_bytes()));
        let had_left = |change: &hand::Change| {
            let before = change.before.as_deref().and_then(|before| Service::from_json(before).ok());
            before.is_some_and(|before| before.nodes.iter().all(Node::is_leaving))
        };
        Some(nodes.filter(|change| !had_left(change)).count())
    }

    /// All that shows itself.
    fn hear_debug(&self) {
        let servers: Vec<_> = self.servers.iter().map(|server| (&server.registry, &server.registration)).collect();
        super::hear(&format!("{:?} {:?} {:?} {servers:?}", self.client, self.directory, self.snapshot()));
    }

    /// The client could have called every node at any moment.
    pub(crate) fn never_lost_one(&self) {
        assert!(self.eye.fewest.load(Relaxed) >= self.stood, "a live node was out of the picture: {:?}", self.eye);
    }

    /// No node was ever lost in the registry's eyes.
    pub(crate) fn never_suspected_one(&self) {
        self.never_lost_one();
        let suspected = self.eye.has_suspected.load(Relaxed);
        assert!(!suspected, "a live node was lost, on etcd {}", self.etcd.binary().version());
    }

    /// Closes everything, and sees that nothing is left in etcd.
    pub(crate) async fn close(mut self) {
        self.hear_debug();
        for server in self.servers.drain(..) {
            server.close().await;
        }
        self.looking.shutdown().await;
        self.directory.close().await;
        self.client.close().await.unwrap();
        assert_eq!(self.etcd.leases().await.unwrap(), [""; 0], "leases are left");
        assert_eq!(self.etcd.keys(FOLDER).await.unwrap(), [""; 0], "records are left");
        self.etcd.assert_alive();
    }
}

/// Whether it says what it is to say; it may say more.
fn is(found: &Node, wanted: &Node) -> bool {
    let said = wanted.metadata.iter().all(|(name, value)| found.metadata.get(name) == Some(value));
    found.id == wanted.id && found.address == wanted.address && said
}

/// Since when something is so.
fn note(since: &mut Option<Duration>, is_so: bool, begun: Instant) {
    *since = is_so.then(|| since.unwrap_or_else(|| begun.elapsed()));
}

/// What the client sees.
async fn look(mut subscription: Subscription, eye: Arc<Eye>) {
    loop {
        let snapshot = subscription.snapshot();
        eye.fewest.fetch_min(snapshot.confirmed().len() + snapshot.suspects().len(), Relaxed);
        eye.fewest_confirmed.fetch_min(snapshot.confirmed().len(), Relaxed);
        if snapshot.suspects().len() > 0 {
            eye.has_suspected.store(true, Relaxed);
            let suspects: Vec<_> = snapshot.suspects().map(|suspect| &suspect.entry.node.id).collect();
            tracing::info!(?suspects, "the client sees losses");
        }
        super::hear(&format!("{:?} {:?}", snapshot.outage, snapshot.suspects().collect::<Vec<_>>()));
        if !subscription.changed().await {
            return;
        }
    }
}

/// What watchers are told of trouble.
async fn watch(client: AnyRegistry) {
    let mut watcher = client.watch(&WatchOptions::service("greeter")).await.unwrap();
    while let Some(told) = watcher.next().await {
        if let Err(error) = told {
            super::hear_error(&error);
        }
    }
}

/// What those are told who only ask, by a way of their own.
async fn ask(registry: waypost_etcd::EtcdRegistry) {
    let mut times = interval(Duration::from_millis(500));
    times.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        times.tick().await;
        if let Err(error) = registry.get_service("greeter").await {
            super::hear_error(&error);
        }
    }
}
