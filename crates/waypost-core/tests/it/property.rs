//! Seeded simulation of registrations and directories with the memory registry, in paused time.
//! After any mixture of faults and registrations, the confirmed nodes equal the content of the
//! registry.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use fastrand::Rng;
use tokio::runtime::{Builder, Handle};
use tokio::time::{Instant, sleep};
use waypost_conformance::{CaseLog, seeds};
use waypost_core::directory::{Config, Directory, Snapshot, Subscription};
use waypost_core::memory::MemoryRegistry;
use waypost_core::record::{Entry, Key, Node, Service, ServiceName};
use waypost_core::registrar::Registration;
use waypost_core::registry::{AnyRegistry, Error, Registry};

use crate::directory::ids;

/// Grace period of a lost node, less the rounding of tokio's clock.
const GRACE: Duration = Duration::from_millis(15_000 - 5);
/// Maximum time of the recovery: the TTL of the killed servers, the grace period of their suspects,
/// and a margin.
const WELL_AGAIN: Duration = Duration::from_secs(15 + 15 + 10);
const STEPS: usize = 60;

#[test]
fn whatever_happens_the_confirmed_are_what_is_registered() {
    for seed in seeds(200) {
        // The registrars draw from the generator of the thread.
        fastrand::seed(seed);
        let runtime = Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(play(CaseLog::new(
            "-p waypost-core --test it whatever_happens",
            seed,
        )));
    }
}

async fn play(log: CaseLog) {
    let mut world = World::new(log);
    for _ in 0..3 {
        world.start();
    }
    for _ in 0..STEPS {
        let rest = Duration::from_millis(world.rng.u64(0..2_000));
        world.wait(rest).await;
        world.happen().await;
        if world.is_well_behaved() {
            world.backoff_ends().await;
            world.wait(Duration::from_millis(5)).await;
            world.is_what_is_registered().await;
        }
    }
    world.record("no more faults");
    world.faults_end();
    world.wait(WELL_AGAIN).await;
    world.is_what_is_registered().await;
    world.is_well().await;
    world.close().await;
}

/// Server at a unique address.
struct Server {
    registry: AnyRegistry,
    registration: Registration,
    id: String,
    address: String,
}

/// Client that subscribes to the service.
struct Client {
    registry: AnyRegistry,
    directory: Directory,
    subscription: Subscription,
    last: Snapshot,
    /// Address and time of the last confirmation of each node.
    seen: BTreeMap<String, (String, Instant)>,
}

struct World {
    rng: Rng,
    log: CaseLog,
    begun: Instant,
    memory: MemoryRegistry,
    servers: Vec<Server>,
    clients: [Client; 2],
    unreachable: bool,
    /// End of the first backoff of a client that was created during an outage.
    backoff_until: Option<Instant>,
    delay: Duration,
    /// Id whose holder is leaving. A client may see the record of another server with the same id
    /// replaced and removed in one snapshot.
    leaving: Option<String>,
    /// Number of steps during which responses may be lost.
    losing: u32,
    started: u32,
}

fn name() -> ServiceName {
    "greeter".parse().unwrap()
}

fn record(id: &str, address: &str) -> Service {
    let mut service = Service::new("greeter");
    service.nodes.push(Node::with_id("greeter", id, address));
    service
}

impl World {
    fn new(log: CaseLog) -> Self {
        let memory = MemoryRegistry::new();
        let clients = [Client::new(&memory), Client::new(&memory)];
        let rng = Rng::with_seed(log.seed());
        let (begun, delay) = (Instant::now(), Duration::ZERO);
        Self {
            rng,
            log,
            begun,
            memory,
            servers: Vec::new(),
            clients,
            unreachable: false,
            backoff_until: None,
            leaving: None,
            delay,
            losing: 0,
            started: 0,
        }
    }

    fn record(&self, what: impl std::fmt::Display) {
        self.log.record(format!(
            "{:8.3} s {what}",
            self.begun.elapsed().as_secs_f64()
        ));
    }

    async fn happen(&mut self) {
        match self.losing {
            1 => self.no_answer_is_lost(),
            losing => self.losing = losing.saturating_sub(1),
        }
        match self.rng.u32(..100) {
            0..15 => self.start(),
            15..25 => self.leave().await,
            25..30 => self.die(),
            30..45 => self.change_metadata(),
            45..55 => self.expire(),
            55..70 => self.write_by_hand(),
            70..75 => {
                self.record("cut");
                self.memory.faults().cut();
            }
            75..80 => self.be_unreachable(true),
            80..88 => self.be_unreachable(false),
            88..92 => {
                let answers = self.rng.u32(1..6);
                self.record(format!("{answers} answers are lost"));
                self.memory.faults().lose_answers(answers);
                self.losing = 5;
            }
            92..98 => {
                let delay = self.rng.choice([0, 0, 100, 1_500, 3_000]).unwrap();
                self.set_delay(Duration::from_millis(delay));
            }
            _ => {
                self.record("another client");
                let client = self.rng.usize(..self.clients.len());
                let old = std::mem::replace(&mut self.clients[client], Client::new(&self.memory));
                if self.unreachable {
                    self.backoff_until = Some(Instant::now() + Config::default().backoff.initial);
                }
                old.close().await;
            }
        }
    }

