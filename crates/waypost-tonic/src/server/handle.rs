//! Handle of a running server.

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

/// Handle of a running server, returned by [`ServerBuilder::start`](super::ServerBuilder::start).
///
/// It owns the server's tasks. [`stop`](ServerHandle::stop) and [`wait`](ServerHandle::wait) end it
/// gracefully. If it is dropped instead, the server is aborted: its connections end at once, and
/// its record is left to expire.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/greeter.rs"));
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use waypost_tonic::Server;
/// # let registry = registry();
/// let mut server = Server::builder("greeter", registry.clone())
///     .add_service(GreeterServer::new(MyGreeter))
///     .start()
///     .await?;
/// server.registered().await?;
/// assert_eq!(registry.get_service("greeter").await?[0].nodes[0].id, server.node_id());
///
/// server.stop();
/// server.wait().await?;
/// assert!(registry.get_service("greeter").await.is_err());
/// # Ok(()) }
/// ```
pub struct ServerHandle {
    pub(super) name: String,
    pub(super) address: SocketAddr,
    pub(super) advertised: String,
    pub(super) node_id: String,
    pub(super) orders: watch::Sender<Order>,
    pub(super) registration: Weak<Registration>,
    pub(super) state: watch::Receiver<State>,
    pub(super) task: JoinSet<Result<(), Error>>,
}

impl ServerHandle {
    /// Returns the service's name in the registry.
    pub fn service(&self) -> &str {
        &self.name
    }

    /// Returns the address that the server listens on, with the bound port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the address that is advertised to clients.
    pub fn advertised(&self) -> &str {
        &self.advertised
    }

    /// Returns the node's id in the registry.
    pub fn node_id(&self) -> &str {
        &self.node_id
    }

    /// Returns a receiver of the registration's state and its changes.
    pub fn registration(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Waits until the server is registered.
    ///
    /// # Errors
    /// [`registry::Error::Closed`] if it stops before it was registered.
    ///
    /// # Cancel safety
    /// Safe: it only reads the state.
    pub async fn registered(&self) -> registry::Result<()> {
        let mut state = self.registration();
        match state
            .wait_for(|state| state.is_registered() || state.is_left())
            .await
            .as_deref()
        {
            Ok(State::Registered { .. }) => Ok(()),
            _ => Err(registry::Error::Closed),
        }
    }

    /// Changes the node's metadata; see [`Registration::update`].
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/greeter.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use waypost_tonic::Server;
    /// # let registry = registry();
    /// let server = Server::builder("greeter", registry.clone()).start().await?;
    /// server.registered().await?;
    ///
    /// server.update(|metadata| metadata.insert("track", "canary"))?;
    /// # while registry.get_service("greeter").await?[0].nodes[0].metadata.get("track").is_none() {
    /// #     tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    /// # }
    /// // The registry has the change after a moment.
    /// let service = &registry.get_service("greeter").await?[0];
    /// assert_eq!(service.nodes[0].metadata.get("track"), Some("canary"));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`registry::Error::Invalid`] if the record would be invalid, [`registry::Error::Closed`] if
    /// the server has stopped.
    pub fn update(&self, change: impl FnOnce(&mut Metadata)) -> registry::Result<()> {
        self.registration
            .upgrade()
            .ok_or(registry::Error::Closed)?
            .update(change)
    }

    /// Begins a graceful stop: leaves the registry, serves for the drain delay, stops accepting,
    /// and finishes the calls in flight. A second call stops at once: the calls in flight are
    /// aborted.
    pub fn stop(&self) {
        self.orders.send_modify(|order| {
            *order = if *order == Order::Serve {
                Order::Drain
            } else {
                Order::Abort
            }
        });
    }

    /// Gives `order`, unless a stronger one was given.
    pub(super) fn order(&self, order: Order) {
        self.orders.send_modify(|now| *now = order.max(*now));
    }

    /// Waits until the server has stopped.
    ///
    /// # Errors
    /// [`Error::Serve`] if tonic fails, [`Error::Panicked`] if serving panics.
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

impl fmt::Debug for ServerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.borrow().name();
        f.debug_struct("ServerHandle")
            .field("node_id", &self.node_id)
            .field("address", &self.address)
            .field("state", &state)
            .finish()
    }
}
