//! Keeps one registration true until it is closed.
//!
//! [`Registration`] is the user's handle; behind it one task writes the record again at every interval, which repairs any loss, asks the
//! health check beside it, and takes the record out at the end. What it does is decided by a pure state machine (`machine`); the task
//! (`task`) only awaits, and `keeper` starts it again when it has panicked or its runtime has ended. This room knows the words and the
//! [`Registry`](crate::registry::Registry), and never a balancer, a socket or a protocol.

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
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::sleep;

pub use check::{AnyCheck, RegisterCheck};
pub use config::Config;
pub use state::State;

use crate::record::{Metadata, Service};
use crate::registry::{AnyRegistry, Error, Instance, Registry as _, Result};
use keeper::Keeper;
use shared::Shared;

/// One node kept in a registry for as long as this handle lives.
///
/// Made by [`Registration::builder`]. It owns one task: [`close`](Registration::close) takes the record out and joins it. Dropped
/// instead, the task is aborted and the record stays until its ttl is over, or, where a registry ties records to their owner
/// (`local`), until that registry is closed or the process ends.
///
/// # Runtimes
/// The task runs on the runtime in which the registration was started. When that runtime has ended, the state is
/// [`State::Failing`] and says so, and the next use of the handle inside another runtime (any method but
/// [`service`](Registration::service)) starts the task there again, as the same instance. A runtime that exists and is not driven
/// cannot be told from a slow one: only leaving, which has a time limit, takes its task over. A panic of the task is followed by another
/// task on the same runtime, after a back-off.
pub struct Registration {
    keeper: Arc<Keeper>,
}

/// Builder of a [`Registration`]: what to register, where, and how to keep it.
#[derive(Debug)]
#[must_use = "nothing is registered until `start`"]
pub struct Builder {
    registry: AnyRegistry,
    service: Service,
    config: Config,
    check: Option<AnyCheck>,
}

impl Builder {
    /// Sets all settings at once.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Sets the lifetime of the record unless it is refreshed; see [`Config::ttl`].
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.config.ttl = ttl;
        self
    }

    /// Sets the time between two heartbeats; see [`Config::interval`].
    pub fn interval(mut self, interval: Duration) -> Self {
        self.config.interval = interval;
        self
    }

    /// Calls `check` at every interval, and keeps the node out of the registry while it fails. See [`RegisterCheck`].
    pub fn check(mut self, check: impl RegisterCheck) -> Self {
        self.check = Some(AnyCheck::new(check));
        self
    }

    /// Begins to register, in a task of its own, and returns at once: a registry out of reach is retried for ever, and shows in
    /// [`Registration::state`] and the log.
    ///
    /// # Errors
    /// Returns [`Error::Invalid`] if a setting or the record is wrong, or if it is called outside a tokio runtime; a registration is of
    /// exactly one node.
    pub fn start(self) -> Result<Registration> {
        self.config.validate()?;
        validate(&self.service)?;
        if Handle::try_current().is_err() {
            return Err(Error::invalid("registration", "cannot start outside a tokio runtime; call start inside one"));
        }
        let shared = Shared {
            name: self.registry.name(),
            // A registry that was given more time has it; the check has not.
            request_timeout: self.config.timeout.max(self.registry.options().timeout),
            registry: self.registry,
            instance: Instance::random(),
            config: self.config,
            check: self.check,
            record: watch::Sender::new(self.service),
            leave: watch::Sender::new(false),
            state: watch::Sender::new(State::Starting),
            task: AtomicU64::new(0),
        };
        let keeper = Arc::new(Keeper::new(shared));
        keeper.keep_running();
        Ok(Registration { keeper })
    }
}

/// Checks that the record is of one node that may be registered.
fn validate(service: &Service) -> Result<()> {
    if service.nodes.len() != 1 {
        return Err(Error::invalid("registration", format!("has {} nodes; register each node by itself", service.nodes.len())));
    }
    Ok(service.check()?)
}

impl Registration {
    /// Returns a builder of a registration of the one node in `service` with `registry`.
    pub fn builder(registry: AnyRegistry, service: Service) -> Builder {
        Builder { registry, service, config: Config::default(), check: None }
    }

