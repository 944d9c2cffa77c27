//! What is served, where, and how it is registered.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::RoutesBuilder;
use tower_service::Service as TowerService;
use waypost_core::record::{DEFAULT_VERSION, Endpoint, Metadata, NilableVec, Node, Service, keys};
use waypost_core::registrar::{AnyCheck, Config, RegisterCheck, Registration};
use waypost_core::registry::{AnyRegistry, Registry};

use super::address::{advertised, outbound};
use super::health::Health;
use super::hooks::{BoxError, Hooks};
use super::run::{Order, Run};
use super::signals::Signals;
use super::{Error, Running};
use crate::describe;

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
    name: String,
    registry: Option<AnyRegistry>,
    bind: String,
    advertise: Option<String>,
    allow_loopback: bool,
    version: String,
    id: Option<String>,
    metadata: Vec<(String, String)>,
    descriptor: Vec<u8>,
    health: bool,
    reflection: bool,
    register: Config,
    check: Option<AnyCheck>,
    drain_limit: Duration,
    before_start: Hooks,
    after_start: Hooks,
    before_stop: Hooks,
    after_stop: Hooks,
    routes: RoutesBuilder,
    services: Vec<&'static str>,
    transport: tonic::transport::Server,
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
            transport: tonic::transport::Server::builder(),
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

    /// How long calls in flight may take once it no longer accepts: 30 s. Then they are cut. It bounds the stop hooks too.
    pub fn drain_limit(mut self, limit: Duration) -> Self {
        self.drain_limit = limit;
        self
    }

    /// Runs before anything is bound. An error ends the start.
    pub fn before_start<H, F>(mut self, hook: H) -> Self
    where
        H: FnOnce() -> F + Send + 'static,
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        self.before_start.push(hook);
        self
    }

    /// Runs once it serves; the registration may still be on its way. An error stops the server, in order.
    pub fn after_start<H, F>(mut self, hook: H) -> Self
    where
        H: FnOnce() -> F + Send + 'static,
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        self.after_start.push(hook);
        self
    }

    /// Runs when it is told to stop, before it leaves the registry. An error is logged.
    pub fn before_stop<H, F>(mut self, hook: H) -> Self
    where
        H: FnOnce() -> F + Send + 'static,
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        self.before_stop.push(hook);
        self
    }

    /// Runs when all calls are finished. An error is logged. Passed over when what was in flight had to be cut.
    pub fn after_stop<H, F>(mut self, hook: H) -> Self
    where
        H: FnOnce() -> F + Send + 'static,
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        self.after_stop.push(hook);
        self
    }

    /// Changes tonic's settings: time limits, concurrency, HTTP/2 windows, message sizes. Those of TCP and TLS have no effect.
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

    /// Serves until SIGTERM or SIGINT, and then until what is in flight is finished; a second signal stops at once.
    ///
    /// # Errors
    /// As [`start`](Builder::start), and [`Error::Signals`].
    ///
    /// # Cancel safety
    /// Dropped, the server is cut, as a dropped [`Running`].
    pub async fn serve(self) -> Result<(), Error> {
        let mut signals = Signals::listen().map_err(Error::Signals)?;
        let mut running = tokio::select! {
            started = self.start() => started?,
            () = signals.next() => return Ok(()),
        };
        loop {
            tokio::select! {
                result = running.wait() => return result,
                () = signals.next() => running.stop(),
            }
        }
    }

    /// Binds, serves, and begins to register; returns when it serves. A registry out of reach delays nothing: it is retried for ever.
    ///
    /// # Errors
    /// See [`Error`]: settings that cannot work, an address that cannot be had, a hook that failed.
    ///
    /// # Cancel safety
    /// Dropped half-way, nothing is left.
    pub async fn start(mut self) -> Result<Running, Error> {
        let registry = self.registry.clone().ok_or_else(|| Error::NoRegistry { service: self.name.clone() })?;
        let endpoints = describe::endpoints(&self.descriptor).map_err(|error| Error::Descriptor(error.into()))?;
        self.before_start.run().await?;
        let bind = |source| Error::Bind { address: self.bind.clone(), source };
        let listener = TcpListener::bind(&self.bind).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let node = self.node(&registry, address)?;
        let (name, advertised, node_id) = (self.name.clone(), node.address.clone(), node.id.clone());
        let service = self.service(endpoints, node);
        let mut after_start = std::mem::replace(&mut self.after_start, Hooks::new("after_start"));
        let (orders, order) = watch::channel(Order::Serve);
        let run = self.run(registry, service, listener, order).await?;
        let (registration, state) = (Arc::downgrade(&run.registration), run.registration.watch());
        let mut task = JoinSet::new();
        task.spawn(run.run());
        let mut running = Running { name, address, advertised, node_id, orders, registration, state, task };
        if let Err(error) = after_start.run().await {
            running.stop();
            running.wait().await?;
            return Err(error);
        }
        Ok(running)
    }

    fn node(&self, registry: &AnyRegistry, bound: SocketAddr) -> Result<Node, Error> {
        let loopback = self.allow_loopback || registry.options().on_this_host;
        let address = advertised(self.advertise.as_deref(), bound, loopback, outbound)?;
        let mut node = match &self.id {
            Some(id) => Node::with_id(&self.name, id, address),
            None => Node::new(&self.name, address),
        };
        node.metadata = self.metadata.iter().cloned().collect::<Metadata>();
        for key in [keys::PROTOCOL, "server", "transport"] {
            node.metadata.insert(key, "grpc");
        }
        node.metadata.insert("registry", registry.name());
        Ok(node)
    }

    fn service(&self, endpoints: Vec<Endpoint>, node: Node) -> Service {
        let nodes = NilableVec::from(vec![node]);
        Service {
            version: self.version.clone(),
            endpoints: NilableVec::from(endpoints),
            nodes,
            ..Service::new(self.name.clone())
        }
    }

    async fn run(
        mut self,
        registry: AnyRegistry,
        service: Service,
        listener: TcpListener,
        orders: watch::Receiver<Order>,
    ) -> Result<Run, Error> {
        let health = self.add_health().await;
        self.add_reflection()?;
        let mut registration = Registration::builder(registry, service).config(self.register);
        if let Some(check) = self.check {
            registration = registration.check(check);
        }
        Ok(Run {
            transport: self.transport,
            routes: self.routes.routes().prepare(),
            listener,
            orders,
            registration: Arc::new(registration.start().map_err(Error::Registration)?),
            health,
            before_stop: self.before_stop,
            after_stop: self.after_stop,
            drain_limit: self.drain_limit,
        })
    }

    async fn add_health(&mut self) -> Option<Health> {
        if !self.health {
            return None;
        }
        let (reporter, service) = tonic_health::server::health_reporter();
        self.routes.add_service(service);
        let health = Health::new(reporter, self.services.clone());
        health.serving().await;
        Some(health)
    }

    fn add_reflection(&mut self) -> Result<(), Error> {
        if !self.reflection {
            return Ok(());
        }
        let builder = || {
            let mut builder = tonic_reflection::server::Builder::configure();
            if self.health {
                builder = builder.register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
            }
            builder.register_encoded_file_descriptor_set(&self.descriptor)
        };
        let v1 = builder().build_v1().map_err(|error| Error::Descriptor(error.into()))?;
        let v1alpha = builder().build_v1alpha().map_err(|error| Error::Descriptor(error.into()))?;
        self.routes.add_service(v1).add_service(v1alpha);
        Ok(())
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
