//! Keeps one registration true until it is closed.
//!
//! [`Registration`] is the user's handle; behind it one task writes the record again at every interval, which repairs any loss, asks the
//! check before each beat, and takes the record out at the end. What it does is decided by a pure state machine (`step`); the task
//! (`driver`) only awaits. This room knows the words and the [`Registry`](crate::registry::Registry), and never a balancer, a socket or
//! a protocol.

mod check;
mod config;
mod driver;
mod state;
mod step;
#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

pub use check::{AnyCheck, RegisterCheck};
pub use config::Config;
pub use state::State;

use crate::record::{Metadata, Service};
use crate::registry::{AnyRegistry, Error, Instance, Registry as _, Result};
use driver::Driver;

/// One node kept in a registry for as long as this handle lives.
///
/// Made by [`Registration::builder`]. It owns one task: [`close`](Registration::close) takes the record out and joins it. Dropped
/// instead, the task is aborted and the record stays until its ttl is over, or, where a registry ties records to their owner
/// (`local`), until that registry is closed or the process ends.
pub struct Registration {
    record: watch::Sender<Service>,
    leave: watch::Sender<bool>,
    state: watch::Receiver<State>,
    drain_delay: Duration,
    task: JoinSet<Result<()>>,
}

/// A registration to be: what to register, where, and how to keep it.
#[derive(Debug)]
#[must_use = "nothing is registered until `start`"]
pub struct Builder {
    registry: AnyRegistry,
    service: Service,
    config: Config,
    check: Option<AnyCheck>,
}

impl Builder {
    /// Keeps it by these settings instead of the default ones.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// How long the record stays if nobody refreshes it; see [`Config::ttl`].
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.config.ttl = ttl;
        self
    }

    /// How often the record is written again; see [`Config::interval`].
    pub fn interval(mut self, interval: Duration) -> Self {
        self.config.interval = interval;
        self
    }

    /// Asks `check` before each beat, and keeps the node out of the registry while it says no.
    pub fn check(mut self, check: impl RegisterCheck) -> Self {
        self.check = Some(AnyCheck::new(check));
        self
    }

    /// Begins to register, in a task of its own, and returns at once: a registry out of reach is retried for ever, and shows in
    /// [`Registration::state`] and the log. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a setting or the record is wrong; a registration is of exactly one node.
    pub fn start(mut self) -> Result<Registration> {
        self.config.validate()?;
        validate(&self.service)?;
        // A registry that was given more time than that is to have it.
        self.config.timeout = self.config.timeout.max(self.registry.options().timeout);
        let drain_delay = self.config.drain_delay;
        let (record, records) = watch::channel(self.service);
        let (leave, leaves) = watch::channel(false);
        let (states, state) = watch::channel(State::Starting);
        let driver = Driver {
            registry: self.registry,
            instance: Instance::random(),
            config: self.config,
            check: self.check,
            record: records,
            leave: leaves,
            state: states,
        };
        let mut task = JoinSet::new();
        task.spawn(driver.run());
        Ok(Registration { record, leave, state, drain_delay, task })
    }
}

/// Whether the record is one node that may be registered.
fn validate(service: &Service) -> Result<()> {
    if service.nodes.len() != 1 {
        return Err(Error::invalid("registration", format!("has {} nodes; register each node by itself", service.nodes.len())));
    }
    Ok(service.check()?)
}

impl Registration {
    /// A registration of the one node in `service` with `registry`.
    pub fn builder(registry: AnyRegistry, service: Service) -> Builder {
        Builder { registry, service, config: Config::default(), check: None }
    }

    /// Where it stands now.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Where it stands, now and from now on. Ends after [`State::Left`], or when the registration is dropped.
    pub fn watch(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// The record as it is, or will next be, written.
    pub fn service(&self) -> Service {
        self.record.borrow().clone()
    }

    /// Waits until the record stands.
    ///
    /// # Errors
    /// [`Error::Closed`] if it leaves before it ever did.
    ///
    /// # Cancel safety
    /// Safe: it only looks.
    pub async fn registered(&self) -> Result<()> {
        let mut state = self.state.clone();
        match state.wait_for(|state| state.is_registered() || state.is_left()).await.as_deref() {
            Ok(State::Registered { .. }) => Ok(()),
            _ => Err(Error::Closed),
        }
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
        self.record.send_if_modified(|record| {
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
        result
    }

    /// A future for graceful shutdown: it waits for `signal`, takes the record out, goes on waiting for the drain delay while the server
    /// serves, and resolves; then the server may stop to accept and finish what is in flight.
    ///
    /// A registry that does not answer delays it by [`Config::timeout`], no longer. It fits axum's `with_graceful_shutdown` and tonic's
    /// `serve_with_shutdown`. Keep the registration until the server has stopped: dropped before the signal, the record is no longer
    /// kept alive.
    ///
    /// # Cancel safety
    /// Dropped before the signal, nothing happens; after it, the registration still leaves.
    pub fn drain_on<S>(&self, signal: S) -> impl Future<Output = ()> + Send + 'static + use<S>
    where
        S: Future<Output = ()> + Send + 'static,
    {
        let (leave, mut state, delay) = (self.leave.clone(), self.state.clone(), self.drain_delay);
        async move {
            signal.await;
            leave.send_replace(true);
            let _ = state.wait_for(State::is_left).await;
            sleep(delay).await;
        }
    }

    /// Takes the record out, without a drain delay, and ends the task. Takes no longer than twice [`Config::timeout`].
    ///
    /// # Errors
    /// Why the record could not be taken out; it stays until its ttl is over.
    ///
    /// # Cancel safety
    /// Dropped half-way, the task is aborted and the record may or may not be out.
    pub async fn close(mut self) -> Result<()> {
        self.leave.send_replace(true);
        match self.task.join_next().await {
            Some(Ok(result)) => result,
            Some(Err(_)) | None => Err(Error::Closed),
        }
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = self.record.borrow();
        let node = record.nodes.first().map_or("", |node| &node.id);
        f.debug_struct("Registration").field("node", &node).field("state", &self.state.borrow().name()).finish_non_exhaustive()
    }
}
