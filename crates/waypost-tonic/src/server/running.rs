//! A server that runs.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Weak;

use tokio::sync::watch;
use tokio::task::JoinSet;
use waypost_core::record::Metadata;
use waypost_core::registrar::{Registration, State};
use waypost_core::registry;

use super::Error;
use super::run::Order;

/// A server that runs, made by [`Builder::start`](super::Builder::start).
///
/// It owns the server's tasks. [`stop`](Running::stop) and [`wait`](Running::wait) end it in order; dropped instead, it is cut: its
/// connections end at once and its record is left to expire.
pub struct Running {
    pub(super) name: String,
    pub(super) address: SocketAddr,
    pub(super) advertised: String,
    pub(super) node_id: String,
    pub(super) orders: watch::Sender<Order>,
    pub(super) registration: Weak<Registration>,
    pub(super) state: watch::Receiver<State>,
    pub(super) task: JoinSet<Result<(), Error>>,
}

impl Running {
    /// The service's name in the registry.
    pub fn service(&self) -> &str {
        &self.name
    }

    /// The address it listens on, with the port it got.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address that clients are told.
    pub fn advertised(&self) -> &str {
        &self.advertised
    }

    /// The node's id in the registry.
    pub fn node_id(&self) -> &str {
        &self.node_id
    }

    /// How the registration stands, now and from now on.
    pub fn registration(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Waits until the server is registered.
    ///
    /// # Errors
    /// [`registry::Error::Closed`] if it stops before it ever was.
    ///
    /// # Cancel safety
    /// Safe: it only looks.
    pub async fn registered(&self) -> registry::Result<()> {
        let mut state = self.registration();
        match state.wait_for(|state| state.is_registered() || state.is_left()).await.as_deref() {
            Ok(State::Registered { .. }) => Ok(()),
            _ => Err(registry::Error::Closed),
        }
    }

    /// Changes the node's metadata; see [`Registration::update`].
    ///
    /// # Errors
    /// [`registry::Error::Invalid`] if the record would be wrong, [`registry::Error::Closed`] if the server has stopped.
    pub fn update(&self, change: impl FnOnce(&mut Metadata)) -> registry::Result<()> {
        self.registration.upgrade().ok_or(registry::Error::Closed)?.update(change)
    }

    /// Begins to stop: leaves the registry, serves on for the drain delay, stops to accept, finishes what is in flight. Called again, it
    /// stops at once: what is in flight is cut.
    pub fn stop(&self) {
        self.orders.send_modify(|order| *order = if *order == Order::Serve { Order::Drain } else { Order::Abort });
    }

    /// Orders `order`, unless more has been ordered.
    pub(super) fn order(&self, order: Order) {
        self.orders.send_modify(|now| *now = order.max(*now));
    }

    /// Waits until the server has stopped.
    ///
    /// # Errors
    /// [`Error::Serve`] if tonic gave up.
    ///
    /// # Cancel safety
    /// Safe: call it again.
    pub async fn wait(&mut self) -> Result<(), Error> {
        match self.task.join_next().await {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(Error::Panicked),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.borrow().name();
        f.debug_struct("Running").field("node_id", &self.node_id).field("address", &self.address).field("state", &state).finish()
    }
}
