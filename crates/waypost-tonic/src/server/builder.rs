//! Settings of a server: its services, its address, and its registration.

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
#[cfg(feature = "tls")]
use waypost_http::ServerTlsConfig;

use super::hooks::{BoxError, Hooks};
use super::layers::Layers;

/// Maximum number of streams that a client may reset before the server has accepted them. One more
/// ends the connection, with all its calls. h2's default of 20 is less than a caller that cancels a
/// fan-out resets at once. 1 000 is nghttp2's burst (`stream_reset_rate_limit`).
const PENDING_RESETS: usize = 1000;

/// Server that registers itself: of gRPC services, or with the feature `axum` of a router. See
/// [`Server::builder`].
#[derive(Clone, Copy, Debug)]
pub struct Server;

impl Server {
    /// Returns a builder for a server of the service called `name` in `registry`.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/greeter.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use waypost_tonic::Server;
    ///
    /// # let registry = registry();
    /// let server = Server::builder("greeter", registry.clone())
    ///     .add_service(GreeterServer::new(MyGreeter))
    ///     .start()
    ///     .await?;
    /// server.registered().await?;
    ///
    /// let nodes = &registry.get_service("greeter").await?[0].nodes;
    /// assert_eq!(nodes[0].address, server.address().to_string());
    /// # Ok(()) }
    /// ```
    pub fn builder(name: impl Into<String>, registry: impl Into<AnyRegistry>) -> ServerBuilder {
        ServerBuilder::new(name.into(), registry.into())
    }
}

/// Builder of a server. Without services the server answers `UNIMPLEMENTED`.
#[must_use = "nothing is served until `start` or `serve`"]
pub struct ServerBuilder {
    pub(super) name: String,
    pub(super) registry: AnyRegistry,
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
    pub(super) drain_timeout: Duration,
    pub(super) before_start: Hooks,
    pub(super) after_start: Hooks,
    pub(super) before_stop: Hooks,
    pub(super) after_stop: Hooks,
    pub(super) routes: RoutesBuilder,
    #[cfg(feature = "axum")]
    pub(super) router: Option<axum::Router>,
    pub(super) layers: Layers,
    pub(super) services: Vec<&'static str>,
    pub(super) transport: tonic::transport::Server,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<ServerTlsConfig>,
}

impl ServerBuilder {
    fn new(name: String, registry: AnyRegistry) -> Self {
        Self {
            name,
            registry,
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
            drain_timeout: Duration::from_secs(30),
            before_start: Hooks::new("before_start"),
            after_start: Hooks::new("after_start"),
            before_stop: Hooks::new("before_stop"),
            after_stop: Hooks::new("after_stop"),
            routes: RoutesBuilder::default(),
            #[cfg(feature = "axum")]
            router: None,
            layers: Layers::default(),
            services: Vec::new(),
            transport: tonic::transport::Server::builder()
                .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS)),
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// Sets the service's name in the registry, instead of the one passed to [`Server::builder`].
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets the `host:port` to listen on. Default `127.0.0.1:0`. Port 0 is any free one; `0.0.0.0`
    /// is every interface in IPv4, and `[::]`, or no host, in IPv6 and IPv4. See
    /// [`listen`](super::listen).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/greeter.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use waypost_tonic::Server;
    /// # let registry = registry();
    /// let server = Server::builder("greeter", registry).bind("0.0.0.0:0").start().await?;
    /// assert!(server.address().ip().is_unspecified());
    ///
    /// // The registry is on this host, and so are all its readers.
    /// assert_eq!(server.advertised(), format!("127.0.0.1:{}", server.address().port()));
    /// # Ok(()) }
    /// ```
    pub fn bind(mut self, address: impl Into<String>) -> Self {
        self.bind = address.into();
        self
    }

    /// Sets the `host:port` to advertise to clients, if it is not the one listened on. Without a
    /// port, the bound port is used.
    ///
    /// By default, a server on every interface advertises this host's address on the route to the
    /// registry; loopback if the registry is on this host; else the address of the default route.
    /// [`Advertise`](waypost_core::registrar::Advertise) has the rules, and the log the choice.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/greeter.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use waypost_tonic::Server;
    /// # let registry = registry();
    /// let server = Server::builder("greeter", registry)
    ///     .bind("0.0.0.0:0")
    ///     .advertise("greeter-0.greeter.default.svc")
    ///     .start()
    ///     .await?;
    /// let port = server.address().port();
    /// assert_eq!(server.advertised(), format!("greeter-0.greeter.default.svc:{port}"));
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

