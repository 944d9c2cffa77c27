//! The peers of one service: the one task that connects them, notices what happens to them, and tells the balancers who is ready.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use http::uri::Authority;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use waypost_core::attempt::Budget;
use waypost_core::balance::{Balancer, Candidate};
use waypost_core::directory::{Snapshot, Subscription};
use waypost_core::peer::{
    Action, Connection as State, ConnectionId, Event, Exclusion, Health, Machine, Membership, Peer, PeerId, Wish,
};
use waypost_core::record::{Address, Entry};

use crate::client::Config;
use crate::connect::{AddressPolicy, Connect};
use crate::connection::{Connection, Driver, News, Report, Reporter};
use crate::link::{Link, Room};

/// What the calls of one service share.
#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) subscription: Subscription,
    pub(crate) budget: Budget,
    pub(crate) room: Arc<Room>,
    balancers: Mutex<Vec<Weak<Balancer<Link>>>>,
    /// How many balancers have ever joined.
    joined: AtomicU64,
}

impl Hub {
    pub(crate) fn new(subscription: Subscription, budget: Budget) -> Self {
        Self { subscription, budget, room: Arc::default(), balancers: Mutex::default(), joined: AtomicU64::new(0) }
    }

    /// Adds a channel's balancer; it is told from now on who is ready.
    pub(crate) fn join(&self, balancer: &Arc<Balancer<Link>>) {
        let mut balancers = self.lock();
        if balancers.iter().any(|other| Weak::as_ptr(other) == Arc::as_ptr(balancer)) {
            return;
        }
        balancers.push(Arc::downgrade(balancer));
        self.joined.fetch_add(1, Relaxed);
        self.room.wake.notify_one();
    }

    /// Whether no channel uses it.
    pub(crate) fn is_idle(&self) -> bool {
        self.balancers().is_empty()
    }

