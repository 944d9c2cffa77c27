//! Registrar: keeps one registration alive until it is closed.
//!
//! [`Registration`] is the user's handle. Its task writes the record at every interval, which
//! repairs any loss, runs the health check in parallel, and deregisters at the end. A pure state
//! machine (`machine`) makes the decisions; the task (`task`) only awaits; `keeper` restarts it
//! after a panic or the end of its runtime. This module uses the record types and the
//! [`Registry`](crate::registry::Registry); it does not depend on balancers, sockets or protocols.

mod advertise;
mod builder;
mod check;
mod config;
mod event;
mod health;
mod keeper;
mod machine;
mod shared;
mod state;
mod task;
#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

pub use advertise::{Advertise, AdvertiseError};
pub use builder::RegistrationBuilder;
pub use check::{AnyCheck, CheckError, RegisterCheck};
pub use config::Config;
pub use state::State;

use crate::record::{Metadata, Service};
use crate::registry::{AnyRegistry, Error, Result};
use builder::validate;
use keeper::Keeper;

/// Registration of one node, kept alive for as long as this handle lives.
///
/// Created by [`Registration::builder`]. The handle owns one task: [`close`](Registration::close)
/// deregisters the node and joins the task. If the handle is dropped instead, the task is aborted
/// and the record stays until its TTL expires. Where a registry ties records to their owner
/// (`local`), the record stays until that registry is closed or the process ends.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use waypost_core::memory::MemoryRegistry;
/// use waypost_core::record::{Node, Service};
/// use waypost_core::registrar::Registration;
/// # use waypost_core::registry::Registry;
/// # let memory = MemoryRegistry::new();
/// # let registry = memory.open();
///
/// let mut service = Service::new("greeter");
/// service.nodes.push(Node::new("greeter", "10.0.0.7:9001"));
/// let registration = Registration::builder(registry, service).start()?;
/// registration.registered().await?;
/// # assert_eq!(memory.get_service("greeter").await?[0].nodes.len(), 1);
/// // Serve calls here.
/// registration.close().await?;
/// # assert!(memory.get_service("greeter").await.is_err());
/// # Ok(()) }
/// ```
///
/// # Runtimes
/// The task runs on the runtime in which the registration was started. After that runtime has
/// ended, the state is [`State::Failing`] with this reason. The next use of the handle inside
/// another runtime (any method but [`service`](Registration::service)) restarts the task there, as
/// the same instance. A runtime that exists but is not driven cannot be distinguished from a slow
/// one. Only a deregistration, which has a time limit, replaces its task. A task that panics is
/// restarted on the same runtime after a backoff.
pub struct Registration {
    keeper: Arc<Keeper>,
}

impl Registration {
    /// Returns a builder for a registration of the one node in `service` with `registry`.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use std::time::Duration;
    /// # use waypost_core::memory::MemoryRegistry;
    /// # use waypost_core::record::{Node, Service};
    /// # use waypost_core::registrar::Registration;
    /// # let registry = MemoryRegistry::new();
    /// let mut service = Service::new("greeter");
    /// service.nodes.push(Node::new("greeter", "0.0.0.0:9001"));
    ///
    /// let (ttl, interval) = (Duration::from_secs(30), Duration::from_secs(10));
    /// let builder = Registration::builder(registry, service).ttl(ttl).interval(interval);
    /// let error = builder.start().unwrap_err();
    /// assert!(error.to_string().contains("is every interface, which no client can dial"));
    /// # Ok(()) }
    /// ```
    pub fn builder(registry: impl Into<AnyRegistry>, service: Service) -> RegistrationBuilder {
        RegistrationBuilder::new(registry.into(), service)
    }

    /// Returns the current state.
    pub fn state(&self) -> State {
        self.keeper.keep_running();
        self.keeper.shared.state.borrow().clone()
    }