    /// Starts a server, sometimes with an id that another one has.
    fn start(&mut self) {
        if self.servers.len() >= 8 {
            return;
        }
        let id = self.rng.u32(..8).to_string();
        self.started += 1;
        let address = format!("10.0.0.1:{}", self.started);
        self.record(format!("{id} starts at {address}"));
        let registry = AnyRegistry::new(self.memory.open());
        let registration = Registration::builder(registry.clone(), record(&id, &address))
            .start()
            .unwrap();
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
        self.record(format!("{} leaves", server.id));
        self.leaving = Some(server.id.clone());
        // The registration cannot leave while the registry is unreachable. Its record expires.
        let _ = self.until(server.registration.close()).await;
        server.registry.close().await.unwrap();
        self.wait(Duration::from_millis(1)).await;
        self.leaving = None;
        for client in &mut self.clients {
            client.seen.remove(&server.id);
        }
    }

    fn die(&mut self) {
        if let Some(server) = self.take_one() {
            self.record(format!("{} dies", server.id));
        }
    }

    fn change_metadata(&mut self) {
        if let Some(server) = self.rng.choice(&self.servers) {
            let step = self.rng.u32(..).to_string();
            self.record(format!("{} is changed to {step}", server.id));
            server.registration.set_metadata("step", step).unwrap();
        }
    }

    fn any_key(&mut self) -> Key {
        Key {
            service: "greeter".into(),
            id: format!("greeter-{}", self.rng.u32(..9)),
        }
    }

    fn expire(&mut self) {
        let key = self.any_key();
        self.record(format!("{} runs out", key.id));
        self.memory.faults().expire(&key);
    }

    /// Writes some records at one instant: another node's record, garbage, or a deletion. Records
    /// without an owner are deleted in the end.
    fn write_by_hand(&mut self) {
        let mut changes = Vec::new();
        for _ in 0..self.rng.usize(1..4) {
            let key = self.any_key();
            let id = key.id.trim_start_matches("greeter-").to_owned();
            let bytes = match self.rng.u32(..4) {
                0 => Some(record(&id, "10.9.9.9:9").to_json().into_bytes()),
                1 => Some(b"garbage".to_vec()),
                2 => Some(record("another", "10.9.9.9:9").to_json().into_bytes()),
                _ => None,
            };
            changes.push((key, bytes));
        }
        self.record(format!(
            "by hand: {:?}",
            changes
                .iter()
                .map(|(key, bytes)| (&key.id, bytes.is_some()))
                .collect::<Vec<_>>()
        ));
        self.memory.faults().batch(changes);
    }

    fn be_unreachable(&mut self, unreachable: bool) {
        if self.unreachable != unreachable {
            self.record(if unreachable {
                "unreachable"
            } else {
                "reachable"
            });
        }
        self.unreachable = unreachable;
        self.memory.faults().set_unreachable(unreachable);
    }

    fn set_delay(&mut self, delay: Duration) {
        self.record(format!("answers take {delay:?}"));
        self.delay = delay;
        self.memory.faults().set_delay(delay);
    }

    fn faults_end(&mut self) {
        self.be_unreachable(false);
        self.set_delay(Duration::ZERO);
        self.no_answer_is_lost();
    }

    fn no_answer_is_lost(&mut self) {
        self.losing = 0;
        self.memory.faults().lose_answers(0);
    }

    fn is_well_behaved(&self) -> bool {
        !self.unreachable && self.delay.is_zero() && self.losing == 0
    }

    /// Waits until a client that was created in an outage has tried again. Any other client is
    /// notified of the end of the outage.
    async fn backoff_ends(&mut self) {
        if let Some(until) = self.backoff_until.take() {
            self.wait(until.saturating_duration_since(Instant::now()))
                .await;
        }
    }

    async fn wait(&mut self, duration: Duration) {
        self.until(sleep(duration)).await;
    }

    /// Waits for a future, and checks the snapshots whenever one changes.
    async fn until<T>(&mut self, something: impl Future<Output = T>) -> T {
        let mut something = pin!(something);
        loop {
            let [one, another] = &mut self.clients;
            let done = tokio::select! {
                _ = one.subscription.changed() => None,
                _ = another.subscription.changed() => None,
                done = &mut something => Some(done),
            };
            self.look();
            if let Some(done) = done {
                return done;
            }
        }
    }

