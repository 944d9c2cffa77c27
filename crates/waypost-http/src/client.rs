//! Client: one directory, and the pool of every service in use, shared by all its channels.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use waypost_core::balance::Filter;
use waypost_core::directory::Directory;
use waypost_core::record::ServiceName;
use waypost_core::registry::{AnyRegistry, Error};

use crate::config::ClientConfig;
use crate::conn::DialSlots;
use crate::conn::connect::{AddressPolicy, Connect, TcpConnect};
use crate::pool::{Limits, PoolShared, PoolTask, ServicePool};
use crate::retry::Budget;

/// Time for which [`Client::close`] waits for its tasks. A task on a runtime that is no longer
/// driven would never end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Client that discovers services and calls them. Clones are handles of the same client.
#[derive(Clone, Debug)]
pub struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    directory: Directory,
    shared: PoolShared,
    /// Filter of the nodes that the connector can reach.
    filter: Option<Filter>,
    stop: watch::Sender<bool>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    pools: HashMap<ServiceName, Arc<ServicePool>>,
    tasks: JoinSet<()>,
}

impl Client {
    /// Creates a client of `registry` over TCP. Nothing is watched or connected until the first
    /// call.
    pub fn new(registry: impl Into<AnyRegistry>, config: ClientConfig) -> Self {
        Self::with_connect(registry, config, TcpConnect)
    }

    /// Creates a client with a custom connector.
    pub fn with_connect(
        registry: impl Into<AnyRegistry>,
        config: ClientConfig,
        connect: impl Connect,
    ) -> Self {
        let registry = registry.into();
        let policy = config.addresses.unwrap_or(AddressPolicy {
            loopback: registry.options().on_this_host,
        });
        let (scheme, filter) = (connect.scheme(), connect.filter());
        let max_dials = config.max_dials;
        let directory = Directory::new(registry, config.directory.clone());
        let shared = PoolShared {
            connection: Arc::new(config.connection.clone()),
            config: Arc::new(config),
            connect: Arc::new(connect),
            scheme,
            policy,
            slots: DialSlots::new(max_dials),
            seed: fastrand::u64(..),
        };
        Self(Arc::new(Inner {
            directory,
            shared,
            filter,
            stop: watch::channel(false).0,
            state: Mutex::default(),
        }))
    }

    /// Returns the directory: the client's view of the services in use.
    pub fn directory(&self) -> &Directory {
        &self.0.directory
    }

    /// Returns the filter of the nodes that the connector can reach.
    pub(crate) fn filter(&self) -> Option<&Filter> {
        self.0.filter.as_ref()
    }

    /// Returns the pool of a service. The first use starts its task on the current runtime, and so
    /// does the first use after the task or its runtime has ended.
    pub(crate) fn pool(&self, service: &ServiceName) -> Result<Arc<ServicePool>, Error> {
        let mut state = self.0.lock();
        if state.closed {
            return Err(Error::Closed);
        }
        match state.pools.get(service) {
            Some(pool) if !pool.queue.is_closed() => Ok(Arc::clone(pool)),
            _ => self.start_pool(&mut state, service),
        }
    }

    fn start_pool(
        &self,
        state: &mut State,
        service: &ServiceName,
    ) -> Result<Arc<ServicePool>, Error> {
        while let Some(ended) = state.tasks.try_join_next() {
            if let Err(error) = ended
                && error.is_panic()
            {
                tracing::error!(%error, "pool task panicked; restarting");
            }
        }
        let runtime = Handle::try_current().map_err(|_| {
            Error::invalid(
                format!("cannot start the pool of service {service}"),
                "no Tokio runtime on this thread; call from within one",
            )
        })?;
        let config = &self.0.shared.config;
        let limits = Limits {
            calls: config.waiting_calls,
            bytes: config.waiting_bytes,
        };
        let budget = Budget::new(config.budget, Instant::now());
        let pool = Arc::new(ServicePool::new(
            &self.0.directory,
            service,
            budget,
            limits,
        )?);
        let task = PoolTask::new(service.as_str(), Arc::clone(&pool), self.0.shared.clone());
        let (inner, name, own) = (
            Arc::downgrade(&self.0),
            service.clone(),
            Arc::downgrade(&pool),
        );
        let forget = move || Weak::upgrade(&inner).is_none_or(|inner| inner.forget(&name, &own));
        state
            .tasks
            .spawn_on(task.run(self.0.stop.subscribe(), forget), &runtime);
        state.pools.insert(service.clone(), Arc::clone(&pool));
        Ok(pool)
    }

    /// Closes the client: calls in flight fail, connections close, watches stop. Every task has
    /// ended when this returns, except those of a runtime that is no longer driven. The registry
    /// stays open: its owner closes it.
    ///
    /// # Cancel safety
    /// If it is dropped, the client is closed, and its tasks end without being waited for.
    pub async fn close(&self) {
        let mut tasks = {
            let mut state = self.0.lock();
            state.closed = true;
            state.pools.clear();
            std::mem::take(&mut state.tasks)
        };
        self.0.stop.send_replace(true);
        let _ = timeout(CLOSE_TIMEOUT, async {
            while tasks.join_next().await.is_some() {}
        })
        .await;
        self.0.directory.close().await;
    }
}

impl Inner {
    /// Removes the pool of a service that no channel uses. Returns false if a channel uses it
    /// meanwhile.
    fn forget(&self, service: &ServiceName, own: &Weak<ServicePool>) -> bool {
        let mut state = self.lock();
        let is_own = |pool: &Arc<ServicePool>| std::ptr::eq(Arc::as_ptr(pool), own.as_ptr());
        match state.pools.get(service) {
            Some(pool) if is_own(pool) && !pool.is_idle() => false,
            Some(pool) if is_own(pool) => state.pools.remove(service).is_some(),
            _ => true,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
