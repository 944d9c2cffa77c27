//! Client: from a registry to channels.

#[cfg(feature = "tls")]
mod tls;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use waypost_core::balance::{Filter, Filters, Strategy};
use waypost_core::directory::Directory;
use waypost_core::record::{Method, NameError, keys};
use waypost_core::registry::AnyRegistry;
#[cfg(feature = "tls")]
use waypost_http::TlsConnect;
use waypost_http::{AddressPolicy, ChannelConfig, ClientConfig, Connect, Policy, TcpConnect};

use crate::channel::Channel;
use crate::descriptor::{self, DescriptorError};
use crate::grpc::Grpc;

/// Client that finds services and calls them over gRPC. Clones are the same client; its channels
/// share watches and connections.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/greeter.rs"));
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use waypost_tonic::Client;
///
/// # let registry = registry();
/// # let _server = serving(waypost_tonic::Server::builder("greeter", registry.clone()), MyGreeter).await;
/// let client = Client::new(registry);
/// let mut greeter = GreeterClient::new(client.channel("greeter")?);
/// let response = greeter.hello(HelloRequest { name: "Ann".into() }).await?;
/// assert_eq!(response.into_inner().message, "Hello Ann");
///
/// client.close().await;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    http: waypost_http::Client,
    changes: Changes,
}

/// Builder of a [`Client`].
#[derive(Debug)]
pub struct ClientBuilder {
    registry: AnyRegistry,
    config: ClientConfig,
    changes: Changes,
    #[cfg(feature = "tls")]
    tls: Option<TlsConnect>,
}

/// Builder of a [`Channel`].
#[derive(Debug)]
pub struct ChannelBuilder {
    http: waypost_http::Client,
    service: String,
    config: ChannelConfig,
    descriptors: Vec<u8>,
    changes: Changes,
}

/// Settings that a client applies to each of its channels.
#[derive(Clone, Default)]
struct Changes(Vec<Arc<dyn Fn(ChannelBuilder) -> ChannelBuilder + Send + Sync>>);

/// Error of building a channel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Name that no service can be registered under.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Descriptor set that cannot be read.
    #[error("the channel's descriptor set cannot be read")]
    Descriptor(#[from] DescriptorError),
}

impl Client {
    /// Creates a client of `registry` with default settings. Nothing is watched or connected before
    /// the first call.
    pub fn new(registry: impl Into<AnyRegistry>) -> Self {
        Self::builder(registry).build()
    }

    /// Returns a builder for a client of `registry`.
    pub fn builder(registry: impl Into<AnyRegistry>) -> ClientBuilder {
        ClientBuilder {
            registry: registry.into(),
            config: ClientConfig::default(),
            changes: Changes::default(),
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// Creates a channel to `service` with default settings.
    ///
    /// # Errors
    /// [`BuildError::Name`] if no service can have this name.
    pub fn channel(&self, service: &str) -> Result<Channel, BuildError> {
        self.channel_builder(service).build()
    }

    /// Returns a builder for a channel to `service`.
    pub fn channel_builder(&self, service: &str) -> ChannelBuilder {
        let mut config = ChannelConfig::default();
        config
            .balance
            .filters
            .push(Filter::Protocol("grpc".to_owned()));
        ChannelBuilder {
            http: self.http.clone(),
            service: service.to_owned(),
            config,
            descriptors: Vec::new(),
            changes: self.changes.clone(),
        }
    }

    /// Returns the client's view of the services in use, for a
    /// [`Selector`](waypost_core::balance::Selector).
    pub fn directory(&self) -> &Directory {
        self.http.directory()
    }

    /// Closes the client: calls in flight fail, connections close, watches stop, and every task has
    /// ended when this returns. The registry stays open; its owner closes it.
    ///
    /// # Cancel safety
    /// If it is dropped, the client is closed, and its tasks end without being waited for.
    pub async fn close(&self) {
        self.http.close().await;
    }
}

impl ClientBuilder {
    /// Sets the time for which a lost node is kept on its existing connections. Default 15 s.
    #[must_use]
    pub fn suspect_grace(mut self, grace: Duration) -> Self {
        self.config.directory.suspect_grace = grace;
        self
    }

    /// Sets the maximum time from the start of a dial to the SETTINGS frame of the server. Default
    /// 2 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.config.connection.connect_timeout = timeout;
        self
    }

    /// Sets the addresses that may be dialed. By default, loopback is allowed only if the registry
    /// is on this host.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/greeter.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use waypost_core::balance::Decision;
    /// use waypost_core::peer::Exclusion;
    /// use waypost_http::AddressPolicy;
    ///
    /// # use waypost_tonic::Client;
    /// # let registry = registry();
    /// # let _server = started(waypost_tonic::Server::builder("greeter", registry.clone())).await;
    /// let client = Client::builder(registry).address_policy(AddressPolicy { loopback: false }).build();
    /// let channel = client.channel("greeter")?;
    ///
    /// // The only server listens on 127.0.0.1.
    /// assert!(channel.ready(Duration::from_millis(200)).await.is_err());
    /// let decision = channel.snapshot().nodes[0].decision;
    /// assert_eq!(decision, Decision::Excluded(Exclusion::AddressRefused));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn address_policy(mut self, policy: AddressPolicy) -> Self {
        self.config.addresses = Some(policy);
        self
    }