    /// Asserts that no live node is removed from a snapshot within its grace period.
    fn look(&mut self) {
        let now = Instant::now();
        for client in &mut self.clients {
            client.look(now);
            let (confirmed, suspects) = ids(&client.last);
            assert!(
                !confirmed.iter().any(|id| suspects.contains(id)),
                "confirmed and suspect at once: {:?}",
                client.last
            );
            for server in self
                .servers
                .iter()
                .filter(|server| self.leaving.as_ref() != Some(&server.id))
                .filter(|server| !client.knows(&server.id))
            {
                let seen = client
                    .seen
                    .get(&server.id)
                    .filter(|(address, _)| *address == server.address);
                let for_too_long = seen.is_none_or(|(_, at)| now >= *at + GRACE);
                assert!(
                    for_too_long,
                    "{} lives, and is out of the picture within its grace: {:?}",
                    server.id, client.last
                );
            }
        }
    }

    /// Asserts that the confirmed nodes equal a fresh list, byte for byte. Changes during the
    /// request are emitted a moment later, so the comparison is repeated.
    async fn is_what_is_registered(&mut self) {
        for _ in 0..4 {
            let fresh = self.fresh().await;
            if self
                .clients
                .iter()
                .all(|client| records(client.last.confirmed()) == fresh)
            {
                break;
            }
            self.wait(Duration::from_millis(2)).await;
        }
        let fresh = self.fresh().await;
        for client in &self.clients {
            assert!(
                client.last.synced && client.last.outage.is_none(),
                "{:?}",
                client.last
            );
            assert_eq!(
                records(client.last.confirmed()),
                fresh,
                "confirmed, and a fresh list"
            );
        }
    }

    async fn fresh(&self) -> Vec<String> {
        match self.memory.get_service("greeter").await {
            Ok(services) => records(
                services
                    .iter()
                    .flat_map(Service::entries)
                    .collect::<Vec<_>>()
                    .iter(),
            ),
            Err(Error::NotFound { .. }) => Vec::new(),
            Err(error) => panic!("{}", error.chain()),
        }
    }

    /// Asserts that each server's id is registered with its own or another server's current record,
    /// and that there are no suspects.
    async fn is_well(&mut self) {
        let snapshot = self.clients[0].subscription.snapshot();
        assert!(
            self.clients
                .iter()
                .all(|client| client.subscription.snapshot().suspects().len() == 0)
        );
        for server in &self.servers {
            let found = snapshot
                .confirmed()
                .find(|entry| entry.node.id == server.id);
            let holder = found.and_then(|entry| {
                self.servers
                    .iter()
                    .find(|server| server.address == entry.node.address)
            });
            let (Some(found), Some(holder)) = (found, holder) else {
                panic!("{} is not in: {found:?}", server.id)
            };
            assert!(
                holder.registration.state().is_registered(),
                "{:?}",
                holder.registration
            );
            let step = holder.registration.service().nodes[0]
                .metadata
                .get("step")
                .map(str::to_owned);
            assert_eq!(
                found.node.metadata.get("step").map(str::to_owned),
                step,
                "its metadata"
            );
        }
    }

    /// Closes all servers and clients, and asserts that no task is left.
    async fn close(self) {
        for server in self.servers {
            server.registration.close().await.unwrap();
            server.registry.close().await.unwrap();
        }
        for client in self.clients {
            client.close().await;
        }
        // Aborted tasks end after one poll of the runtime.
        sleep(Duration::from_millis(1)).await;
        assert_eq!(
            Handle::current().metrics().num_alive_tasks(),
            0,
            "tasks are left"
        );
    }
}

impl Client {
    fn new(memory: &MemoryRegistry) -> Self {
        let registry = AnyRegistry::new(memory.open());
        let directory = Directory::new(registry.clone(), Config::default());
        let subscription = directory.subscribe(&name()).unwrap();
        let last = subscription.snapshot();
        Self {
            registry,
            directory,
            subscription,
            last,
            seen: BTreeMap::new(),
        }
    }

    /// Takes the current snapshot. The previous one counts as confirmed until now.
    fn look(&mut self, now: Instant) {
        let next = self.subscription.snapshot();
        for entry in self.last.confirmed().chain(next.confirmed()) {
            self.seen
                .insert(entry.node.id.clone(), (entry.node.address.clone(), now));
        }
        self.last = next;
    }

    fn knows(&self, id: &str) -> bool {
        let (confirmed, suspects) = ids(&self.last);
        confirmed.contains(&id) || suspects.contains(&id)
    }

    async fn close(self) {
        self.directory.close().await;
        self.registry.close().await.unwrap();
    }
}

/// Returns the encoded records, sorted.
fn records<'a>(entries: impl Iterator<Item = &'a Entry>) -> Vec<String> {
    let mut records: Vec<_> = entries.map(|entry| entry.to_service().to_json()).collect();
    records.sort();
    records
}
