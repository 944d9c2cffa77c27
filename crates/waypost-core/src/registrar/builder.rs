//! Settings of a registration: its record, its address, and its configuration.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::Registration;
use super::advertise::Advertise;
use super::check::{AnyCheck, RegisterCheck};
use super::config::Config;
use super::keeper::Keeper;
use super::shared::Shared;
use super::state::State;
use crate::record::{Address, Node, RecordLimits, Service};
use crate::registry::{AnyRegistry, Error, Instance, Result};

/// Builder of a [`Registration`].
#[derive(Debug)]
#[must_use = "nothing is registered until `start` or `start_on`"]
pub struct RegistrationBuilder {
    registry: AnyRegistry,
    service: Service,
    advertise: Option<String>,
    allow_loopback: bool,
    config: Config,
    check: Option<AnyCheck>,
}

impl RegistrationBuilder {
    pub(super) fn new(registry: AnyRegistry, service: Service) -> Self {
        Self {
            registry,
            service,
            advertise: None,
            allow_loopback: false,
            config: Config::default(),
            check: None,
        }
    }

    /// Sets the service's name. The node's id begins with it, and changes with it.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        let old = std::mem::replace(&mut self.service.name, name.into());
        let name = &self.service.name;
        for node in &mut self.service.nodes {
            let own = node
                .id
                .strip_prefix(&old)
                .and_then(|id| id.strip_prefix('-'));
            if let Some(id) = own {
                node.id = format!("{name}-{id}");
            }
        }
        self
    }

    /// Sets the service's version.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.service.version = version.into();
        self
    }

    /// Sets the node's id: the node is called `<service>-<id>`. The node that the builder adds to a
    /// service without nodes has a UUIDv4.
    pub fn id(mut self, id: impl AsRef<str>) -> Self {
        let id = format!("{}-{}", self.service.name, id.as_ref());
        self.node().id = id;
        self
    }

    /// Adds an entry to the node's metadata.
    pub fn metadata(mut self, key: impl AsRef<str>, value: impl AsRef<str>) -> Self {
        self.node().metadata.insert(key, value);
        self
    }

    /// Sets the `host:port` to advertise to clients, instead of the node's or the listener's. With
    /// [`start_on`](Self::start_on) the port may be left out.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use waypost_core::memory::MemoryRegistry;
    /// # use waypost_core::record::Service;
    /// # use waypost_core::registrar::Registration;
    /// # let registry = MemoryRegistry::new();
    /// let registration = Registration::builder(registry, Service::new("users"))
    ///     .advertise("users-0.users.default.svc")
    ///     .start_on("0.0.0.0:8080".parse()?)
    ///     .await?;
    /// assert_eq!(registration.service().nodes[0].address, "users-0.users.default.svc:8080");
    /// # Ok(()) }
    /// ```
    pub fn advertise(mut self, address: impl Into<String>) -> Self {
        self.advertise = Some(address.into());
        self
    }

    /// Allows a loopback address in a registry that other hosts read. Default false. A registry on
    /// this host always allows one.
    pub fn allow_loopback(mut self, allow: bool) -> Self {
        self.allow_loopback = allow;
        self
    }

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

    /// Calls `check` at every interval, and keeps the node deregistered while it fails. See
    /// [`RegisterCheck`].
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
    /// let registration = Registration::builder(memory.open(), service)
    ///     .check(|| async { Err("the database is unreachable".into()) })
    ///     .start()?;
    ///
    /// let mut states = registration.watch();
    /// let state = states.wait_for(|state| matches!(state, State::Unhealthy { .. })).await?.clone();
    /// assert!(matches!(state, State::Unhealthy { why, .. } if why.contains("database")));
    /// assert!(memory.get_service("greeter").await.is_err());
    /// # Ok(()) }
    /// ```
    pub fn check(mut self, check: impl RegisterCheck) -> Self {
        self.check = Some(AnyCheck::new(check));
        self
    }

    /// Returns the current configuration.
    pub fn register_config(&self) -> &Config {
        &self.config
    }

    /// Starts the registration in a task of its own, and returns at once. An unreachable registry
    /// is retried forever, and is visible in [`Registration::state`] and the log.
    ///
    /// The address is the [advertised](Self::advertise) one, else the node's. A server that knows
    /// its listener instead calls [`start_on`](Self::start_on).
    ///
    /// # Errors
    /// Returns [`Error::Invalid`] if a setting or the record is invalid, if the record has more
    /// than one node, if clients cannot dial its address (every interface; loopback in a registry
    /// that other hosts read), or outside a tokio runtime.
    pub fn start(self) -> Result<Registration> {
        self.config.validate()?;
        let own = self.single()?.filter(|node| !node.address.is_empty());
        let mut advertise = self.choice();
        if let (None, Some(node)) = (&self.advertise, own) {
            advertise = advertise.address(&node.address);
        }
        let choice = advertise.choose(&self.registry, &[])?;
        if self.advertise.is_some() {
            advertise.log(&choice, self.registry.name(), &[]);
        }
        self.launch(&choice.address)
    }

    /// Starts the registration of a server that listens on `bound`, the address of its listener
    /// with the actual port. Returns as soon as the address to advertise is known.
    ///
    /// That is the [advertised](Self::advertise) address, else the listener's; for a listener on
    /// every interface it is this host's address on the route to the registry. [`Advertise`] has
    /// the rules. The node's own address is replaced. A service without a node gets one.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use waypost_core::memory::MemoryRegistry;
    /// use waypost_core::record::{Service, keys};
    /// use waypost_core::registrar::Registration;
    /// # let registry = MemoryRegistry::new();
    ///
    /// let listener = std::net::TcpListener::bind("0.0.0.0:0")?;
    /// let registration = Registration::builder(registry, Service::new("users"))
    ///     .metadata(keys::PROTOCOL, "http")
    ///     .start_on(listener.local_addr()?)
    ///     .await?;
    ///
    /// // The readers of a registry in memory are on this host.
    /// let port = listener.local_addr()?.port();
    /// assert_eq!(registration.service().nodes[0].address, format!("127.0.0.1:{port}"));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As for [`start`](Self::start), and [`Error::Invalid`] if this host has no usable route to
    /// the registry.
    ///
    /// # Cancel safety
    /// If the future is dropped, nothing is registered.
    pub async fn start_on(self, bound: SocketAddr) -> Result<Registration> {
        self.config.validate()?;
        self.single()?;
        let address = self
            .choice()
            .listener(bound)
            .resolve(&self.registry)
            .await?;
        self.launch(&address)
    }

    /// Returns the choice of the address without the node's own and without a listener.
    fn choice(&self) -> Advertise {
        let advertise = Advertise::default().allow_loopback(self.allow_loopback);
        match &self.advertise {
            Some(given) => advertise.address(given),
            None => advertise,
        }
    }

    fn launch(mut self, address: &Address) -> Result<Registration> {
        self.node().address = address.to_string();
        validate(&self.service, &self.registry.options().limits)?;
        if Handle::try_current().is_err() {
            return Err(Error::invalid(
                "registration",
                "cannot start outside a tokio runtime; call start inside one",
            ));
        }
        let shared = Shared {
            name: self.registry.name(),
            // A longer timeout of the registry itself applies to its requests, but not to the
            // check.
            request_timeout: self.config.timeout.max(self.registry.options().timeout),
            registry: self.registry,
            instance: Instance::random(),
            config: self.config,
            check: self.check,
            record: watch::Sender::new(self.service),
            leave: watch::Sender::new(false),
            state: watch::Sender::new(State::Starting),
            needs_drain: Arc::default(),
            task: AtomicU64::new(0),
        };
        let keeper = Arc::new(Keeper::new(shared));
        keeper.keep_running();
        Ok(Registration { keeper })
    }

    /// Returns the node, if there is one and no other.
    fn single(&self) -> Result<Option<&Node>> {
        match self.service.nodes.as_slice() {
            [] => Ok(None),
            [node] => Ok(Some(node)),
            _ => Err(wrong_number(&self.service)),
        }
    }

    /// Returns the node, added without an address if there is none.
    fn node(&mut self) -> &mut Node {
        if self.service.nodes.is_empty() {
            self.service.nodes.push(Node::new(&self.service.name, ""));
        }
        &mut self.service.nodes[0]
    }
}

/// Checks that the record has exactly one node and may be registered.
pub(super) fn validate(service: &Service, limits: &RecordLimits) -> Result<()> {
    if service.nodes.len() != 1 {
        return Err(wrong_number(service));
    }
    Ok(service.check_within(limits)?)
}

fn wrong_number(service: &Service) -> Error {
    Error::invalid(
        "registration",
        format!(
            "has {} nodes; register each node by itself",
            service.nodes.len()
        ),
    )
}
