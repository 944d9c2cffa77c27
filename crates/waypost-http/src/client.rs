//! A client: one directory, and the peers of every service in use, shared by all its channels.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use waypost_core::attempt::{Budget, BudgetConfig};
use waypost_core::balance::Balancer;
use waypost_core::directory::{self, Directory};
use waypost_core::peer::Settings;
use waypost_core::record::ServiceName;
use waypost_core::registry::{AnyRegistry, Error, Registry};

use crate::connect::{AddressPolicy, Connect, TcpConnect};
use crate::link::Link;
use crate::peers::{Hub, Peers};
use crate::protocol::Protocol;
use crate::sender::{ChannelConfig, Sender};

/// What the channels of a client share.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// How the picture of each service is kept.
    pub directory: directory::Config,
    /// How long dialling and the server's hello may take together. Default 2 s.
    pub connect_timeout: Duration,
    /// The back-off of connecting. Default 50 ms to 5 s.
    pub connecting: Settings,
    /// What retries may cost each service. Default 20 % of its calls and ten a second.
    pub budget: BudgetConfig,
    /// Which addresses may be dialled. Default: loopback only where the registry is of this host.
    pub addresses: Option<AddressPolicy>,
    /// How many calls may wait for a peer of one service; one more fails at once. Default 1 024.
    pub waiting_calls: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            directory: directory::Config::default(),
            connect_timeout: Duration::from_secs(2),
            connecting: Settings::default(),
            budget: BudgetConfig::default(),
            addresses: None,
            waiting_calls: 1024,
        }
    }
}

/// Finds services and calls them. Clones are the same client.
#[derive(Clone, Debug)]
pub struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    directory: Directory,
    config: Arc<Config>,
    connect: Arc<dyn Connect>,
    policy: AddressPolicy,
    stop: watch::Sender<bool>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    hubs: HashMap<ServiceName, Arc<Hub>>,
    tasks: JoinSet<()>,
}

impl Client {
    /// A client of `registry` over TCP; nothing is watched or connected until the first call.
    pub fn new(registry: AnyRegistry, config: Config) -> Self {
        Self::with_connect(registry, config, TcpConnect)
    }

    /// A client that makes its connections in its own way.
    pub fn with_connect(registry: AnyRegistry, config: Config, connect: impl Connect) -> Self {
        let policy = config.addresses.unwrap_or(AddressPolicy { loopback: registry.options().on_this_host });
        let directory = Directory::new(registry, config.directory.clone());
        let stop = watch::channel(false).0;
        Self(Arc::new(Inner {
            directory,
            config: Arc::new(config),
            connect: Arc::new(connect),
            policy,
            stop,
            state: Mutex::default(),
        }))
    }

    /// The client's picture of the services in use.
    pub fn directory(&self) -> &Directory {
        &self.0.directory
    }

    /// Makes calls to one service.
    pub fn sender(&self, service: ServiceName, config: ChannelConfig, protocol: Arc<dyn Protocol>) -> Sender {
        Sender::new(self.clone(), service, config, protocol)
    }

    pub(crate) fn config(&self) -> &Config {
        &self.0.config
    }

    /// The hub of a service, which a channel's balancers join; the first to ask starts its watch and its task, on the runtime that this
    /// is called in.
    pub(crate) fn hub<'a>(
        &self,
        service: &ServiceName,
        balancers: impl Iterator<Item = &'a Arc<Balancer<Link>>>,
    ) -> Result<Arc<Hub>, Error> {
        let mut state = self.0.lock();
        if state.closed {
            return Err(Error::Closed);
        }
        let hub = match state.hubs.get(service) {
            Some(hub) => Arc::clone(hub),
            None => self.start_hub(&mut state, service)?,
        };
        balancers.for_each(|balancer| hub.join(balancer));
        Ok(hub)
    }

    fn start_hub(&self, state: &mut State, service: &ServiceName) -> Result<Arc<Hub>, Error> {
        while state.tasks.try_join_next().is_some() {}
        let subscription = self.0.directory.subscribe(service)?;
        let budget = Budget::new(self.0.config.budget, Instant::now());
        let hub = Arc::new(Hub::new(subscription, budget));
        state.hubs.insert(service.clone(), Arc::clone(&hub));
        let peers = Peers::new(Arc::clone(&hub), Arc::clone(&self.0.config), Arc::clone(&self.0.connect), self.0.policy);
        let (inner, service) = (Arc::downgrade(&self.0), service.clone());
        let forget = move || Weak::upgrade(&inner).is_none_or(|inner| inner.forget(&service));
        state.tasks.spawn(peers.run(self.0.stop.subscribe(), forget));
        Ok(hub)
    }

    /// Ends everything: calls in flight fail, connections close, watches stop, and every task has ended when this returns. The registry
    /// stays open: it is its owner's to close.
    pub async fn close(&self) {
        let mut tasks = {
            let mut state = self.0.lock();
            state.closed = true;
            state.hubs.clear();
            std::mem::take(&mut state.tasks)
        };
        self.0.stop.send_replace(true);
        while tasks.join_next().await.is_some() {}
        self.0.directory.close().await;
    }
}

impl Inner {
    /// Forgets the hub of a service that no channel uses; false if one does by now.
    fn forget(&self, service: &ServiceName) -> bool {
        let mut state = self.lock();
        let idle = state.hubs.get(service).is_none_or(|hub| hub.is_idle());
        if idle {
            state.hubs.remove(service);
        }
        idle
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