    /// Sets the service's version. Default `latest`.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = version.into();
        self
    }

    /// Sets the id: the node is called `<service>-<id>`. Default: a UUIDv4.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Adds an entry to the node's metadata. `protocol`, `server`, `transport` and `registry` are
    /// overwritten.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/greeter.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use waypost_tonic::Server;
    /// # let registry = registry();
    /// let server = Server::builder("greeter", registry.clone()).metadata("zone", "eu-1").start().await?;
    /// server.registered().await?;
    ///
    /// let service = &registry.get_service("greeter").await?[0];
    /// assert_eq!(service.nodes[0].metadata.get("zone"), Some("eu-1"));
    /// # Ok(()) }
    /// ```
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.push((key.into(), value.into()));
        self
    }

    /// Adds an encoded protobuf `FileDescriptorSet`. The methods of those of its services that are
    /// [added](Self::add_service) are registered as endpoints; reflection shows all. Repeated calls
    /// add sets. If the record would exceed 64 KiB, the endpoints are registered without their
    /// schemas, with a warning.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/greeter.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use waypost_tonic::Server;
    /// # let registry = registry();
    /// let server = Server::builder("greeter", registry.clone())
    ///     .descriptor(FILE_DESCRIPTOR_SET)
    ///     .add_service(GreeterServer::new(MyGreeter))
    ///     .start()
    ///     .await?;
    /// server.registered().await?;
    ///
    /// let service = &registry.get_service("greeter").await?[0];
    /// assert_eq!(service.endpoints[0].name, "Greeter.Hello");
    /// # Ok(()) }
    /// ```
    pub fn descriptor(mut self, file_descriptor_set: &[u8]) -> Self {
        self.descriptor.extend_from_slice(file_descriptor_set);
        self
    }

    /// Enables or disables `grpc.health.v1`. Default enabled. `""` and each service are SERVING
    /// until the server drains; [`REGISTRATION`](super::REGISTRATION) reports the registration.
    pub fn health(mut self, health: bool) -> Self {
        self.health = health;
        self
    }

    /// Enables or disables server reflection (v1 and v1alpha) of the given descriptors. Default
    /// disabled.
    pub fn reflection(mut self, reflection: bool) -> Self {
        self.reflection = reflection;
        self
    }

    /// Sets the configuration of the registration, which includes the drain delay.
    pub fn register(mut self, config: Config) -> Self {
        self.register = config;
        self
    }

    /// Sets the lifetime of the record unless it is refreshed. Default 15 s. See [`Config::ttl`].
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.register.ttl = ttl;
        self
    }

    /// Sets the time between two writes of the record. Default 5 s. See [`Config::interval`].
    pub fn interval(mut self, interval: Duration) -> Self {
        self.register.interval = interval;
        self
    }

    /// Returns the current configuration of the registration.
    pub fn register_config(&self) -> &Config {
        &self.register
    }

    /// Sets a health check that runs at every interval. While it fails, the server is kept out of
    /// the registry, but serves.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/greeter.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::sync::atomic::AtomicBool;
    /// use std::time::Duration;
    ///
    /// # use waypost_tonic::Server;
    /// # let registry = registry();
    /// let connected = Arc::new(AtomicBool::new(false));
    /// let database = Arc::clone(&connected);
    /// let server = Server::builder("greeter", registry)
    ///     .interval(Duration::from_millis(100))
    ///     .check(move || {
    ///         let connected = database.load(Relaxed);
    ///         async move { if connected { Ok(()) } else { Err("no database".into()) } }
    ///     })
    ///     .start()
    ///     .await?;
    /// server.registration().wait_for(|state| state.name() == "unhealthy").await?;
    ///
    /// connected.store(true, Relaxed);
    /// server.registered().await?;
    /// # Ok(()) }
    /// ```
    pub fn check(mut self, check: impl RegisterCheck) -> Self {
        self.check = Some(AnyCheck::new(check));
        self
    }

    /// Sets the maximum time for calls in flight to finish once the server no longer accepts.
    /// Default 30 s. Then they are aborted. The `before_stop` hooks together have the same limit,
    /// and so have the `after_stop` hooks.
    pub fn drain_timeout(mut self, limit: Duration) -> Self {
        self.drain_timeout = limit;
        self
    }

    /// Adds a hook that runs before anything is bound. An error or a panic ends the start.
    pub fn before_start<H, F>(mut self, hook: H) -> Self
    where
        H: FnOnce() -> F + Send + 'static,
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        self.before_start.push(hook);
        self
    }

    /// Adds a hook that runs once the server serves. The registration may still be in progress. An
    /// error or a panic stops the server gracefully. A signal aborts the hook, and stops the server
    /// gracefully too.
    pub fn after_start<H, F>(mut self, hook: H) -> Self
    where
        H: FnOnce() -> F + Send + 'static,
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        self.after_start.push(hook);
        self
    }

    /// Adds a hook that runs when the server is ordered to stop, before it leaves the registry. An
    /// error, a panic, and a hook that exceeds the drain timeout are logged, and the stop continues.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/greeter.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use waypost_tonic::Server;
    /// # let registry = registry();
    /// let (stopping, seen) = tokio::sync::oneshot::channel();
    /// let mut server = Server::builder("greeter", registry)
    ///     .before_stop(|| async move {
    ///         stopping.send("no new jobs").map_err(|_| "the scheduler is gone")?;
    ///         Ok(())
    ///     })
    ///     .start()
    ///     .await?;
    ///
    /// server.stop();
    /// assert_eq!(seen.await?, "no new jobs");
    /// server.wait().await?;
    /// # Ok(()) }
    /// ```
    pub fn before_stop<H, F>(mut self, hook: H) -> Self
    where
        H: FnOnce() -> F + Send + 'static,
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        self.before_stop.push(hook);
        self
    }

    /// Adds a hook that runs when all calls have finished or were aborted. An error, a panic, and a
    /// hook that exceeds the drain timeout (1 s after a second stop) are logged.
    pub fn after_stop<H, F>(mut self, hook: H) -> Self
    where
        H: FnOnce() -> F + Send + 'static,
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        self.after_stop.push(hook);
        self
    }

    /// Serves TLS, and says so in the node's metadata
    /// ([`waypost.tls`](waypost_core::record::keys::TLS)), so that clients without TLS exclude the
    /// node. The files are read by [`start`](Self::start) and [`serve`](Self::serve), after the
    /// `before_start` hooks, and again when they change. A handler reads the certificates of its client from
    /// [`Request::peer_certs`](tonic::Request::peer_certs).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/greeter.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use waypost_tonic::Server;
    /// use waypost_http::{Pem, ServerTlsConfig, TlsIdentity};
    ///
    /// # let registry = registry();
    /// let identity = TlsIdentity::new(Pem::file("greeter.pem"), Pem::file("greeter.key"));
    /// let server = Server::builder("greeter", registry).tls(ServerTlsConfig::new(identity));
    ///
    /// // The files do not exist.
    /// let error = server.start().await.unwrap_err();
    /// assert!(matches!(error, waypost_tonic::server::Error::Tls(_)));
    /// # Ok(()) }
    /// ```
    #[cfg(feature = "tls")]
    pub fn tls(mut self, config: ServerTlsConfig) -> Self {
        self.tls = Some(config);
        self
    }

    /// Returns the current TLS settings; none if the server does not serve TLS.
    #[cfg(feature = "tls")]
    pub fn tls_config(&self) -> Option<&ServerTlsConfig> {
        self.tls.as_ref()
    }

    /// Changes tonic's settings: time limits, concurrency, HTTP/2 windows, message sizes. Those of
    /// TCP and TLS have no effect. Unlike tonic's default, the server allows 1 000 streams of a
    /// connection to be reset before they are accepted (`http2_max_pending_accept_reset_streams`),
    /// so that a cancelled fan-out ends no other call.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/greeter.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use std::time::Duration;
    /// # use waypost_tonic::{Client, Server};
    /// # let registry = registry();
    /// let server = Server::builder("greeter", registry.clone())
    ///     .transport(|transport| transport.timeout(Duration::from_millis(100)))
    ///     .add_service(GreeterServer::new(SlowGreeter))
    ///     .start()
    ///     .await?;
    ///
    /// let mut greeter = GreeterClient::new(Client::new(registry).channel("greeter")?);
    /// let status = greeter.hello(HelloRequest::default()).await.unwrap_err();
    /// assert_eq!(status.message(), "Timeout expired");
    /// # Ok(()) }
    /// ```
    pub fn transport(
        mut self,
        change: impl FnOnce(tonic::transport::Server) -> tonic::transport::Server,
    ) -> Self {
        self.transport = change(self.transport);
        self
    }

    /// Adds one of tonic's generated services, with or without interceptors.
    pub fn add_service<S, B>(mut self, service: S) -> Self
    where
        S: TowerService<http::Request<Body>, Response = http::Response<B>, Error = Infallible>
            + NamedService,
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

impl fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerBuilder")
            .field("name", &self.name)
            .field("version", &self.version)
            .field("id", &self.id)
            .field("bind", &self.bind)
            .field("advertise", &self.advertise)
            .field("allow_loopback", &self.allow_loopback)
            .field("metadata", &self.metadata)
            .field("register", &self.register)
            .field("drain_timeout", &self.drain_timeout)
            .field("services", &self.services)
            .field("layers", &self.layers)
            .finish_non_exhaustive()
    }
}