    /// Changes every channel when it is built, after the channel's own settings, and overrides
    /// them. Repeated calls add changes.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/greeter.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use std::time::Duration;
    /// # use waypost_tonic::Client;
    /// # let registry = registry();
    /// let client = Client::builder(registry)
    ///     .configure_channels(|channel| channel.wait_for_ready(Duration::from_millis(100)))
    ///     .build();
    ///
    /// // No server is registered.
    /// let mut greeter = GreeterClient::new(client.channel("greeter")?);
    /// let status = greeter.hello(HelloRequest::default()).await.unwrap_err();
    /// assert!(status.message().starts_with("greeter: no node was ready"));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn configure_channels(
        mut self,
        change: impl Fn(ChannelBuilder) -> ChannelBuilder + Send + Sync + 'static,
    ) -> Self {
        self.changes.0.push(Arc::new(change));
        self
    }

    /// Replaces all settings except those of [`configure_channels`](ClientBuilder::configure_channels).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/greeter.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use waypost_http::ClientConfig;
    /// # use waypost_tonic::Client;
    ///
    /// # let registry = registry();
    /// let mut config = ClientConfig::default();
    /// config.waiting_calls = 0;
    /// let client = Client::builder(registry).config(config).build();
    ///
    /// // No server is registered, and no call may wait for one.
    /// let mut greeter = GreeterClient::new(client.channel("greeter")?);
    /// let status = greeter.hello(HelloRequest::default()).await.unwrap_err();
    /// assert_eq!(status.code(), tonic::Code::Unavailable);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn config(mut self, config: ClientConfig) -> Self {
        self.config = config;
        self
    }

    /// Changes any of the settings in place: those that have no setter of their own.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/greeter.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use waypost_tonic::Client;
    /// # let registry = registry();
    /// let client = Client::builder(registry)
    ///     .configure(|config| {
    ///         config.budget.per_call = 0.1;
    ///         config.reconnect.backoff.max = std::time::Duration::from_secs(1);
    ///     })
    ///     .build();
    /// # client.close().await;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn configure(mut self, change: impl FnOnce(&mut ClientConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// Builds the client, over TCP, with TLS if it is configured.
    pub fn build(self) -> Client {
        #[cfg(feature = "tls")]
        if let Some(connect) = self.tls.clone() {
            return self.build_with(connect);
        }
        self.build_with(TcpConnect)
    }

    /// Builds the client over the connections that `connect` opens, which replaces TCP and TLS.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/greeter.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use std::time::Duration;
    /// # use waypost_tonic::Client;
    /// use waypost_core::record::Address;
    /// use waypost_http::{AddressPolicy, Connect, Connecting, TcpConnect};
    ///
    /// /// TCP, with a count of the dials.
    /// #[derive(Debug)]
    /// struct Counted(Arc<AtomicU32>);
    ///
    /// impl Connect for Counted {
    ///     fn connect<'a>(&'a self, address: &'a Address, policy: &'a AddressPolicy) -> Connecting<'a> {
    ///         self.0.fetch_add(1, Relaxed);
    ///         TcpConnect.connect(address, policy)
    ///     }
    /// }
    ///
    /// # let registry = registry();
    /// # let _server = started(waypost_tonic::Server::builder("greeter", registry.clone())).await;
    /// let dials = Arc::new(AtomicU32::new(0));
    /// let client = Client::builder(registry).build_with(Counted(Arc::clone(&dials)));
    /// client.channel("greeter")?.ready(Duration::from_secs(5)).await?;
    /// assert_eq!(dials.load(Relaxed), 1);
    /// # Ok(()) }
    /// ```
    pub fn build_with(self, connect: impl Connect) -> Client {
        Client {
            http: waypost_http::Client::with_connect(self.registry, self.config, connect),
            changes: self.changes,
        }
    }
}

