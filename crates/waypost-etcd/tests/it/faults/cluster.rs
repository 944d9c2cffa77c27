//! Three members, each behind a proxy; faults of one member, and the activity meanwhile.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use waypost_core::registry::{Event, Registry, WatchOptions};
use waypost_testkit::Proxy;
use waypost_testkit::etcd::{Binary, Etcd, Options};

use crate::rig::{Figures, INTERVAL, PATIENCE, Rig, Server, TTL, url};

/// Outage of a member: longer than the life of a lease without keepalives.
const DOWN_TIME: Duration = Duration::from_secs(TTL.as_secs() + 2);
/// Outage of a leader.
const FROZEN: Duration = Duration::from_secs(9);
/// Time for which a resumed leader is observed: it learns of its successor, and its earlier
/// proposals are committed.
const AFTERMATH: Duration = Duration::from_secs(3);

/// Fault of one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// SIGKILL: connections are refused until it is started again.
    Killed,
    /// Requests and responses are dropped silently.
    CutOff,
    /// SIGSTOP of the leader for 9 s.
    LeaderFrozen,
}

/// Activity during the fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nodes register: some start before the fault, others after.
    Registering,
    /// Changes must be seen by earlier watchers and by new ones.
    Watching,
    /// Heartbeats only.
    Renewing,
}

pub(crate) struct Cluster {
    pub(crate) rig: Rig,
    proxies: Vec<Proxy>,
    at: String,
    rounds: usize,
}

impl Cluster {
    /// Starts three members, three nodes and a client.
    pub(crate) async fn start(binary: &Binary) -> Self {
        let etcd = Etcd::start(binary, &Options::three()).await.unwrap();
        let mut proxies = Vec::new();
        for address in etcd.addresses() {
            proxies.push(Proxy::start(address).await.unwrap());
        }
        let at = url(&proxies.iter().map(Proxy::address).collect::<Vec<_>>());
        Self {
            rig: Rig::on(etcd, &at, &at, 3).await,
            proxies,
            at,
            rounds: 0,
        }
    }

    /// Runs one round of the fault. Returns the number of nodes that vanished from etcd.
    pub(crate) async fn round(&mut self, fault: Fault, phases: &[Phase], name: &str) -> usize {
        self.rounds += 1;
        let (victim, node_count) = (self.victim(fault).await, self.rig.servers.len());
        let early = if phases.contains(&Phase::Registering) {
            2
        } else {
            0
        };
        (0..early).for_each(|_| self.begin_one());
        self.inject(fault, victim).await;
        let begun = Instant::now();
        (early..early + early / 2).for_each(|_| self.begin_one());
        let watches = phases.contains(&Phase::Watching);
        if watches {
            self.change_all();
        }
        let mut figures = if phases == [Phase::Renewing] {
            Figures::without_outage()
        } else {
            Figures::default()
        };
        self.rig.observe(&mut figures, begun, Duration::ZERO).await;
        if watches {
            self.watch_again().await;
        }
        self.prolong(fault, phases, &mut figures, begun).await;
        self.heal(fault, victim).await;
        self.rig
            .observe(
                &mut figures,
                begun,
                if fault == Fault::LeaderFrozen {
                    AFTERMATH
                } else {
                    INTERVAL
                },
            )
            .await;
        let vanished = self
            .rig
            .report(name, &figures)
            .await
            .expect("etcd knows its history");
        for server in self.rig.servers.split_off(node_count) {
            server.close().await;
        }
        self.rig.begin().await;
        vanished
    }

    pub(crate) async fn close(self) {
        self.rig.close().await;
    }

    /// Returns the member with most connections, or the leader.
    async fn victim(&self, fault: Fault) -> usize {
        match fault {
            Fault::LeaderFrozen => self.rig.etcd.leader().await.unwrap(),
            Fault::Killed | Fault::CutOff => (0..3)
                .max_by_key(|member| self.proxies[*member].open())
                .expect("there are three"),
        }
    }

    async fn inject(&mut self, fault: Fault, member: usize) {
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

    /// Extends the fault: to 9 s for a leader, and for other members if the test is about the
    /// renewal of leases.
    async fn prolong(
        &mut self,
        fault: Fault,
        phases: &[Phase],
        figures: &mut Figures,
        begun: Instant,
    ) {
        let lasting = match fault {
            Fault::LeaderFrozen => FROZEN,
            _ if phases.contains(&Phase::Renewing) => DOWN_TIME,
            _ => return,
        };
        let left = lasting.saturating_sub(begun.elapsed());
        self.rig.observe(figures, begun, left).await;
        sleep_until(begun + lasting).await;
    }

    fn begin_one(&mut self) {
        let id = self.rig.servers.len().to_string();
        self.rig.servers.push(Server::begin(&self.at, &id));
    }

    fn change_all(&self) {
        for server in &self.rig.servers {
            server
                .registration
                .set_metadata("round", self.rounds.to_string())
                .unwrap();
        }
    }

    /// Starts new watchers, each at a random member: all see every node.
    async fn watch_again(&self) {
        for _ in 0..3 {
            let registry = crate::open(&self.at);
            let mut watcher = registry
                .watch(&WatchOptions::service("greeter"))
                .await
                .unwrap();
            let begun = Instant::now();
            let seen = loop {
                assert!(begun.elapsed() < PATIENCE, "nothing is seen");
                match watcher.next().await.unwrap() {
                    Ok(Event::Reset(entries)) => break entries.len(),
                    Ok(other) => panic!("{other:?}"),
                    Err(error) => crate::capture_error(&error),
                }
            };
            assert_eq!(seen, self.rig.servers.len());
            registry.close().await.unwrap();
        }
    }
}

/// Waits for some heartbeats, without requests.
pub(crate) async fn heartbeats(count: u32) {
    sleep(INTERVAL * count).await;
}