    fn balancers(&self) -> Vec<Arc<Balancer<Link>>> {
        let mut balancers = self.lock();
        balancers.retain(|balancer| balancer.strong_count() > 0);
        balancers.iter().filter_map(Weak::upgrade).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<Balancer<Link>>>> {
        self.balancers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One node, and all that is done about it.
struct Tracked {
    entry: Entry,
    membership: Membership,
    address: Result<Address, Exclusion>,
    link: Arc<Link>,
    machine: Machine,
    ready: BTreeMap<ConnectionId, Arc<Connection>>,
    answering: HashMap<ConnectionId, bool>,
}

impl Tracked {
    fn new(entry: Entry, now: Instant, config: &Config, policy: &AddressPolicy, room: &Arc<Room>) -> Self {
        let address = dialable(&entry.node.address, policy);
        let authority = Authority::try_from(entry.node.address.as_str()).unwrap_or_else(|_| Authority::from_static("invalid"));
        let peer = Arc::new(Peer::new(entry.clone(), now));
        Self {
            entry,
            membership: Membership::Confirmed,
            address,
            link: Arc::new(Link::new(peer, authority, Arc::clone(room))),
            machine: Machine::new(config.connecting, fastrand::Rng::new()),
            ready: BTreeMap::new(),
            answering: HashMap::new(),
        }
    }

    fn peer(&self) -> &Peer {
        &self.link.peer
    }

    fn stalled(&self) -> bool {
        !self.ready.is_empty() && !self.answering.values().any(|answering| *answering)
    }

    fn observe(&self, now: Instant) {
        self.peer().observe(now, self.membership, self.machine.connection(), self.stalled());
    }

    /// Why it cannot be picked now, whatever the channel.
    fn hindrance(&self) -> Option<Exclusion> {
        if self.membership == Membership::Leaving {
            return Some(Exclusion::Leaving);
        }
        match (&self.address, self.machine.connection()) {
            (Err(refused), _) => Some(*refused),
            (_, State::Ready) if self.stalled() => Some(Exclusion::Stalled),
            (_, State::Ready) => None,
            (_, State::Draining) => Some(Exclusion::Draining),
            _ => Some(Exclusion::NotConnected),
        }
    }

    fn share_connections(&self) {
        self.link.connections.store(Arc::new(self.ready.values().cloned().collect()));
    }

    fn lose(&mut self, id: ConnectionId) {
        self.ready.remove(&id);
        self.answering.remove(&id);
        self.share_connections();
    }
}

fn dialable(address: &str, policy: &AddressPolicy) -> Result<Address, Exclusion> {
    let address: Address = address.parse().map_err(|_| Exclusion::AddressRefused)?;
    if policy.allows_host(&address.host) && Authority::try_from(address.to_string()).is_ok() {
        Ok(address)
    } else {
        Err(Exclusion::AddressRefused)
    }
}

/// The task.
pub(crate) struct Peers {
    hub: Arc<Hub>,
    config: Arc<Config>,
    connect: Arc<dyn Connect>,
    policy: AddressPolicy,
    tracked: BTreeMap<u64, Tracked>,
    keys: HashMap<PeerId, u64>,
    next_key: u64,
    tasks: JoinSet<(u64, ConnectionId, Result<(), String>)>,
    dialling: Arc<Semaphore>,
    reports: mpsc::Sender<Report>,
    news: mpsc::Receiver<Report>,
    generation: Option<u64>,
    admitted: Admitted,
}

/// What each balancer said of each node, as long as it says the same.
#[derive(Default)]
struct Admitted {
    of: Option<(u64, u64, usize)>,
    verdicts: Vec<BTreeMap<u64, Result<(), Exclusion>>>,
}

const CONNECTS_AT_ONCE: usize = 16;
const CONNECTIONS_AT_MOST: usize = 8;
/// So many connections in all let a client and a few nodes work side by side rather than in lock step.
const CONNECTIONS_IN_ALL: usize = 4;

impl Peers {
    pub(crate) fn new(hub: Arc<Hub>, config: Arc<Config>, connect: Arc<dyn Connect>, policy: AddressPolicy) -> Self {
        let (reports, news) = mpsc::channel(256);
        Self {
            hub,
            config,
            connect,
            policy,
            tracked: BTreeMap::new(),
            keys: HashMap::new(),
            next_key: 0,
            tasks: JoinSet::new(),
            dialling: Arc::new(Semaphore::new(CONNECTS_AT_ONCE)),
            reports,
            news,
            generation: None,
            admitted: Admitted::default(),
        }
    }

    /// Runs until told to stop, or until no channel has used the service for the idle time and it may be forgotten; then closes every
    /// connection.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>, forget: impl Fn() -> bool) {
        let hub = Arc::clone(&self.hub);
        let mut subscription = hub.subscription.clone();
        let mut idle_since = None;
        loop {
            self.settle(&subscription.snapshot());
            let wake = self.next_wake();
            idle_since = hub.is_idle().then(|| idle_since.unwrap_or_else(now));
            let idle_until = idle_since.map(|since| since + self.config.directory.idle_watch);
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                changed = subscription.changed() => if !changed { break },
                () = hub.room.wake.notified() => {}
                Some((key, id, news)) = self.news.recv() => self.take_news(key, id, news),
                Some(ended) = self.tasks.join_next() => if let Ok((key, id, result)) = ended {
                    self.take_end(key, id, result);
                },
                () = sleep_until(wake.unwrap_or_else(now)), if wake.is_some() => self.tick(),
                () = sleep_until(idle_until.unwrap_or_else(now)), if idle_until.is_some() => if forget() { break },
            }
            self.take_all_that_is_there();
        }
        self.tracked.clear();
        for balancer in hub.balancers() {
            balancer.publish(Vec::new());
        }
        hub.room.closed.store(true, Relaxed);
        hub.room.freed.notify_waiters();
        self.tasks.shutdown().await;
    }

    fn take_all_that_is_there(&mut self) {
        while let Ok((key, id, news)) = self.news.try_recv() {
            self.take_news(key, id, news);
        }
        while let Some(Ok((key, id, result))) = self.tasks.try_join_next() {
            self.take_end(key, id, result);
        }
    }

    fn next_wake(&self) -> Option<Instant> {
        let now = now();
        self.tracked.values().filter_map(|tracked| tracked.machine.next_wake(now)).min()
    }

    fn tick(&mut self) {
        let keys: Vec<_> = self.tracked.keys().copied().collect();
        for key in keys {
            self.step(key, Event::Tick);
        }
    }

    fn take_news(&mut self, key: u64, id: ConnectionId, news: News) {
        let Some(tracked) = self.tracked.get_mut(&key) else { return };
        match news {
            News::Ready(connection) => {
                tracked.ready.insert(id, connection);
                tracked.answering.insert(id, true);
                tracked.share_connections();
                tracked.link.busy.store(false, Relaxed);
                tracing::debug!(node = %tracked.entry.node.id, "connected");
                self.step(key, Event::Ready(id));
            }
            News::GoAway(calm) => {
                tracked.lose(id);
                self.step(key, Event::GoAway(id, calm));
                self.share_patience(key);
            }
            News::Health(health) => {
                let fine = health == Health::Fine;
                if let Some(answering) = tracked.answering.get_mut(&id) {
                    *answering = fine;
                    tracing::debug!(node = %tracked.entry.node.id, ?health, "connection health");
                }
                // A second connection is tried beside one that is silent, not beside one that was merely asked.
                self.step(key, Event::Answering(id, health != Health::Silent));
            }
        }
    }

    fn share_patience(&self, key: u64) {
        if let Some(tracked) = self.tracked.get(&key) {
            tracked.link.patience.store(tracked.machine.patience(), Relaxed);
        }
    }

    fn take_end(&mut self, key: u64, id: ConnectionId, result: Result<(), String>) {
        let Some(tracked) = self.tracked.get_mut(&key) else { return };
        if let Err(why) = result {
            tracked.peer().note_failure(&why);
            tracing::debug!(node = %tracked.entry.node.id, why, "connection ended");
        }
        tracked.lose(id);
        self.step(key, Event::Ended(id));
    }

    fn step(&mut self, key: u64, event: Event) {
        let Some(tracked) = self.tracked.get_mut(&key) else { return };
        for action in tracked.machine.step(now(), event) {
            match action {
                Action::Connect(id) => {
                    let Ok(address) = tracked.address.clone() else { continue };
                    let reporter = Reporter { peer: key, id, news: self.reports.clone() };
                    let dial = Dial {
                        address,
                        policy: self.policy,
                        connect: Arc::clone(&self.connect),
                        timeout: self.config.connect_timeout,
                        patience: tracked.machine.patience(),
                        turn: Arc::clone(&self.dialling),
                    };
                    self.tasks.spawn(async move { (key, id, dial.run(&reporter).await) });
                }
                Action::Drain(id) => {
                    if let Some(connection) = tracked.ready.get(&id) {
                        connection.drain();
                    }
                    tracked.lose(id);
                }
            }
        }
    }

    /// Brings wishes, connections and ready sets in line with what is known now.
    fn settle(&mut self, snapshot: &Snapshot) {
        if self.generation != Some(snapshot.generation) {
            self.generation = Some(snapshot.generation);
            self.take_snapshot(snapshot);
        }
        let balancers = self.hub.balancers();
        let of = Some((snapshot.generation, self.hub.joined.load(Relaxed), balancers.len()));
        if self.admitted.of != of {
            self.admitted = Admitted { of, verdicts: self.admit(&balancers) };
            self.wish();
        }
        self.grow();
        self.forget_the_gone();
        self.publish(&balancers);
    }

    fn take_snapshot(&mut self, snapshot: &Snapshot) {
        let confirmed = snapshot.confirmed().map(|entry| (entry, Membership::Confirmed));
        let suspects = snapshot.suspects().map(|suspect| (&suspect.entry, Membership::Suspect));
        let mut present = HashMap::new();
        for (entry, membership) in confirmed.chain(suspects) {
            present.insert(self.track(entry), membership);
        }
        let keys: Vec<_> = self.tracked.keys().copied().collect();
        for key in keys {
            let Some(tracked) = self.tracked.get_mut(&key) else { continue };
            let was = std::mem::replace(&mut tracked.membership, present.get(&key).copied().unwrap_or(Membership::Leaving));
            if was != Membership::Confirmed && tracked.membership == Membership::Confirmed {
                self.step(key, Event::Announced);
            }
        }
    }

    fn track(&mut self, entry: &Entry) -> u64 {
        let id = PeerId::of(entry);
        if let Some(&key) = self.keys.get(&id) {
            if let Some(tracked) = self.tracked.get_mut(&key)
                && tracked.entry != *entry
            {
                tracked.entry = entry.clone();
                tracked.peer().describe(entry);
                self.step(key, Event::Announced);
            }
            return key;
        }
        let key = self.next_key;
        self.next_key += 1;
        let tracked = Tracked::new(entry.clone(), now(), &self.config, &self.policy, &self.hub.room);
        self.tracked.insert(key, tracked);
        self.keys.insert(id, key);
        key
    }

    /// What each balancer says of each node, nodes in the order of `tracked`.
    fn admit(&self, balancers: &[Arc<Balancer<Link>>]) -> Vec<BTreeMap<u64, Result<(), Exclusion>>> {
        let present = || self.tracked.iter().filter(|(_, tracked)| tracked.membership != Membership::Leaving);
        balancers
            .iter()
            .map(|balancer| {
                let verdicts = balancer.admit(present().map(|(_, tracked)| &tracked.entry));
                present().map(|(key, _)| *key).zip(verdicts).collect()
            })
            .collect()
    }

    fn wish(&mut self) {
        let keys: Vec<_> = self.tracked.keys().copied().collect();
        for key in keys {
            let verdicts = &self.admitted.verdicts;
            let tracked = &self.tracked[&key];
            // Without any channel, what is connected stays so until the service is let go: the next channel may come soon.
            let admitted = match verdicts.is_empty() {
                true => !tracked.machine.is_empty(),
                false => verdicts.iter().any(|verdicts| verdicts.get(&key).is_some_and(Result::is_ok)),
            };
            let wish = match tracked.membership {
                Membership::Confirmed if admitted => Wish::Connected,
                Membership::Suspect if admitted => Wish::Kept,
                _ => Wish::Dropped,
            };
            self.step(key, Event::Wish(wish));
        }
    }

    /// Opens another connection where calls found all of a peer's busy.
    fn grow(&mut self) {
        let ready = self.tracked.values().filter(|tracked| !tracked.ready.is_empty()).count().max(1);
        let keys: Vec<_> = self.tracked.keys().copied().collect();
        for key in keys {
            let tracked = &self.tracked[&key];
            if !tracked.link.busy.load(Relaxed) {
                continue;
            }
            let full = tracked.ready.values().all(|c| c.streams() >= c.limit() / 4 * 3);
            let most = if full { CONNECTIONS_AT_MOST } else { CONNECTIONS_IN_ALL.div_ceil(ready) };
            let connections = tracked.ready.len();
            if connections < most {
                self.step(key, Event::Demand(connections + 1));
            }
        }
    }

    fn forget_the_gone(&mut self) {
        let gone = |tracked: &Tracked| tracked.membership == Membership::Leaving && tracked.machine.is_empty();
        let keys = &mut self.keys;
        self.tracked.retain(|_, tracked| {
            let gone = gone(tracked);
            if gone {
                keys.remove(tracked.peer().id());
            }
            !gone
        });
    }

    fn publish(&self, balancers: &[Arc<Balancer<Link>>]) {
        let now = now();
        for tracked in self.tracked.values() {
            tracked.observe(now);
        }
        for (balancer, verdicts) in balancers.iter().zip(&self.admitted.verdicts) {
            let candidate = |(key, tracked): (&u64, &Tracked)| Candidate {
                item: Arc::clone(&tracked.link),
                hindrance: verdicts.get(key).and_then(|verdict| verdict.err()).or_else(|| tracked.hindrance()),
            };
            balancer.publish(self.tracked.iter().map(candidate).collect());
        }
    }
}

/// One connection to be made and driven.
struct Dial {
    address: Address,
    policy: AddressPolicy,
    connect: Arc<dyn Connect>,
    timeout: Duration,
    patience: u32,
    turn: Arc<Semaphore>,
}

impl Dial {
    async fn run(self, reporter: &Reporter) -> Result<(), String> {
        let (driver, connection) = {
            let _turn = self.turn.acquire().await.map_err(|error| error.to_string())?;
            let hello = timeout(self.timeout, self.hello()).await;
            hello.map_err(|_| format!("connect {}: no SETTINGS within {:?}", self.address, self.timeout))??
        };
        reporter.tell(News::Ready(connection)).await;
        driver.run(reporter).await.map_err(|error| format!("connection to {}: {error}", self.address))
    }

    async fn hello(&self) -> Result<(Driver, Arc<Connection>), String> {
        let failed = |why: &dyn std::fmt::Display| format!("connect {}: {why}", self.address);
        let io = self.connect.connect(&self.address, &self.policy).await.map_err(|error| failed(&error))?;
        Driver::handshake(io, self.patience).await.map_err(|error| failed(&error))
    }
}

fn now() -> Instant {
    Instant::now()
}