    /// Returns a receiver of the current state and all later ones, of which [`State::Left`] is the
    /// last. The channel closes when the registration is dropped, as [`close`](Registration::close)
    /// does; after [`leave`](Registration::leave) it stays open until then.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use waypost_core::memory::MemoryRegistry;
    /// # use waypost_core::record::{Node, Service};
    /// # use waypost_core::registrar::{Registration, State};
    /// # use waypost_core::registry::Registry;
    /// # let mut service = Service::new("greeter");
    /// # service.nodes.push(Node::with_id("greeter", "a", "127.0.0.1:9001"));
    /// let memory = MemoryRegistry::new();
    /// let registration = Registration::builder(memory.open(), service).start()?;
    /// let mut states = registration.watch();
    /// states.wait_for(State::is_registered).await?;
    ///
    /// registration.close().await?;
    /// assert!(states.borrow().is_left());
    /// # assert!(states.changed().await.is_ok() && states.changed().await.is_err(), "closed after the last state");
    /// # Ok(()) }
    /// ```
    pub fn watch(&self) -> watch::Receiver<State> {
        self.keeper.keep_running();
        self.keeper.shared.state.subscribe()
    }

    /// Returns the record as it is, or will next be, written.
    pub fn service(&self) -> Service {
        self.keeper.shared.record.borrow().clone()
    }

    /// Waits until the record is registered.
    ///
    /// # Errors
    /// Returns [`Error::Closed`] if the registration leaves before.
    ///
    /// # Cancel safety
    /// Safe: the future only reads.
    pub async fn registered(&self) -> Result<()> {
        let state = self
            .keeper
            .reach(|state| state.is_registered() || state.is_left())
            .await;
        if state.is_registered() {
            Ok(())
        } else {
            Err(Error::Closed)
        }
    }

    /// Sets one entry of the node's metadata; see [`update`](Registration::update).
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
    /// let registration = Registration::builder(memory.open(), service).start()?;
    /// registration.registered().await?;
    ///
    /// registration.set_metadata("weight", "2")?;
    /// tokio::time::sleep(Duration::from_millis(100)).await;
    /// assert_eq!(memory.get_service("greeter").await?[0].nodes[0].metadata.get("weight"), Some("2"));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The same as for [`update`](Registration::update).
    pub fn set_metadata(&self, key: impl Into<String>, value: impl Into<String>) -> Result<()> {
        let (key, value) = (key.into(), value.into());
        self.update(|metadata| metadata.insert(key, value))
    }

    /// Changes the node's metadata. While registered, the change is written at once; several
    /// changes within 50 ms may be one write. The change survives any outage. `change` must not
    /// call this registration.
    ///
    /// Several entries change in one write:
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use waypost_core::memory::MemoryRegistry;
    /// # use waypost_core::record::{Node, Service};
    /// # use waypost_core::registrar::{Registration, State};
    /// # use waypost_core::registry::Registry;
    /// # let mut service = Service::new("greeter");
    /// # service.nodes.push(Node::with_id("greeter", "a", "127.0.0.1:9001"));
    /// let memory = MemoryRegistry::new();
    /// # service.nodes[0].metadata.insert("canary", "true");
    /// let registration = Registration::builder(memory.open(), service).start()?;
    /// registration.update(|metadata| {
    ///     metadata.insert("zone", "eu-1");
    ///     metadata.remove("canary");
    /// })?;
    ///
    /// let metadata = &registration.service().nodes[0].metadata;
    /// assert_eq!((metadata.get("zone"), metadata.get("canary")), (Some("eu-1"), None));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] if the record would be invalid. The record is not changed then.
    pub fn update(&self, change: impl FnOnce(&mut Metadata)) -> Result<()> {
        let (mut result, shared) = (Ok(()), &self.keeper.shared);
        let limits = shared.registry.options().limits;
        shared.record.send_if_modified(|record| {
            let mut next = record.clone();
            if let Some(node) = next.nodes.first_mut() {
                change(&mut node.metadata);
            }
            result = validate(&next, &limits);
            let changed = result.is_ok() && next != *record;
            if changed {
                *record = next;
            }
            changed
        });
        self.keeper.keep_running();
        result
    }