    /// Returns the present state.
    pub fn state(&self) -> State {
        self.keeper.keep_running();
        self.keeper.shared.state.borrow().clone()
    }

    /// Returns the present state and all to come. Ends after [`State::Left`], or when the registration is dropped.
    pub fn watch(&self) -> watch::Receiver<State> {
        self.keeper.keep_running();
        self.keeper.shared.state.subscribe()
    }

    /// Returns the record as it is, or will next be, written.
    pub fn service(&self) -> Service {
        self.keeper.shared.record.borrow().clone()
    }

    /// Waits until the record is in the registry.
    ///
    /// # Errors
    /// Returns [`Error::Closed`] if it leaves before.
    ///
    /// # Cancel safety
    /// Safe: it only reads.
    pub async fn registered(&self) -> Result<()> {
        let state = self.keeper.reach(|state| state.is_registered() || state.is_left()).await;
        if state.is_registered() { Ok(()) } else { Err(Error::Closed) }
    }

    /// Sets one entry of the node's metadata; see [`update`](Registration::update).
    ///
    /// # Errors
    /// As for [`update`](Registration::update).
    pub fn set_metadata(&self, key: impl Into<String>, value: impl Into<String>) -> Result<()> {
        let (key, value) = (key.into(), value.into());
        self.update(|metadata| metadata.insert(key, value))
    }

    /// Changes the node's metadata. While registered it is written at once (several changes within 50 ms may be one write); it survives
    /// any outage. `change` must not call this registration.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the record would be wrong; it stays as it was.
    pub fn update(&self, change: impl FnOnce(&mut Metadata)) -> Result<()> {
        let mut result = Ok(());
        self.keeper.shared.record.send_if_modified(|record| {
            let mut next = record.clone();
            if let Some(node) = next.nodes.first_mut() {
                change(&mut node.metadata);
            }
            result = validate(&next);
            let changed = result.is_ok() && next != *record;
            if changed {
                *record = next;
            }
            changed
        });
        self.keeper.keep_running();
        result
    }

    /// Returns a future for graceful shutdown: it waits for `signal`, takes the record out, waits for the drain delay while the server
    /// serves, and resolves; then the server may stop to accept and finish what is in flight.
    ///
    /// A registry that does not answer delays it by [`Config::timeout`], no longer; one that refuses, or is closed, does not delay it. It
    /// fits axum's `with_graceful_shutdown` and tonic's `serve_with_shutdown`. Keep the registration until the server has stopped:
    /// dropped before the signal, the record is no longer kept alive.
    ///
    /// # Cancel safety
    /// Dropped before the signal, nothing happens; after it, the registration still leaves.
    pub fn drain_on<S>(&self, signal: S) -> impl Future<Output = ()> + Send + 'static + use<S>
    where
        S: Future<Output = ()> + Send + 'static,
    {
        let (keeper, delay) = (Arc::downgrade(&self.keeper), self.keeper.shared.config.drain_delay);
        async move {
            signal.await;
            keeper::leave(&keeper).await;
            sleep(delay).await;
        }
    }

    /// Takes the record out, without a drain delay, and ends the task. Takes no longer than twice [`Config::timeout`] where the runtime
    /// of the task is driven; a task on one that is not is taken over after that.
    ///
    /// # Errors
    /// Returns why the record could not be taken out; it stays until its ttl is over. [`Error::Closed`] if the registry was closed
    /// before, which has taken care of its records.
    ///
    /// # Cancel safety
    /// Dropped half-way, the task is aborted and the record may or may not be out.
    pub async fn close(self) -> Result<()> {
        self.leave().await
    }

    /// Leaves as [`close`](Registration::close) does, for a registration that is shared. The state is [`State::Left`] then, and nothing is
    /// registered again. Of several callers, one is told why the record could not be taken out.
    ///
    /// # Errors
    /// As for [`close`](Registration::close).
    ///
    /// # Cancel safety
    /// Dropped half-way, the registration still leaves.
    pub async fn leave(&self) -> Result<()> {
        keeper::leave(&Arc::downgrade(&self.keeper)).await;
        self.keeper.join().await
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, node) = self.keeper.shared.names();
        let state = self.keeper.shared.state.borrow().name();
        f.debug_struct("Registration").field("node", &node).field("state", &state).finish_non_exhaustive()
    }
}
