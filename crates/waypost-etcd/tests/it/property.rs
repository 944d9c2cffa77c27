//! Property test on real etcds, from seeds. After any mixture of short faults and registrations,
//! the confirmed nodes are those of a fresh list.
//!
//! Several cases share an etcd, each with a prefix of its own: a fault of the etcd affects all of
//! them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::runtime::Builder;
use tokio::sync::{RwLock, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::subscriber::NoSubscriber;
use waypost_conformance::{CaseLog, seeds};
use waypost_core::directory::{Config, Directory, Snapshot, Subscription};
use waypost_core::record::{Entry, Key, Service};
use waypost_core::registrar::Registration;
use waypost_core::registry::{AnyRegistry, Error};
use waypost_testkit::Proxy;
use waypost_testkit::etcd::{Binary, Data, Etcd, Options};

use super::rig::{INTERVAL, TTL, each, service, url};
use super::{PRINT_LOG, gateway};

/// Number of cases that share an etcd, and of etcds of one version that run concurrently.
const TOGETHER: usize = 10;
const ETCDS: usize = 2;

/// Duration of the faults.
const FAULTS: Duration = Duration::from_secs(8);
/// Maximum time to recover on a busy machine; then the leases of killed handles have expired too.
const PATIENCE: Duration = Duration::from_secs(90);
/// Time for which a lost node is kept as a suspect, less the delay of the check on a busy machine.
const GRACE: Duration = Duration::from_secs(14);
const MIN_FAULT: Duration = Duration::from_millis(100);
const MAX_FAULT: Duration = Duration::from_millis(2_800);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn confirmed_nodes_are_those_registered_after_any_faults() {
    each(async |binary| {
        let begun = Instant::now();
        let seeds = seeds(40);
        let groups: Vec<_> = seeds
            .chunks(TOGETHER)
            .map(|cases| (cases[0], cases.len()))
            .collect();
        for groups in groups.chunks(ETCDS) {
            let mut running = JoinSet::new();
            for (seed, cases) in groups {
                // A single seed is that of a whole group.
                let cases = if seeds.len() == 1 { TOGETHER } else { *cases };
                let (binary, seed) = (binary.clone(), *seed);
                running.spawn_blocking(move || on_own_thread(group(binary, seed, cases)));
            }
            join(&mut running).await;
        }
        println!(
            "etcd {}: {} cases in {:.1} s",
            binary.version(),
            seeds.len(),
            begun.elapsed().as_secs_f64()
        );
    })
    .await;
}

/// Runs a group on a thread of its own, without logs: that many clients would spend their time on
/// logging each frame they send.
fn on_own_thread(group: impl Future<Output = ()>) {
    let _no_log = PRINT_LOG
        .get()
        .is_none()
        .then(|| tracing::subscriber::set_default(NoSubscriber::new()));
    Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(group);
}

async fn join(running: &mut JoinSet<()>) {
    while let Some(ended) = running.join_next().await {
        ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    }
}

/// State shared by the cases of one etcd. Direct writes take the read lock; stopping etcd takes the
/// write lock.
#[derive(Clone)]
struct Shared {
    case_log: CaseLog,
    begun: Instant,
    etcd: Arc<RwLock<Etcd>>,
    address: SocketAddr,
    faults_ended: watch::Receiver<bool>,
}

impl Shared {
    fn log(&self, name: &str, what: impl std::fmt::Display) {
        self.case_log.record(format!(
            "{:7.3} s {name}: {what}",
            self.begun.elapsed().as_secs_f64()
        ));
    }
}

async fn group(binary: Binary, seed: u64, cases: usize) {
    let etcd = Etcd::start(&binary, &Options::one()).await.unwrap();
    let address = etcd.addresses()[0];
    let (faults_ended, have_faults_ended) = watch::channel(false);
    let case_log = CaseLog::new("-p waypost-etcd --test it confirmed_nodes_are", seed);
    case_log.record(format!("etcd {}, {cases} cases", binary.version()));
    let etcd = Arc::new(RwLock::new(etcd));
    let shared = Shared {
        case_log,
        begun: Instant::now(),
        etcd: Arc::clone(&etcd),
        address,
        faults_ended: have_faults_ended,
    };
    let mut running = JoinSet::new();
    for case in 0..cases {
        running.spawn(Case::run(shared.clone(), case));
    }
    let faults = async {
        let mut rng = Rng::with_seed(seed);
        while shared.begun.elapsed() < FAULTS {
            sleep(Duration::from_millis(rng.u64(300..2_500))).await;
            inject_etcd_fault(&shared, &mut rng).await;
        }
        shared.log("etcd", "no more faults");
        faults_ended.send_replace(true);
    };
    tokio::join!(faults, join(&mut running));
    until_no_lease_is_left(&etcd).await;
}

async fn inject_etcd_fault(shared: &Shared, rng: &mut Rng) {
    let mut etcd = shared.etcd.write().await;
    let length = MIN_FAULT + (MAX_FAULT - MIN_FAULT).mul_f64(rng.f64());
    match rng.u32(..6) {
        0 => {
            shared.log("etcd", "killed and restarted");
            etcd.kill().await.unwrap();
            sleep(length / 4).await;
            etcd.restart(Data::Kept).await.unwrap();
        }
        1 => {
            shared.log("etcd", "restarted empty");
            etcd.restart(Data::Lost).await.unwrap();
        }
        // Another history, whose revision exceeds the old one before any client sees it.
        2 => {
            let before = etcd.revision().await.unwrap();
            etcd.restart(Data::Lost).await.unwrap();
            let stray = |number: i64| {
                (
                    format!("/elsewhere/{number}").into_bytes(),
                    Some(Vec::new()),
                )
            };
            let mut revision = 0;
            while revision < before + 20 {
                revision = gateway::write(shared.address, &[stray(revision)]).await;
            }
            shared.log(
                "etcd",
                format!("restarted empty, and from {before} to {revision} at once"),
            );
        }
        3 => {
            shared.log("etcd", format!("frozen for {length:?}"));
            etcd.pause().unwrap();
            sleep(length).await;
            etcd.resume().unwrap();
        }
        _ => {
            let revision = gateway::write(
                shared.address,
                &[(b"/elsewhere".to_vec(), Some(Vec::new()))],
            )
            .await;
            shared.log("etcd", format!("compacted at {revision}"));
            gateway::compact(shared.address, revision).await;
        }
    }
}

/// Waits until killed handles' leases have expired; those of closed handles are gone.
async fn until_no_lease_is_left(etcd: &RwLock<Etcd>) {
    let begun = Instant::now();
    let etcd = etcd.read().await;
    while !etcd.leases().await.unwrap().is_empty() {
        assert!(begun.elapsed() < TTL * 4, "leases are left");
        sleep(Duration::from_millis(200)).await;
    }
}

struct Server {
    registry: AnyRegistry,
    registration: Registration,
    id: String,
    address: String,
}

/// One client and some servers, with a prefix and a proxy of their own.
struct Case {
    shared: Shared,
    name: String,
    prefix: String,
    rng: Rng,
    proxy: Proxy,
    servers: Vec<Server>,
    client: AnyRegistry,
    reader: AnyRegistry,
    directory: Directory,
    subscription: Subscription,
    last: Snapshot,
    /// Address of each node when it was last confirmed, and the time.
    seen: BTreeMap<String, (String, Instant)>,
    started: u32,
}

impl Case {
    async fn run(shared: Shared, number: usize) {
        let mut case = Self::begin(shared, number).await;
        (0..3).for_each(|_| case.start());
        while !*case.shared.faults_ended.borrow() {
            let pause = Duration::from_millis(case.rng.u64(0..500));
            case.wait(pause).await;
            case.inject_fault().await;
        }
        case.until_recovered().await;
        case.close().await;
    }

    async fn begin(shared: Shared, number: usize) -> Self {
        let rng = Rng::with_seed(shared.case_log.seed().wrapping_add(1 + number as u64));
        let proxy = Proxy::start(shared.address).await.unwrap();
        let prefix = format!("/case-{number}");
        let client = AnyRegistry::new(super::open(&format!("{}{prefix}", url(&[proxy.address()]))));
        let reader = AnyRegistry::new(super::open(&format!("{}{prefix}", url(&[shared.address]))));
        let directory = Directory::new(client.clone(), Config::default());
        let subscription = directory.subscribe(&"greeter".parse().unwrap()).unwrap();
        let last = subscription.snapshot();
        let (servers, seen, name) = (Vec::new(), BTreeMap::new(), format!("case {number}"));
        Self {
            shared,
            name,
            prefix,
            rng,
            proxy,
            servers,
            client,
            reader,
            directory,
            subscription,
            last,
            seen,
            started: 0,
        }
    }

    fn log(&self, what: impl std::fmt::Display) {
        self.shared.log(&self.name, what);
    }

    async fn inject_fault(&mut self) {
        match self.rng.u32(..100) {
            0..18 => self.start(),
            18..28 => self.leave().await,
            28..34 => self.die(),
            34..52 => self.change_metadata(),
            52..72 => self.write_by_hand().await,
            72..82 => self.revoke_one().await,
            82..88 => {
                self.log("connections are reset");
                self.proxy.cut();
            }
            88..91 => {
                self.log("connections go silent");
                self.proxy.half_open();
            }
            _ => self.cut_off().await,
        }
    }

    fn start(&mut self) {
        if self.servers.len() >= 5 {
            return;
        }
        self.started += 1;
        let id = format!("{}", self.started);
        let address = format!("127.0.0.1:{}", 1_000 + self.started);
        self.log(format!("{id} starts"));
        let registry = AnyRegistry::new(super::open(&format!(
            "{}{}",
            url(&[self.proxy.address()]),
            self.prefix
        )));
        let builder = Registration::builder(registry.clone(), service(&id, &address));
        let registration = builder.ttl(TTL).interval(INTERVAL).start().unwrap();
        self.servers.push(Server {
            registry,
            registration,
            id: format!("greeter-{id}"),
            address,
        });
    }

    fn take_one(&mut self) -> Option<Server> {
        if self.servers.len() < 2 {
            return None;
        }
        Some(
            self.servers
                .swap_remove(self.rng.usize(..self.servers.len())),
        )
    }

    async fn leave(&mut self) {
        let Some(server) = self.take_one() else {
            return;
        };
        self.log(format!("{} leaves", server.id));
        // Fails while etcd is unavailable; the record then expires.
        let _ = self.until(server.registration.close()).await;
        let _ = self.until(server.registry.close()).await;
    }

    fn die(&mut self) {
        if let Some(server) = self.take_one() {
            self.log(format!("{} dies", server.id));
        }
    }

    fn change_metadata(&mut self) {
        if let Some(server) = self.rng.choice(&self.servers) {
            let step = self.rng.u32(..).to_string();
            self.log(format!("{} is changed to {step}", server.id));
            server.registration.set_metadata("step", step).unwrap();
        }
    }

    fn any_key(&mut self) -> (Key, Vec<u8>) {
        let key = Key {
            service: "greeter".into(),
            id: format!("greeter-{}", self.rng.u32(1..=self.started.max(1) + 1)),
        };
        let path = format!("{}/{}/{}", self.prefix, key.service, key.id).into_bytes();
        (key, path)
    }

    /// Executes one transaction: another instance's record, garbage, a record of another key, or a
    /// deletion.
    async fn write_by_hand(&mut self) {
        let mut changes = BTreeMap::new();
        for _ in 0..self.rng.usize(1..4) {
            let (key, path) = self.any_key();
            let value = match self.rng.u32(..4) {
                0 => Some(
                    service(key.id.trim_start_matches("greeter-"), "127.0.0.1:9")
                        .to_json()
                        .into_bytes(),
                ),
                1 => Some(b"{\xff".to_vec()),
                2 => Some(service("elsewhere", "127.0.0.1:9").to_json().into_bytes()),
                _ => None,
            };
            changes.insert(path, value);
        }
        let changes: Vec<_> = changes.into_iter().collect();
        let (etcd, address) = (Arc::clone(&self.shared.etcd), self.shared.address);
        let shown: Vec<_> = changes
            .iter()
            .map(|(path, value)| (String::from_utf8_lossy(path), value.as_ref().map(Vec::len)))
            .collect();
        self.log(format!("by hand: {shown:?}"));
        self.until(async {
            let _up = etcd.read().await;
            gateway::write(address, &changes).await;
        })
        .await;
    }

    async fn revoke_one(&mut self) {
        let (key, path) = self.any_key();
        let (etcd, address) = (Arc::clone(&self.shared.etcd), self.shared.address);
        self.log(format!("the lease of {} is revoked", key.id));
        self.until(async {
            let _up = etcd.read().await;
            match gateway::lease_of(address, &path).await {
                None | Some(0) => {}
                Some(lease) => gateway::revoke_if_there(address, lease).await,
            }
        })
        .await;
    }

    /// Blocks the connection for a while: data is held back, or dropped.
    async fn cut_off(&mut self) {
        let length = MIN_FAULT + (MAX_FAULT - MIN_FAULT).mul_f64(self.rng.f64());
        let kind = self.rng.u32(..3);
        self.log(format!("cut off for {length:?}, kind {kind}"));
        match kind {
            0 => self.proxy.freeze(true),
            1 => self.proxy.swallow(true),
            _ => self.proxy.swallow_answers(true),
        }
        self.wait(length).await;
        self.proxy.freeze(false);
        self.proxy.swallow(false);
    }

    async fn wait(&mut self, duration: Duration) {
        self.until(sleep(duration)).await;
    }

    /// Waits for something, and checks the snapshot whenever it changes.
    async fn until<T>(&mut self, something: impl Future<Output = T>) -> T {
        let mut something = pin!(something);
        loop {
            let done = tokio::select! {
                _ = self.subscription.changed() => None,
                done = &mut something => Some(done),
            };
            self.check_snapshot();
            if let Some(done) = done {
                return done;
            }
        }
    }

    /// Checks that no live node is missing from the snapshot within its grace period.
    fn check_snapshot(&mut self) {
        let (next, now) = (self.subscription.snapshot(), Instant::now());
        for entry in self.last.confirmed().chain(next.confirmed()) {
            self.seen
                .insert(entry.node.id.clone(), (entry.node.address.clone(), now));
        }
        self.last = next;
        let confirmed: Vec<_> = self.last.confirmed().map(|entry| &entry.node.id).collect();
        let suspects: Vec<_> = self
            .last
            .suspects()
            .map(|suspect| &suspect.entry.node.id)
            .collect();
        assert!(
            !confirmed.iter().any(|id| suspects.contains(id)),
            "confirmed and suspect at once: {:?}",
            self.last
        );
        for server in self
            .servers
            .iter()
            .filter(|server| !confirmed.contains(&&server.id) && !suspects.contains(&&server.id))
        {
            let seen = self
                .seen
                .get(&server.id)
                .filter(|(address, _)| *address == server.address);
            let for_too_long = seen.is_none_or(|(_, at)| now >= *at + GRACE);
            assert!(
                for_too_long,
                "{}: {} is alive, and missing from the snapshot: {:?}",
                self.name, server.id, self.last
            );
        }
    }

    /// Waits until every server is registered with its current metadata, and the confirmed nodes
    /// are those of a fresh list, byte for byte.
    async fn until_recovered(&mut self) {
        let begun = Instant::now();
        loop {
            let fresh = self.fresh().await;
            let all_in = fresh
                .as_ref()
                .is_some_and(|fresh| self.servers.iter().all(|server| server.is_in(fresh)));
            let confirmed: Vec<_> = self.last.confirmed().cloned().collect();
            if all_in
                && self.last.outage.is_none()
                && fresh.as_ref().map(|fresh| records(fresh)) == Some(records(&confirmed))
            {
                self.log(format!("recovered after {:?}", begun.elapsed()));
                return;
            }
            let differs = format!(
                "confirmed {:?}, fresh {:?}",
                records(&confirmed),
                fresh.map(|fresh| records(&fresh))
            );
            assert!(
                begun.elapsed() < PATIENCE,
                "{}: all in: {all_in}; {differs}; {:?}",
                self.name,
                self.last.outage
            );
            self.wait(Duration::from_millis(100)).await;
        }
    }

    async fn fresh(&mut self) -> Option<Vec<Entry>> {
        let reader = self.reader.clone();
        match self.until(reader.get_service("greeter")).await {
            Ok(services) => Some(services.iter().flat_map(Service::entries).collect()),
            Err(Error::NotFound { .. }) => Some(Vec::new()),
            Err(_) => None,
        }
    }

    async fn close(self) {
        for server in self.servers {
            // On a busy machine it may time out; the record then expires.
            let _ = server.registration.close().await;
            let _ = server.registry.close().await;
        }
        timeout(PATIENCE, self.directory.close()).await.unwrap();
        for registry in [self.client, self.reader] {
            registry.close().await.unwrap();
        }
    }
}

impl Server {
    fn is_in(&self, fresh: &[Entry]) -> bool {
        let step = self.registration.service().nodes[0]
            .metadata
            .get("step")
            .map(str::to_owned);
        fresh.iter().any(|entry| {
            let node = &entry.node;
            node.id == self.id
                && node.address == self.address
                && node.metadata.get("step").map(str::to_owned) == step
        })
    }
}

/// Returns the bytes of the records, sorted.
fn records(entries: &[Entry]) -> Vec<String> {
    let mut records: Vec<_> = entries
        .iter()
        .map(|entry| entry.to_service().to_json())
        .collect();
    records.sort();
    records
}