    /// Returns a future for graceful shutdown. It waits for `signal`, deregisters the node, waits
    /// for the drain delay while the server continues to serve, and resolves. The server may then
    /// stop accepting and finish the calls in flight.
    ///
    /// A registry that does not respond delays the future by at most [`Config::timeout`], of which
    /// the drain delay is then a part; one that denies the request or is closed does not delay it.
    /// The future fits axum's `with_graceful_shutdown` and tonic's `serve_with_shutdown`. Keep the
    /// registration until the server has stopped: if it is dropped before the signal, the record is
    /// no longer kept alive.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use waypost_core::memory::MemoryRegistry;
    /// # use waypost_core::record::{Node, Service};
    /// # use waypost_core::registrar::{Registration, State};
    /// # use waypost_core::registry::Registry;
    /// # let mut service = Service::new("greeter");
    /// # service.nodes.push(Node::with_id("greeter", "a", "127.0.0.1:9001"));
    /// let memory = MemoryRegistry::new();
    /// # async fn serve_with_shutdown(shutdown: impl Future<Output = ()>) { shutdown.await }
    /// let registration = Registration::builder(memory.open(), service).start()?;
    /// registration.registered().await?;
    ///
    /// let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    /// let drained = registration.drain_on(async { drop(stopped.await) });
    /// drop(stop); // SIGTERM, in a real server
    /// serve_with_shutdown(drained).await;
    /// assert!(registration.state().is_left());
    /// # Ok(()) }
    /// ```
    ///
    /// # Cancel safety
    /// If the future is dropped before the signal, nothing happens. If it is dropped later, the
    /// registration still leaves.
    pub fn drain_on<S>(&self, signal: S) -> impl Future<Output = ()> + Send + 'static + use<S>
    where
        S: Future<Output = ()> + Send + 'static,
    {
        let (keeper, shared) = (Arc::downgrade(&self.keeper), &self.keeper.shared);
        let (delay, needs_drain) = (shared.config.drain_delay, Arc::clone(&shared.needs_drain));
        async move {
            signal.await;
            let leaving_since = Instant::now();
            keeper::leave(&keeper).await;
            match needs_drain.load(Ordering::SeqCst) {
                true => sleep(delay).await,
                // No client has learned that the node leaves: it serves for the delay in all.
                false => sleep(delay.saturating_sub(leaving_since.elapsed())).await,
            }
        }
    }

    /// Deregisters the node without a drain delay, and ends the task. Takes at most twice
    /// [`Config::timeout`] if the runtime of the task is driven. If it is not, the task is replaced
    /// after that time.
    ///
    /// # Errors
    /// Returns the error of the deregistration; the record then stays until its TTL expires.
    /// [`Error::Closed`] if the registry was closed before, which has removed its records.
    ///
    /// # Cancel safety
    /// If the future is dropped, the task is aborted and the record may or may not be deregistered.
    pub async fn close(self) -> Result<()> {
        self.leave().await
    }

    /// Leaves as [`close`](Registration::close) does, for a registration that is shared. The state
    /// is then [`State::Left`], and nothing is registered again. Of several callers, one receives
    /// the error of the deregistration.
    ///
    /// # Errors
    /// The same as for [`close`](Registration::close).
    ///
    /// # Cancel safety
    /// If the future is dropped, the registration still leaves.
    pub async fn leave(&self) -> Result<()> {
        keeper::leave(&Arc::downgrade(&self.keeper)).await;
        self.keeper.join().await
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, node) = self.keeper.shared.names();
        let state = self.keeper.shared.state.borrow().name();
        f.debug_struct("Registration")
            .field("node", &node)
            .field("state", &state)
            .finish_non_exhaustive()
    }
}
