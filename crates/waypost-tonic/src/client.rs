//! Client: from a registry to channels.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use waypost_core::balance::{Filter, Filters, Strategy};
use waypost_core::directory::Directory;
use waypost_core::record::{Method, NameError, keys};
use waypost_core::registry::AnyRegistry;
use waypost_http::{AddressPolicy, ChannelConfig, ClientConfig, Connect, Policy, TcpConnect};

use crate::channel::Channel;
use crate::descriptor::{self, DescriptorError};
use crate::grpc::Grpc;

/// Client that finds services and calls them over gRPC. Clones are the same client; its channels
/// share watches and connections.
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
}

/// Builder of a [`Channel`].
#[derive(Debug)]
pub struct ChannelBuilder {
    http: waypost_http::Client,
    service: String,
    config: ChannelConfig,
    policy: Policy,
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
        ClientBuilder { registry: registry.into(), config: ClientConfig::default(), changes: Changes::default() }
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
        config.balance.filters.push(Filter::Protocol("grpc".to_owned()));
        ChannelBuilder {
            http: self.http.clone(),
            service: service.to_owned(),
            config,
            policy: Policy::default(),
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
    #[must_use]
    pub fn address_policy(mut self, policy: AddressPolicy) -> Self {
        self.config.addresses = Some(policy);
        self
    }

    /// Changes every channel when it is built, after the channel's own settings, and overrides
    /// them. Repeated calls add changes.
    #[must_use]
    pub fn configure_channels(mut self, change: impl Fn(ChannelBuilder) -> ChannelBuilder + Send + Sync + 'static) -> Self {
        self.changes.0.push(Arc::new(change));
        self
    }

    /// Replaces all settings except those of [`configure_channels`](ClientBuilder::configure_channels).
    #[must_use]
    pub fn config(mut self, config: ClientConfig) -> Self {
        self.config = config;
        self
    }

    /// Builds the client, over TCP.
    pub fn build(self) -> Client {
        self.build_with(TcpConnect)
    }

    /// Builds the client over the connections that `connect` opens.
    pub fn build_with(self, connect: impl Connect) -> Client {
        Client { http: waypost_http::Client::with_connect(self.registry, self.config, connect), changes: self.changes }
    }
}

impl ChannelBuilder {
    /// Restricts the channel to nodes that pass this filter too.
    #[must_use]
    pub fn filter(mut self, filter: Filter) -> Self {
        self.config.balance.filters.push(filter);
        self
    }

    /// Restricts the channel to nodes of this version.
    #[must_use]
    pub fn version(self, version: &str) -> Self {
        self.filter(Filter::Version(version.to_owned()))
    }

    /// Restricts the channel to nodes with this entry in their metadata.
    #[must_use]
    pub fn label(self, key: &str, value: &str) -> Self {
        self.filter(Filter::Label(key.to_owned(), value.to_owned()))
    }

    /// Prepares filters for [`Channel::filtered`]: its nodes pass the channel's filters and these.
    #[must_use]
    pub fn filtered(mut self, name: &str, filters: Filters) -> Self {
        self.config.filtered.insert(name.to_owned(), filters);
        self
    }

    /// Sets the strategy that picks a node. Default: least request of two choices. For a strategy
    /// by name, pass `name.strategy()` of a [`StrategyName`](waypost_core::balance::StrategyName).
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
    #[must_use]
    pub fn idempotent(mut self, path: &str) -> Self {
        self.policy.idempotent.insert(path.to_owned());
        self
    }

    /// Forbids calls of this method to be sent twice, even if the service marks it as idempotent.
    /// `path` is the full path, `/greeter.Greeter/Hello`.
    #[must_use]
    pub fn not_idempotent(mut self, path: &str) -> Self {
        self.policy.never.insert(path.to_owned());
        self
    }

    /// Adds a protobuf descriptor set that describes the service's methods, for services whose
    /// record does not.
    #[must_use]
    pub fn descriptor(mut self, set: &[u8]) -> Self {
        self.descriptors.extend_from_slice(set);
        self
    }

    /// Sets the maximum number of attempts that count, the first included. Default 3.
    #[must_use]
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.policy.max_attempts = attempts.max(1);
        self
    }

    /// Sets the longest wait of a call for a ready node, within its deadline. Default: until the
    /// deadline while nodes are known, and 3 s while none is.
    #[must_use]
    pub fn wait_for_ready(mut self, wait: Duration) -> Self {
        self.config.wait_for_ready = Some(wait);
        self
    }

    /// Sets the deadline of calls that set none, for methods known to be unary and for unknown
    /// ones. Streams have none. Default: 30 s for methods known to be unary.
    #[must_use]
    pub fn default_timeout(mut self, timeout: Duration) -> Self {
        self.config.default_timeout = Some(timeout);
        self
    }

    /// Builds the channel. Nothing is watched or connected before its first call.
    ///
    /// # Errors
    /// [`BuildError`] if the name or the descriptor set is invalid.
    pub fn build(mut self) -> Result<Channel, BuildError> {
        let changes = std::mem::take(&mut self.changes);
        changes.0.iter().fold(self, |channel, change| change(channel)).finish()
    }

    fn finish(mut self) -> Result<Channel, BuildError> {
        let service = self.service.parse()?;
        for endpoint in descriptor::endpoints(&self.descriptors)? {
            let is = |key| endpoint.metadata.get(key) == Some("true");
            if let Some(path) = endpoint.metadata.get(keys::PATH) {
                let method = Method { idempotent: is(keys::IDEMPOTENT), streaming: is(keys::STREAM) };
                self.config.methods.insert(path.to_owned(), method);
            }
        }
        self.config.policy = Arc::new(self.policy);
        Ok(Channel::new(self.http.channel(service, self.config, Arc::new(Grpc))))
    }
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Changes({})", self.0.len())
    }
}