impl ChannelBuilder {
    /// Restricts the channel to nodes that pass this filter too.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/greeter.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use std::time::Duration;
    /// # use waypost_tonic::{Client, Server};
    /// use waypost_core::balance::{Decision, Filter};
    /// use waypost_core::peer::Exclusion;
    ///
    /// # let registry = registry();
    /// # let server = |id| Server::builder("greeter", registry.clone()).id(id);
    /// # let _a = started(server("a")).await;
    /// # let _b = started(server("b").metadata("cordoned", "true")).await;
    /// # let client = Client::new(registry);
    /// let channel = client
    ///     .channel_builder("greeter")
    ///     .filter(Filter::predicate(|entry| !entry.node.metadata.contains_key("cordoned")))
    ///     .build()?;
    /// channel.ready(Duration::from_secs(5)).await?;
    ///
    /// let nodes = channel.snapshot().nodes;
    /// assert_eq!((nodes[0].id.as_str(), nodes[0].decision), ("greeter-a", Decision::Picked));
    /// assert_eq!(nodes[1].decision, Decision::Excluded(Exclusion::Predicate));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn filter(mut self, filter: Filter) -> Self {
        self.config.balance.filters.push(filter);
        self
    }

    /// Restricts the channel to nodes of this version.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/greeter.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use waypost_http::ServedBy;
    /// # use waypost_tonic::{Client, Server};
    /// # let registry = registry();
    /// # let builder = || Server::builder("greeter", registry.clone());
    /// # let server = |version| serving(builder().id(version).version(version), MyGreeter);
    /// # let _servers = (server("1").await, server("2").await);
    /// # let client = Client::new(registry.clone());
    /// let channel = client.channel_builder("greeter").version("2").build()?;
    /// let response = GreeterClient::new(channel).hello(HelloRequest::default()).await?;
    ///
    /// let served_by = response.extensions().get::<ServedBy>().ok_or("no node")?;
    /// assert_eq!(served_by.node.id, "greeter-2");
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn version(self, version: &str) -> Self {
        self.filter(Filter::Version(version.to_owned()))
    }

    /// Restricts the channel to nodes with this entry in their metadata.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/greeter.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use std::time::Duration;
    /// # use waypost_tonic::{Client, Server};
    /// use waypost_core::balance::Decision;
    /// use waypost_core::peer::Exclusion;
    ///
    /// # let registry = registry();
    /// # let server = |id| Server::builder("greeter", registry.clone()).id(id);
    /// # let _a = started(server("a").metadata("zone", "eu-1")).await;
    /// # let _b = started(server("b").metadata("zone", "us-1")).await;
    /// # let client = Client::new(registry);
    /// let channel = client.channel_builder("greeter").label("zone", "eu-1").build()?;
    /// channel.ready(Duration::from_secs(5)).await?;
    ///
    /// let nodes = channel.snapshot().nodes;
    /// assert_eq!((nodes[0].id.as_str(), nodes[0].decision), ("greeter-a", Decision::Picked));
    /// assert_eq!(nodes[1].decision, Decision::Excluded(Exclusion::Label));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn label(self, key: &str, value: &str) -> Self {
        self.filter(Filter::Label(key.to_owned(), value.to_owned()))
    }

    /// Prepares filters for [`Channel::filtered`]: its nodes pass the channel's filters and these.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/greeter.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use std::time::Duration;
    /// # use waypost_http::ServedBy;
    /// # use waypost_tonic::{Client, Server};
    /// use waypost_core::balance::{Filter, Filters};
    ///
    /// # let registry = registry();
    /// # let builder = || Server::builder("greeter", registry.clone());
    /// # let server = |track| serving(builder().id(track).metadata("track", track), MyGreeter);
    /// # let _servers = (server("stable").await, server("canary").await);
    /// # let client = Client::new(registry.clone());
    /// let canaries = Filters::default().and(Filter::Label("track".to_owned(), "canary".to_owned()));
    /// let channel = client.channel_builder("greeter").filtered("canary", canaries).build()?;
    ///
    /// let mut canary = GreeterClient::new(channel.filtered("canary")?);
    /// let response = canary.hello(HelloRequest::default()).await?;
    /// let served_by = response.extensions().get::<ServedBy>().ok_or("no node")?;
    /// assert_eq!(served_by.node.id, "greeter-canary");
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn filtered(mut self, name: &str, filters: Filters) -> Self {
        self.config.filtered.insert(name.to_owned(), filters);
        self
    }

    /// Sets the strategy that picks a node. Default: least request of two choices. For a strategy
    /// by name, pass `name.strategy()` of a [`StrategyName`](waypost_core::balance::StrategyName).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/greeter.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use waypost_http::ServedBy;
    /// # use waypost_tonic::{Client, Server};
    /// use waypost_core::balance::RoundRobin;
    ///
    /// # let registry = registry();
    /// # let server = |id| serving(Server::builder("greeter", registry.clone()).id(id), MyGreeter);
    /// # let _servers = (server("a").await, server("b").await);
    /// # let client = Client::new(registry.clone());
    /// let channel = client.channel_builder("greeter").strategy(RoundRobin::default()).build()?;
    /// # picked(&channel, 2).await;
    /// let mut greeter = GreeterClient::new(channel);
    /// let mut nodes = Vec::new();
    /// for _ in 0..4 {
    ///     let response = greeter.hello(HelloRequest::default()).await?;
    ///     nodes.extend(response.extensions().get::<ServedBy>().map(|served_by| served_by.node.id.clone()));
    /// }
    /// assert!(nodes[0] != nodes[1] && nodes[0] == nodes[2] && nodes[1] == nodes[3]);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn strategy(mut self, strategy: impl Strategy) -> Self {
        self.config.balance.strategy = Arc::new(strategy);
        self
    }

    /// Sets the maximum number of nodes to connect to. Default 100.
    #[must_use]
    pub fn max_peers(mut self, max: usize) -> Self {
        self.config.balance.max_peers = max;
        self
    }

    /// Allows calls of this method to be sent twice. `path` is the full path,
    /// `/greeter.Greeter/Hello`.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/greeter.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use waypost_http::ServedBy;
    /// # use waypost_tonic::{Client, Server};
    /// # let registry = registry();
    /// # let flaky = FlakyGreeter { failures: 1, ..FlakyGreeter::default() };
    /// # let _server = serving(Server::builder("greeter", registry.clone()), flaky).await;
    /// # let client = Client::new(registry);
    /// let channel = client.channel_builder("greeter").idempotent("/greeter.Greeter/Hello").build()?;
    ///
    /// // The server's first response is UNAVAILABLE.
    /// let response = GreeterClient::new(channel).hello(HelloRequest::default()).await?;
    /// let served_by = response.extensions().get::<ServedBy>().ok_or("no node")?;
    /// assert_eq!(served_by.attempts, 2);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn idempotent(mut self, path: &str) -> Self {
        self.policy().idempotent.insert(path.to_owned());
        self
    }

    /// Forbids calls of this method to be sent twice, even if the service marks it as idempotent.
    /// `path` is the full path, `/greeter.Greeter/Hello`.
    #[must_use]
    pub fn not_idempotent(mut self, path: &str) -> Self {
        self.policy().never.insert(path.to_owned());
        self
    }

    /// Adds a protobuf descriptor set that describes the service's methods, for services whose
    /// record does not.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/greeter.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use waypost_http::ServedBy;
    /// # use waypost_tonic::{Client, Server};
    /// # let registry = registry();
    /// # let flaky = FlakyGreeter { failures: 1, ..FlakyGreeter::default() };
    /// # let _server = serving(Server::builder("greeter", registry.clone()), flaky).await;
    /// # let client = Client::new(registry);
    /// // The set declares `Hello` as idempotent.
    /// let channel = client.channel_builder("greeter").descriptor(FILE_DESCRIPTOR_SET).build()?;
    ///
    /// // The server's first response is UNAVAILABLE.
    /// let response = GreeterClient::new(channel).hello(HelloRequest::default()).await?;
    /// let served_by = response.extensions().get::<ServedBy>().ok_or("no node")?;
    /// assert_eq!(served_by.attempts, 2);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn descriptor(mut self, set: &[u8]) -> Self {
        self.descriptors.extend_from_slice(set);
        self
    }

    /// Sets the maximum number of attempts that count, the first included. Default 3.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/greeter.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use waypost_tonic::{Client, Server};
    /// # let registry = registry();
    /// # let unavailable = FlakyGreeter { failures: u32::MAX, ..FlakyGreeter::default() };
    /// # let calls = Arc::clone(&unavailable.calls);
    /// # let _server = serving(Server::builder("greeter", registry.clone()), unavailable).await;
    /// # let client = Client::new(registry);
    /// let channel = client
    ///     .channel_builder("greeter")
    ///     .idempotent("/greeter.Greeter/Hello")
    ///     .max_attempts(2)
    ///     .build()?;
    ///
    /// // Each response of the server is UNAVAILABLE.
    /// assert!(GreeterClient::new(channel).hello(HelloRequest::default()).await.is_err());
    /// assert_eq!(calls.load(Relaxed), 2);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.policy().max_attempts = attempts.max(1);
        self
    }

    /// Sets the longest wait of a call for a ready node, within its deadline. Default: until the
    /// deadline while nodes are known, and 3 s while none is.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/greeter.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use std::time::Duration;
    /// # use waypost_tonic::Client;
    /// # let registry = registry();
    /// # let client = Client::new(registry);
    /// let channel = client.channel_builder("greeter").wait_for_ready(Duration::from_millis(100)).build()?;
    ///
    /// // No server is registered.
    /// let status = GreeterClient::new(channel).hello(HelloRequest::default()).await.unwrap_err();
    /// assert_eq!(status.code(), tonic::Code::Unavailable);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn wait_for_ready(mut self, wait: Duration) -> Self {
        self.config.wait_for_ready = Some(wait);
        self
    }

    /// Sets the deadline of calls that set none, for methods known to be unary and for unknown
    /// ones. Streams have none. Default: 30 s for methods known to be unary.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/greeter.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use std::time::Duration;
    /// # use waypost_tonic::{Client, Server};
    /// # let registry = registry();
    /// # let _server = serving(Server::builder("greeter", registry.clone()), SlowGreeter).await;
    /// # let client = Client::new(registry);
    /// let channel = client.channel_builder("greeter").default_timeout(Duration::from_millis(100)).build()?;
    ///
    /// // The server never responds.
    /// let status = GreeterClient::new(channel).hello(HelloRequest::default()).await.unwrap_err();
    /// assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn default_timeout(mut self, timeout: Duration) -> Self {
        self.config.default_timeout = Some(timeout);
        self
    }

    /// Changes any of the settings in place: those that have no setter of their own.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/greeter.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use waypost_tonic::Client;
    /// # let client = Client::new(registry());
    /// let channel = client
    ///     .channel_builder("greeter")
    ///     .configure(|config| {
    ///         // Messages of up to 1 MiB may be sent again.
    ///         config.replay_limit = 1 << 20;
    ///         // A service that answers within 10 ms at most.
    ///         config.stall.after = std::time::Duration::from_millis(200);
    ///     })
    ///     .build()?;
    /// # drop(channel);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn configure(mut self, change: impl FnOnce(&mut ChannelConfig)) -> Self {
        change(&mut self.config);
        self
    }

    fn policy(&mut self) -> &mut Policy {
        Arc::make_mut(&mut self.config.policy)
    }

    /// Builds the channel. Nothing is watched or connected before its first call.
    ///
    /// # Errors
    /// [`BuildError`] if the name or the descriptor set is invalid.
    pub fn build(mut self) -> Result<Channel, BuildError> {
        let changes = std::mem::take(&mut self.changes);
        changes
            .0
            .iter()
            .fold(self, |channel, change| change(channel))
            .finish()
    }

    fn finish(mut self) -> Result<Channel, BuildError> {
        let service = self.service.parse()?;
        for endpoint in descriptor::endpoints(&self.descriptors)? {
            let is = |key| endpoint.metadata.get(key) == Some("true");
            if let Some(path) = endpoint.metadata.get(keys::PATH) {
                let method = Method {
                    idempotent: is(keys::IDEMPOTENT),
                    streaming: is(keys::STREAM),
                };
                self.config.methods.insert(path.to_owned(), method);
            }
        }
        Ok(Channel::new(self.http.channel(
            service,
            self.config,
            Arc::new(Grpc),
        )))
    }
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Changes({})", self.0.len())
    }
}
