//! Registry inside one process, for tests. It implements the whole contract and injects faults on
//! demand.
//!
//! Handles made by [`MemoryRegistry::open`] share one set of records, as processes share a real
//! registry. Records expire by tokio's clock, which a test can pause. No task is spawned: calls and
//! watchers check the clock themselves. Only faults that a real registry has can be injected.

mod faults;
mod store;
mod stream;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::record::{Entry, Service};
use crate::registry::{
    Broadcaster, DeregisterOptions, Error, Options, RegisterOptions, Registry, Result,
    SkippedRecords, WatchOptions, Watcher, check_keys, check_name, check_registration,
};

pub use faults::Faults;
use store::{HandleId, Store};
use stream::Clocked;

/// Name of this backend in errors and URLs.
const NAME: &str = "memory";

/// Handle on a registry inside this process. If it is dropped without [`close`](Registry::close),
/// its records stay until their TTL expires, as those of a killed process do.
///
/// Each handle stands for one process:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use std::time::Duration;
/// use waypost_core::memory::MemoryRegistry;
/// # use waypost_core::record::{Node, Service};
/// use waypost_core::registry::{Error, Registry};
/// # use waypost_core::registry::{Instance, RegisterOptions};
/// # let mut service = Service::new("greeter");
/// # service.nodes.push(Node::with_id("greeter", "a", "127.0.0.1:9001"));
/// # let options = RegisterOptions { ttl: Duration::from_secs(15), instance: Instance::random() };
/// let memory = MemoryRegistry::new();
/// let (server, client) = (memory.open(), memory.open());
///
/// server.register(&service, &options).await?;
/// assert_eq!(client.get_service("greeter").await?[0].nodes[0].id, "greeter-a");
///
/// server.close().await?; // also removes its records
/// assert!(matches!(client.get_service("greeter").await, Err(Error::NotFound { .. })));
/// # Ok(()) }
/// ```
///
/// Records expire by tokio's clock. With paused time, a test of an expired record takes no time:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// # use waypost_core::memory::MemoryRegistry;
/// # use waypost_core::record::{Node, Service};
/// # use waypost_core::registry::{Error, Instance, RegisterOptions, Registry};
/// # let mut service = Service::new("greeter");
/// # service.nodes.push(Node::with_id("greeter", "a", "127.0.0.1:9001"));
/// tokio::time::pause(); // or #[tokio::test(start_paused = true)]
/// let registry = MemoryRegistry::new();
///
/// let options = RegisterOptions { ttl: Duration::from_secs(15), instance: Instance::random() };
/// registry.register(&service, &options).await?;
/// tokio::time::advance(Duration::from_secs(15)).await; // no heartbeat
/// assert!(matches!(registry.get_service("greeter").await, Err(Error::NotFound { .. })));
/// # Ok(()) }
/// ```
pub struct MemoryRegistry {
    shared: Shared,
    id: HandleId,
    broadcaster: Broadcaster,
    options: Options,
}

/// Records behind all handles of one registry.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Store>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Store> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MemoryRegistry {
    /// Creates an empty registry.
    pub fn new() -> Self {
        Self::handle(Shared::default())
    }

    /// Opens another handle on the same registry, as another process would. It owns what it
    /// registers, and is closed separately.
    pub fn open(&self) -> Self {
        Self::handle(self.shared.clone())
    }

    /// Returns the fault injection of the registry, for all its handles.
    pub fn faults(&self) -> Faults {
        Faults::new(self.shared.clone())
    }

    fn handle(shared: Shared) -> Self {
        let broadcaster = Broadcaster::default();
        let id = shared.lock().join(broadcaster.clone());
        let mut options = Options::new();
        options.on_this_host = true;
        Self {
            shared,
            id,
            broadcaster,
            options,
        }
    }

    /// Executes a call at one instant, subject to the injected faults: latency, an outage, or a
    /// lost response.
    async fn call<T>(&self, act: impl FnOnce(&mut Store, Instant) -> Result<T>) -> Result<T> {
        let delay = self.shared.lock().open(self.id)?;
        if !delay.is_zero() {
            tokio::time::sleep(delay.min(self.options.timeout)).await;
        }
        let timeout = || Error::Timeout {
            registry: NAME,
            after: self.options.timeout,
        };
        if delay > self.options.timeout {
            return Err(timeout());
        }
        let mut store = self.shared.lock();
        store.open(self.id)?;
        store.reachable()?;
        let now = Instant::now();
        store.expire(now);
        let answer = act(&mut store, now);
        if store.loses_answer() {
            Err(timeout())
        } else {
            answer
        }
    }
}

impl Default for MemoryRegistry {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryRegistry")
            .field("handle", &self.id)
            .field("broadcaster", &self.broadcaster)
            .finish()
    }
}

impl Drop for MemoryRegistry {
    fn drop(&mut self) {
        self.shared.lock().leave(self.id);
        self.broadcaster.close();
    }
}

impl Registry for MemoryRegistry {
    fn name(&self) -> &'static str {
        NAME
    }

    fn options(&self) -> &Options {
        &self.options
    }

    async fn register(&self, service: &Service, options: &RegisterOptions) -> Result<()> {
        check_registration(service, options, &self.options.limits)?;
        let stamped = options.stamp(service);
        self.call(|store, now| store.register(now, self.id, &stamped, options))
            .await
    }

    async fn deregister(&self, service: &Service, options: &DeregisterOptions) -> Result<()> {
        check_keys(service)?;
        self.call(|store, _| store.deregister(self.id, service, options))
            .await
    }

    async fn get_service(&self, name: &str) -> Result<Vec<Service>> {
        check_name(name)?;
        let services = self
            .call(|store, _| Ok(Entry::to_services(store.nodes().service(name))))
            .await?;
        if services.is_empty() {
            Err(Error::NotFound {
                service: name.to_owned(),
            })
        } else {
            Ok(services)
        }
    }

    async fn list_services(&self) -> Result<Vec<Service>> {
        self.call(|store, _| Ok(Entry::to_services(store.nodes())))
            .await
    }

    async fn watch(&self, options: &WatchOptions) -> Result<Watcher> {
        if let Some(name) = &options.service {
            check_name(name)?;
        }
        self.shared.lock().open(self.id)?;
        Ok(Watcher::new(Clocked::new(
            self.shared.clone(),
            self.broadcaster.subscribe(options),
        )))
    }

    fn skipped(&self, service: Option<&str>) -> SkippedRecords {
        self.shared.lock().skipped(service)
    }

    async fn close(&self) -> Result<()> {
        self.shared.lock().close(self.id);
        self.broadcaster.close();
        Ok(())
    }
}
