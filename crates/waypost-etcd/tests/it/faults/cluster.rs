//! Three members, each behind a proxy; what is done to one of them, and what goes on meanwhile.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use waypost_core::registry::{Event, Registry, WatchOptions};
use waypost_testkit::Proxy;
use waypost_testkit::etcd::{Binary, Etcd, Options};

use crate::rig::{Figures, INTERVAL, PATIENCE, Rig, Server, TTL, url};

/// How long a member is away: longer than a lease that nobody keeps.
const AWAY: Duration = Duration::from_secs(TTL.as_secs() + 2);
/// How long the leader is.
const FROZEN: Duration = Duration::from_secs(9);
/// How long a woken leader is watched: it hears of its successor, and what it had proposed meanwhile has happened.
const AFTERMATH: Duration = Duration::from_secs(3);

/// What happens to one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// SIGKILL: connections are refused until it is started again.
    Killed,
    /// What is sent to it and what it answers is dropped, and nobody is told.
    CutOff,
    /// SIGSTOP of the leader for 9 s.
    LeaderFrozen,
}

/// What goes on meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nodes register: begun before it, and after.
    Registering,
    /// Changes are to be seen by who has watched before, and by who begins to.
    Watching,
    /// Nothing but beats.
    Renewing,
}

pub(crate) struct Cluster {
    pub(crate) rig: Rig,
    proxies: Vec<Proxy>,
    at: String,
    rounds: usize,
}

impl Cluster {
    /// Three members, three nodes and a client.
    pub(crate) async fn start(binary: &Binary) -> Self {
        let etcd = Etcd::start(binary, &Options::three()).await.unwrap();
        let mut proxies = Vec::new();
        for address in etcd.addresses() {
            proxies.push(Proxy::start(address).await.unwrap());
        }
        let at = url(&proxies.iter().map(Proxy::address).collect::<Vec<_>>());
        Self { rig: Rig::on(etcd, &at, &at, 3).await, proxies, at, rounds: 0 }
    }

    /// One round of it, and how many nodes vanished from etcd.
    pub(crate) async fn round(&mut self, fault: Fault, phases: &[Phase], name: &str) -> usize {
        self.rounds += 1;
        let (victim, stood) = (self.victim(fault).await, self.rig.servers.len());
        let early = if phases.contains(&Phase::Registering) { 2 } else { 0 };
        (0..early).for_each(|_| self.begin_one());
        self.strike(fault, victim).await;
        let begun = Instant::now();
        (early..early + early / 2).for_each(|_| self.begin_one());
        let watches = phases.contains(&Phase::Watching);
        if watches {
            self.change_all();
        }
        let mut figures = if phases == [Phase::Renewing] { Figures::well() } else { Figures::default() };
        self.rig.look_on(&mut figures, begun, Duration::ZERO).await;
        if watches {
            self.watch_anew().await;
        }
        self.rest(fault, phases, &mut figures, begun).await;
        self.heal(fault, victim).await;
        self.rig.look_on(&mut figures, begun, if fault == Fault::LeaderFrozen { AFTERMATH } else { INTERVAL }).await;
        let vanished = self.rig.report(name, &figures).await.expect("etcd knows its history");
        for server in self.rig.servers.split_off(stood) {
            server.close().await;
        }
        self.rig.begin().await;
        vanished
    }

    pub(crate) async fn close(self) {
        self.rig.close().await;
    }

    /// The member that most connections lead to, or the leader.
    async fn victim(&self, fault: Fault) -> usize {
        match fault {
            Fault::LeaderFrozen => self.rig.etcd.leader().await.unwrap(),
            Fault::Killed | Fault::CutOff => (0..3).max_by_key(|member| self.proxies[*member].open()).expect("there are three"),
        }
    }

    async fn strike(&mut self, fault: Fault, member: usize) {
        match fault {
            Fault::Killed => {
                self.proxies[member].refuse(true).await.unwrap();
                self.rig.etcd.member(member).kill().await.unwrap();
            }
            Fault::CutOff => self.proxies[member].swallow(true),
            Fault::LeaderFrozen => self.rig.etcd.member(member).pause().unwrap(),
        }
    }

    async fn heal(&mut self, fault: Fault, member: usize) {
        match fault {
            Fault::Killed => {
                self.rig.etcd.member(member).start().unwrap();
                self.rig.etcd.member(member).serving().await.unwrap();
                self.proxies[member].refuse(false).await.unwrap();
            }
            Fault::CutOff => self.proxies[member].swallow(false),
            Fault::LeaderFrozen => self.rig.etcd.member(member).resume().unwrap(),
        }
    }

    /// The fault lasts on: a leader is always away for as long, other members where the test is that leases are kept.
    async fn rest(&mut self, fault: Fault, phases: &[Phase], figures: &mut Figures, begun: Instant) {
        let lasting = match fault {
            Fault::LeaderFrozen => FROZEN,
            _ if phases.contains(&Phase::Renewing) => AWAY,
            _ => return,
        };
        let left = lasting.saturating_sub(begun.elapsed());
        self.rig.look_on(figures, begun, left).await;
        sleep_until(begun + lasting).await;
    }

    fn begin_one(&mut self) {
        let id = self.rig.servers.len().to_string();
        self.rig.servers.push(Server::begin(&self.at, &id));
    }

    fn change_all(&self) {
        for server in &self.rig.servers {
            server.registration.set_metadata("round", self.rounds.to_string()).unwrap();
        }
    }

    /// Others begin to watch, wherever each of them begins: all is seen, though not more than that which stood before.
    async fn watch_anew(&self) {
        for _ in 0..3 {
            let registry = crate::open(&self.at);
            let mut watcher = registry.watch(&WatchOptions::service("greeter")).await.unwrap();
            let begun = Instant::now();
            let seen = loop {
                assert!(begun.elapsed() < PATIENCE, "nothing is seen");
                match watcher.next().await.unwrap() {
                    Ok(Event::Reset(entries)) => break entries.len(),
                    Ok(other) => panic!("{other:?}"),
                    Err(error) => crate::hear_error(&error),
                }
            };
            assert_eq!(seen, self.rig.servers.len());
            registry.close().await.unwrap();
        }
    }
}

/// A while in which nothing is asked of etcd.
pub(crate) async fn beats(count: u32) {
    sleep(INTERVAL * count).await;
}
