//! Fault injection and counters of a memory registry.

use std::time::Duration;

use tokio::time::Instant;

use super::Shared;
use crate::record::Key;

/// Faults of a [`MemoryRegistry`](super::MemoryRegistry), which apply to all its handles at once.
#[derive(Clone)]
pub struct Faults(Shared);

impl Faults {
    pub(super) fn new(shared: Shared) -> Self {
        Self(shared)
    }

    /// Makes the registry unreachable or reachable again. While it is unreachable, calls fail with
    /// `Unavailable`; watchers receive one `Err` at the start and a `Reset` at the end. Records
    /// expire nevertheless.
    ///
    /// A server that starts during an outage registers when the outage ends:
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use waypost_core::memory::MemoryRegistry;
    /// # use waypost_core::record::{Node, Service};
    /// use waypost_core::registrar::{Registration, State};
    /// # let mut service = Service::new("greeter");
    /// # service.nodes.push(Node::with_id("greeter", "a", "127.0.0.1:9001"));
    /// let memory = MemoryRegistry::new();
    /// memory.faults().set_unreachable(true);
    ///
    /// let registration = Registration::builder(memory.open(), service).start()?;
    /// let mut states = registration.watch();
    /// states.wait_for(|state| matches!(state, State::Failing { .. })).await?;
    ///
    /// memory.faults().set_unreachable(false);
    /// registration.registered().await?;
    /// # Ok(()) }
    /// ```
    pub fn set_unreachable(&self, unreachable: bool) {
        let mut store = self.0.lock();
        store.expire(Instant::now());
        store.set_unreachable(unreachable);
    }

    /// Resets all watchers once: their undelivered events are dropped, and they receive a `Reset`.
    pub fn cut(&self) {
        self.0.lock().cut();
    }

    /// Expires one record at once, which is a loss.
    ///
    /// A heartbeat repairs a record that has expired:
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use std::time::Duration;
    /// # use waypost_core::memory::MemoryRegistry;
    /// # use waypost_core::record::{Node, Service};
    /// # use waypost_core::registrar::{Registration, State};
    /// # use waypost_core::registry::Registry;
    /// # let mut service = Service::new("greeter");
    /// # service.nodes.push(Node::with_id("greeter", "a", "127.0.0.1:9001"));
    /// let memory = MemoryRegistry::new();
    /// let interval = Duration::from_secs(5);
    /// let registration = Registration::builder(memory.open(), service).interval(interval).start()?;
    /// registration.registered().await?;
    ///
    /// let key = registration.service().entries()[0].key();
    /// memory.faults().expire(&key);
    /// assert!(memory.get_service("greeter").await.is_err());
    ///
    /// tokio::time::sleep(2 * interval).await;
    /// assert!(memory.get_service("greeter").await.is_ok());
    /// # Ok(()) }
    /// ```
    pub fn expire(&self, key: &Key) {
        self.0.lock().lose(key.clone());
    }

    /// Writes bytes under a key, as any other writer of a registry may. The record has no lease: it
    /// needs no heartbeat and never expires. Bytes that are not a record are
    /// [skipped](crate::registry::Registry::skipped).
    pub fn put_raw(&self, service: &str, id: &str, bytes: impl Into<Vec<u8>>) {
        self.batch([(key(service, id), Some(bytes.into()))]);
    }

    /// Deletes the record under a key, as any other writer may.
    pub fn remove_raw(&self, service: &str, id: &str) {
        self.batch([(key(service, id), None)]);
    }

    /// Writes several records at one instant, without leases; `None` deletes.
    pub fn batch(&self, changes: impl IntoIterator<Item = (Key, Option<Vec<u8>>)>) {
        for error in self.0.lock().put_raw(changes.into_iter().collect()) {
            tracing::warn!(%error, "invalid record skipped");
        }
    }

    /// Sets the latency of each response. Calls fail with `Timeout` if it exceeds
    /// `Options::timeout` (2 s). Default none.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use std::time::Duration;
    /// # use waypost_core::memory::MemoryRegistry;
    /// # use waypost_core::registry::{Error, Registry};
    /// let registry = MemoryRegistry::new();
    /// registry.faults().set_delay(Duration::from_secs(1));
    /// assert!(registry.list_services().await.is_ok());
    ///
    /// registry.faults().set_delay(Duration::from_secs(3));
    /// assert!(matches!(registry.list_services().await, Err(Error::Timeout { .. })));
    /// # Ok(()) }
    /// ```
    pub fn set_delay(&self, delay: Duration) {
        self.0.lock().delay = delay;
    }

    /// Executes the next `count` calls, but responds to them with `Timeout`.
    pub fn lose_answers(&self, count: u32) {
        self.0.lock().answers_to_lose = count;
    }

    /// Returns the number of writes of `register` and `deregister` so far: one for a record, two
    /// for a deregistration, none for an unchanged heartbeat.
    pub fn writes(&self) -> u64 {
        self.0.lock().writes
    }
}

impl std::fmt::Debug for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Faults")
    }
}

fn key(service: &str, id: &str) -> Key {
    Key {
        service: service.to_owned(),
        id: id.to_owned(),
    }
}
