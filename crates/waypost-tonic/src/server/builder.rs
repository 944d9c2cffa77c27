//! What is served, where, and how it is registered.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::RoutesBuilder;
use tower_service::Service as TowerService;
use waypost_core::record::DEFAULT_VERSION;
use waypost_core::registrar::{AnyCheck, Config, RegisterCheck};
use waypost_core::registry::AnyRegistry;

use super::hooks::{BoxError, Hooks};

/// Number of streams that a client may reset before the server has accepted them; one more ends the connection, with all its calls. h2's
/// 20 is less than a caller that cancels a fan-out resets at once. 1 000 is nghttp2's burst (`stream_reset_rate_limit`).
const PENDING_RESETS: usize = 1000;

/// A gRPC server that registers itself: see [`Server::builder`].
#[derive(Clone, Copy, Debug)]
pub struct Server;

impl Server {
    /// A server of the service called `name` in the registry.
    pub fn builder(name: impl Into<String>) -> Builder {
        Builder::new(name.into())
    }
}

/// A server to be. Only [`registry`](Builder::registry) must be given; without services it answers `UNIMPLEMENTED`.
#[must_use = "nothing is served until `start` or `serve`"]
pub struct Builder {
    pub(super) name: String,
    pub(super) registry: Option<AnyRegistry>,
    pub(super) bind: String,
    pub(super) advertise: Option<String>,
    pub(super) allow_loopback: bool,
    pub(super) version: String,
    pub(super) id: Option<String>,
    pub(super) metadata: Vec<(String, String)>,
    pub(super) descriptor: Vec<u8>,
    pub(super) health: bool,
    pub(super) reflection: bool,
    pub(super) register: Config,
    pub(super) check: Option<AnyCheck>,
    pub(super) drain_limit: Duration,
    pub(super) before_start: Hooks,
    pub(super) after_start: Hooks,
    pub(super) before_stop: Hooks,
    pub(super) after_stop: Hooks,
    pub(super) routes: RoutesBuilder,
    pub(super) services: Vec<&'static str>,
    pub(super) transport: tonic::transport::Server,
}

impl Builder {
    fn new(name: String) -> Self {
        Self {
            name,
            registry: None,
            bind: "127.0.0.1:0".to_owned(),
            advertise: None,
            allow_loopback: false,
            version: DEFAULT_VERSION.to_owned(),
            id: None,
            metadata: Vec::new(),
            descriptor: Vec::new(),
            health: true,
            reflection: false,
            register: Config::default(),
            check: None,
            drain_limit: Duration::from_secs(30),
            before_start: Hooks::new("before_start"),
            after_start: Hooks::new("after_start"),
            before_stop: Hooks::new("before_stop"),
            after_stop: Hooks::new("after_stop"),
            routes: RoutesBuilder::default(),
            services: Vec::new(),
            transport: tonic::transport::Server::builder().http2_max_pending_accept_reset_streams(Some(PENDING_RESETS)),
        }
    }

    /// The service's name in the registry, instead of the one it was built with.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Where it registers.
    pub fn registry(mut self, registry: AnyRegistry) -> Self {
        self.registry = Some(registry);
        self
    }

    /// The `host:port` it listens on: `127.0.0.1:0` unless given. Port 0 is any free one; `0.0.0.0` or `[::]` is every interface.
    pub fn bind(mut self, address: impl Into<String>) -> Self {
        self.bind = address.into();
        self
    }

    /// The `host:port` that clients are told, where it is not the one it listens on; without a port, the one it got.
    ///
    /// Without it, a server on every interface tells the outbound one's address, or loopback if the registry's readers are all on this
    /// host.
    pub fn advertise(mut self, address: impl Into<String>) -> Self {
        self.advertise = Some(address.into());
        self
    }

    /// Whether a loopback address may go into a registry that other hosts read: no, unless the registry itself is on this host.
    pub fn allow_loopback(mut self, allow: bool) -> Self {
        self.allow_loopback = allow;
        self
    }

