//! The client's front door: from a registry to channels.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use waypost_core::balance::{Filter, Filters, Strategy};
use waypost_core::directory::Directory;
use waypost_core::record::{Method, NameError, keys};
use waypost_core::registry::AnyRegistry;
use waypost_http::{AddressPolicy, ChannelConfig, Config, Connect, Policy, TcpConnect};

use crate::channel::Channel;
use crate::describe::{self, DescribeError};
use crate::grpc::Grpc;

/// Finds services and calls them over gRPC. Clones are the same client; its channels share watches and connections.
#[derive(Clone, Debug)]
pub struct Client {
    http: waypost_http::Client,
    changes: Changes,
}

/// Builds a [`Client`].
#[derive(Debug)]
pub struct ClientBuilder {
    registry: AnyRegistry,
    config: Config,
    changes: Changes,
}

/// Builds a [`Channel`].
#[derive(Debug)]
pub struct ChannelBuilder {
    http: waypost_http::Client,
    service: String,
    config: ChannelConfig,
    policy: Policy,
    descriptors: Vec<u8>,
    changes: Changes,
}

/// What a client has to say about each of its channels.
#[derive(Clone, Default)]
struct Changes(Vec<Arc<dyn Fn(ChannelBuilder) -> ChannelBuilder + Send + Sync>>);

/// Why a channel could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The service's name is none that can be registered.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The descriptor set cannot be read.
    #[error("the channel's descriptor set cannot be read")]
    Descriptor(#[from] DescribeError),
}

impl Client {
    /// A client of `registry` with every default. Nothing is watched or connected until the first call.
    pub fn new(registry: AnyRegistry) -> Self {
        Self::builder(registry).build()
    }

    /// A client with settings of its own.
    pub fn builder(registry: AnyRegistry) -> ClientBuilder {
        ClientBuilder { registry, config: Config::default(), changes: Changes::default() }
    }

    /// A channel to `service` with every default.
    ///
    /// # Errors
    /// [`BuildError::Name`] if no service can have this name.
    pub fn channel(&self, service: &str) -> Result<Channel, BuildError> {
        self.channel_builder(service).build()
    }

    /// A channel to `service` with settings of its own.
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

    /// The client's picture of the services in use, for a [`Selector`](waypost_core::balance::Selector).
    pub fn directory(&self) -> &Directory {
        self.http.directory()
    }

    /// Ends everything: calls in flight fail, connections close, watches stop, and every task has ended when this returns. The registry
    /// stays open: it is its owner's to close.
    pub async fn close(&self) {
        self.http.close().await;
    }
}

impl ClientBuilder {
    /// How long a lost node is kept on the connections it has. Default 15 s.
    #[must_use]
    pub fn suspect_grace(mut self, grace: Duration) -> Self {
        self.config.directory.suspect_grace = grace;
        self
    }

    /// How long dialling and the server's hello may take together. Default 2 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.config.connection.connect_timeout = timeout;
        self
    }

    /// Which addresses may be dialled. Default: loopback only where the registry is of this host.
    #[must_use]
    pub fn addresses(mut self, policy: AddressPolicy) -> Self {
        self.config.addresses = Some(policy);
        self
    }

    /// Changes every channel when it is built, after all that was said of that channel itself: what is set here has the last word. Called
    /// again, it adds.
    #[must_use]
    pub fn channels(mut self, change: impl Fn(ChannelBuilder) -> ChannelBuilder + Send + Sync + 'static) -> Self {
        self.changes.0.push(Arc::new(change));
        self
    }

    /// All settings at once, but those of [`channels`](ClientBuilder::channels).
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// The client, over TCP.
    pub fn build(self) -> Client {
        self.build_with(TcpConnect)
    }

    /// The client, over connections made in another way.
    pub fn build_with(self, connect: impl Connect) -> Client {
        Client { http: waypost_http::Client::with_connect(self.registry, self.config, connect), changes: self.changes }
    }
}

impl ChannelBuilder {
    /// Only nodes that meet this condition too.
    #[must_use]
    pub fn filter(mut self, filter: Filter) -> Self {
        self.config.balance.filters.push(filter);
        self
    }

    /// Only nodes of this version.
    #[must_use]
    pub fn version(self, version: &str) -> Self {
        self.filter(Filter::Version(version.to_owned()))
    }

    /// Only nodes with this in their metadata.
    #[must_use]
    pub fn label(self, key: &str, value: &str) -> Self {
        self.filter(Filter::Label(key.to_owned(), value.to_owned()))
    }

    /// Prepares a subset for [`Channel::subset`]: the channel's filters and these.
    #[must_use]
    pub fn subset(mut self, name: &str, filters: Filters) -> Self {
        self.config.subsets.insert(name.to_owned(), filters);
        self
    }

    /// How a node is chosen. Default two choices, least request. By name: `strategy(name.strategy())` of a
    /// [`StrategyName`](waypost_core::balance::StrategyName).
    #[must_use]
    pub fn strategy(mut self, strategy: impl Strategy) -> Self {
        self.config.balance.strategy = Arc::new(strategy);
        self
    }

    /// To how many nodes to connect at most. Default 100.
    #[must_use]
    pub fn max_peers(mut self, max: usize) -> Self {
        self.config.balance.max_peers = max;
        self
    }

    /// Calls of this method may be sent twice: its full path, `/greeter.Greeter/Hello`.
    #[must_use]
    pub fn idempotent(mut self, path: &str) -> Self {
        self.policy.idempotent.insert(path.to_owned());
        self
    }

    /// Calls of this method are never sent twice, whatever the service says of it: its full path, `/greeter.Greeter/Hello`.
    #[must_use]
    pub fn not_idempotent(mut self, path: &str) -> Self {
        self.policy.never.insert(path.to_owned());
        self
    }

    /// What is known of the service's methods from its protobuf descriptor set, for services whose record does not say.
    #[must_use]
    pub fn descriptor(mut self, set: &[u8]) -> Self {
        self.descriptors.extend_from_slice(set);
        self
    }

    /// Attempts that count, the first included. Default 3.
    #[must_use]
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.policy.max_attempts = attempts.max(1);
        self
    }

    /// Longest wait of a call for a ready node, within its deadline. Default: until the deadline while nodes are known, and 3 s where none
    /// is.
    #[must_use]
    pub fn ready_wait(mut self, wait: Duration) -> Self {
        self.config.ready_wait = Some(wait);
        self
    }

    /// Deadline of calls that set none, of methods known to be unary and of unknown ones; streams have none. Default: 30 s for methods known
    /// to be unary.
    #[must_use]
    pub fn default_timeout(mut self, timeout: Duration) -> Self {
        self.config.default_timeout = Some(timeout);
        self
    }

    /// The channel. Nothing is watched or connected until its first call.
    ///
    /// # Errors
    /// [`BuildError`] if the name or the descriptor set is wrong.
    pub fn build(mut self) -> Result<Channel, BuildError> {
        let changes = std::mem::take(&mut self.changes);
        changes.0.iter().fold(self, |channel, change| change(channel)).finish()
    }

    fn finish(mut self) -> Result<Channel, BuildError> {
        let service = self.service.parse()?;
        for endpoint in describe::endpoints(&self.descriptors)? {
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
