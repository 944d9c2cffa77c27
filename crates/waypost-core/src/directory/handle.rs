//! Directory and its subscriptions. The directory holds one task per watched service; subscriptions
//! read the snapshots that the tasks publish.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;

use super::Config;
use super::channel::{Channel, LastSnapshot, Subscription, lock};
use super::task::Task;
use crate::record::ServiceName;
use crate::registry::{AnyRegistry, Error};

/// Maximum time for which [`Directory::close`] waits for its tasks. A task on a runtime that is not
/// driven would never end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Client's view of the registry: the latest [`Snapshot`](super::Snapshot) of every service in use. Clones share one
/// directory.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use waypost_core::directory::{Config, Directory};
/// # use waypost_core::static_list::StaticRegistry;
/// # let registry = StaticRegistry::new(["10.0.0.7:9001".parse()?], "grpc");
///
/// let directory = Directory::new(registry, Config::default());
/// let mut greeter = directory.subscribe(&"greeter".parse()?)?;
/// assert!(greeter.synced().await);
///
/// let snapshot = greeter.snapshot();
/// let addresses: Vec<_> = snapshot.confirmed().map(|entry| entry.node.address.as_str()).collect();
/// assert_eq!(addresses, ["10.0.0.7:9001"]);
/// directory.close().await;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Directory(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: AnyRegistry,
    config: Config,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    services: HashMap<ServiceName, Slot>,
    tasks: JoinSet<()>,
}

/// Slot of a service with a task. Only the task holds the channel strongly, so that the channel
/// closes whenever the task ends, for any reason.
#[derive(Debug, Default)]
struct Slot {
    channel: Weak<Channel>,
    last: LastSnapshot,
}

impl Directory {
    /// Creates a directory of `registry`. A watch starts with the first subscription.
    pub fn new(registry: impl Into<AnyRegistry>, config: Config) -> Self {
        Self(Arc::new(Inner {
            registry: registry.into(),
            config,
            state: Mutex::default(),
        }))
    }

    /// Returns the registry of the directory.
    pub fn registry(&self) -> &AnyRegistry {
        &self.0.registry
    }

    /// Subscribes to a service. The first subscription starts a watch on the caller's runtime; so
    /// does the first one after the task of the watch or its runtime has ended.
    ///
    /// # Errors
    /// [`Error::Closed`] after [`close`](Self::close), [`Error::Invalid`] if a watch has to be
    /// started outside a Tokio runtime. In both cases nothing is started.
    pub fn subscribe(&self, service: &ServiceName) -> Result<Subscription, Error> {
        let mut state = self.0.lock();
        if state.closed {
            return Err(Error::Closed);
        }
        if let Some(channel) = state
            .services
            .get(service)
            .and_then(|slot| slot.channel.upgrade())
        {
            return Ok(channel.subscribe());
        }
        let runtime = Handle::try_current().map_err(|_| no_runtime(service))?;
        Ok(self.start(&mut state, service, &runtime))
    }

    fn start(&self, state: &mut State, service: &ServiceName, runtime: &Handle) -> Subscription {
        state.reap();
        let last = state
            .services
            .get(service)
            .map(|slot| Arc::clone(&slot.last))
            .unwrap_or_default();
        let channel = Arc::new(Channel::new(Arc::clone(&last)));
        let (subscription, slot) = (
            channel.subscribe(),
            Slot {
                channel: Arc::downgrade(&channel),
                last,
            },
        );
        let (inner, name, own) = (
            Arc::downgrade(&self.0),
            service.clone(),
            Arc::downgrade(&channel),
        );
        let remove = move || {
            inner
                .upgrade()
                .is_none_or(|inner| inner.remove_if_idle(&name, &own))
        };
        let task = Task::new(self.0.registry.clone(), &self.0.config, service, channel);
        state.tasks.spawn_on(task.run(remove), runtime);
        state.services.insert(service.clone(), slot);
        subscription
    }

    /// Ends all watches and joins their tasks, for at most 2 s. The registry stays open; its owner
    /// closes it.
    ///
    /// # Cancel safety
    /// If the future is dropped, all watches end nevertheless.
    pub async fn close(&self) {
        let mut tasks = {
            let mut state = self.0.lock();
            state.closed = true;
            state.services.clear();
            std::mem::take(&mut state.tasks)
        };
        let _ = timeout(CLOSE_TIMEOUT, tasks.shutdown()).await;
    }
}

impl State {
    /// Removes tasks that have ended.
    fn reap(&mut self) {
        while let Some(ended) = self.tasks.try_join_next() {
            if let Some(error) = ended.err().filter(JoinError::is_panic) {
                tracing::error!(%error, "directory task panicked; the next subscription restarts it");
            }
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Removes a service without a subscription. Returns false if it has one again.
    fn remove_if_idle(&self, service: &ServiceName, channel: &Weak<Channel>) -> bool {
        let mut state = self.lock();
        if channel.upgrade().is_some_and(|channel| !channel.is_idle()) {
            return false;
        }
        let is_current = |slot: &Slot| slot.channel.ptr_eq(channel);
        if state.services.get(service).is_some_and(is_current) {
            state.services.remove(service);
        }
        true
    }
}

fn no_runtime(service: &ServiceName) -> Error {
    let what = format!("cannot start the watch of service {:?}", service.as_str());
    Error::invalid(
        what,
        "no Tokio runtime on this thread; subscribe from within one",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryRegistry;

    /// After a task ends prematurely, its subscriptions are closed, and the next subscription
    /// starts another task.
    #[tokio::test]
    async fn a_task_that_is_gone_is_seen_and_started_again() {
        let memory = MemoryRegistry::new();
        let directory = Directory::new(AnyRegistry::new(memory.open()), Config::default());
        let name = "greeter".parse().unwrap();
        for _ in 0..3 {
            let mut subscription = directory.subscribe(&name).unwrap();
            assert!(subscription.synced().await && !subscription.is_closed());
            directory.0.lock().tasks.abort_all();
            while subscription.changed().await {}
            assert!(subscription.is_closed() && subscription.snapshot().synced);
        }
        assert_eq!(directory.0.lock().services.len(), 1);
        directory.close().await;
    }
}