    /// The service's version: `latest` unless given.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = version.into();
        self
    }

    /// The id: the node is called `<service>-<id>`. A UUIDv4 unless given.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// One entry of the node's metadata. `protocol`, `server`, `transport` and `registry` are written over.
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.push((key.into(), value.into()));
        self
    }

    /// An encoded protobuf `FileDescriptorSet`; its services' methods are registered as endpoints, and shown by reflection. Called again,
    /// it adds.
    pub fn descriptor(mut self, file_descriptor_set: &[u8]) -> Self {
        self.descriptor.extend_from_slice(file_descriptor_set);
        self
    }

    /// Whether `grpc.health.v1` is served: yes. `""` and each service are SERVING until the server drains;
    /// [`REGISTRATION`](super::REGISTRATION) tells of the registration.
    pub fn health(mut self, health: bool) -> Self {
        self.health = health;
        self
    }

    /// Whether server reflection (v1 and v1alpha) is served, of the descriptors given: no.
    pub fn reflection(mut self, reflection: bool) -> Self {
        self.reflection = reflection;
        self
    }

    /// How the registration is kept, and the drain delay.
    pub fn register(mut self, config: Config) -> Self {
        self.register = config;
        self
    }

    /// How long the record stays if nobody refreshes it: 15 s. See [`Config::ttl`].
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.register.ttl = ttl;
        self
    }

    /// How often the record is written again: 5 s. See [`Config::interval`].
    pub fn interval(mut self, interval: Duration) -> Self {
        self.register.interval = interval;
        self
    }

    /// How the registration will be kept, as it stands now.
    pub fn register_config(&self) -> &Config {
        &self.register
    }

    /// Asks `check` before each beat, and keeps the server out of the registry, though serving, while it says no.
    pub fn check(mut self, check: impl RegisterCheck) -> Self {
        self.check = Some(AnyCheck::new(check));
        self
    }

    /// Maximum time for calls in flight to finish once the server no longer accepts: 30 s. Then they are aborted. The hooks before the stop
    /// together have as long, and so have those after it.
    pub fn drain_limit(mut self, limit: Duration) -> Self {
        self.drain_limit = limit;
        self
    }

    /// Runs before anything is bound. An error or a panic ends the start.
    pub fn before_start<H, F>(mut self, hook: H) -> Self
    where
        H: FnOnce() -> F + Send + 'static,
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        self.before_start.push(hook);
        self
    }

    /// Runs once the server serves; the registration may still be on its way. An error or a panic stops the server, in order. A signal
    /// aborts the hook, and stops the server in order too.
    pub fn after_start<H, F>(mut self, hook: H) -> Self
    where
        H: FnOnce() -> F + Send + 'static,
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        self.after_start.push(hook);
        self
    }

    /// Runs when the server is ordered to stop, before it leaves the registry. An error, a panic, and a hook that takes longer than the
    /// drain limit are logged, and the stop continues.
    pub fn before_stop<H, F>(mut self, hook: H) -> Self
    where
        H: FnOnce() -> F + Send + 'static,
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        self.before_stop.push(hook);
        self
    }

    /// Runs when all calls are finished, or were aborted. An error, a panic, and a hook that takes longer than the drain limit (1 s after a
    /// second stop) are logged.
    pub fn after_stop<H, F>(mut self, hook: H) -> Self
    where
        H: FnOnce() -> F + Send + 'static,
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        self.after_stop.push(hook);
        self
    }

    /// Changes tonic's settings: time limits, concurrency, HTTP/2 windows, message sizes. Those of TCP and TLS have no effect. Unlike
    /// tonic's own, the server allows 1 000 streams of a connection to be reset before they are accepted
    /// (`http2_max_pending_accept_reset_streams`), so that a cancelled fan-out costs no other call.
    pub fn transport(mut self, change: impl FnOnce(tonic::transport::Server) -> tonic::transport::Server) -> Self {
        self.transport = change(self.transport);
        self
    }

    /// Serves one of tonic's generated services, with interceptors or without.
    pub fn add_service<S, B>(mut self, service: S) -> Self
    where
        S: TowerService<http::Request<Body>, Response = http::Response<B>, Error = Infallible> + NamedService,
        S: Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        self.routes.add_service(service);
        self.services.push(S::NAME);
        self
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("name", &self.name)
            .field("version", &self.version)
            .field("id", &self.id)
            .field("bind", &self.bind)
            .field("advertise", &self.advertise)
            .field("metadata", &self.metadata)
            .field("register", &self.register)
            .field("services", &self.services)
            .finish_non_exhaustive()
    }
}
