//! Service registration, discovery and client-side load balancing. A server puts its address and
//! its public methods into a registry and keeps the entry alive. A client watches the registry,
//! keeps a local view of the nodes, and picks a node for each call itself.
//!
//! A server registers once it listens, and leaves the registry before it stops:
//!
//! ```no_run
//! # #[cfg(feature = "tonic")]
//! # async fn serve(greeter: waypost_greeter::greeter::greeter_server::GreeterServer<impl waypost_greeter::greeter::greeter_server::Greeter>) -> Result<(), Box<dyn std::error::Error>> {
//! let registry = waypost::connect("local://").await?;
//! waypost::Server::builder("greeter", registry)
//!     .descriptor(waypost_greeter::greeter::FILE_DESCRIPTOR_SET)
//!     .add_service(greeter)
//!     .serve()
//!     .await?;
//! # Ok(()) }
//! ```
//!
//! An axum router is served in the same way (feature `axum`):
//!
//! ```no_run
//! # #[cfg(feature = "axum")]
//! # async fn serve() -> Result<(), Box<dyn std::error::Error>> {
//! use axum::{Router, routing::get};
//!
//! let registry = waypost::connect("local://").await?;
//! waypost::Server::builder("users", registry)
//!     .bind("0.0.0.0:8080") // advertised at this host's address on the route to the registry
//!     .router(Router::new().route("/", get(|| async { "hello\n" })))
//!     .serve()
//!     .await?;
//! # Ok(()) }
//! ```
//!
//! A server of another kind keeps its listener and its accept loop, and registers itself:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use waypost::Registration;
//! use waypost::record::{Service, keys};
//!
//! # let registry = waypost::connect("memory://").await?;
//! let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await?;
//! let registration = Registration::builder(registry, Service::new("users"))
//!     .metadata(keys::PROTOCOL, "http")
//!     .start_on(listener.local_addr()?)
//!     .await?;
//! // Serve, with `registration.drain_on(signal)` as the future of the graceful shutdown.
//! # drop(listener);
//! registration.close().await?;
//! # Ok(()) }
//! ```
//!
//! A client builds unchanged tonic stubs on a balanced channel:
//!
//! ```no_run
//! # #[cfg(feature = "tonic")]
//! # async fn call() -> Result<(), Box<dyn std::error::Error>> {
//! use waypost_greeter::greeter::{HelloRequest, greeter_client::GreeterClient};
//!
//! let client = waypost::Client::new(waypost::connect("local://").await?);
//! let mut greeter = GreeterClient::new(client.channel("greeter")?);
//! let answer = greeter.hello(HelloRequest { name: "Ann".into() }).await?;
//! # Ok(()) }
//! ```
//!
//! [docs/first-service.md] leads from `cargo new` to a balanced call of your own protobuf service,
//! with a `build.rs` that needs no `protoc`, and a test.
//!
//! [docs/first-service.md]: https://github.com/waypost-rs/waypost/blob/main/docs/first-service.md
//!
//! Features: `local` (the registry of one host; default), `tonic` (gRPC client and server;
//! default), `tls` (TLS between services, with `tonic`), `etcd` (the registry on etcd v3), `args`
//! (flags to flatten into a service's own `clap` parser), `axum` (axum routers as servers).
//! `memory://` and `static://` are always available.
//!
//! The examples of re-exported items name the crate that defines them: read `waypost_core`,
//! `waypost_http`, `waypost_tonic`, `waypost_etcd` and `waypost_local` as `waypost`.

#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "args")]
pub mod args;
mod connect;

pub use connect::connect;
pub use waypost_core::backoff::BackoffConfig;
pub use waypost_core::balance;
pub use waypost_core::directory;
pub use waypost_core::memory::{Faults, MemoryRegistry};
pub use waypost_core::panics::Panicked;
pub use waypost_core::peer;
pub use waypost_core::record;
pub use waypost_core::registrar::{self, Registration};
pub use waypost_core::registry::{self, AnyRegistry, Registry};
pub use waypost_core::static_list::StaticRegistry;
#[cfg(feature = "etcd")]
pub use waypost_etcd::{EtcdOptions, EtcdRegistry, EtcdTls, Secret};
#[cfg(feature = "tonic")]
pub use waypost_http::{
    AddressPolicy, AttemptHistory, AttemptRecord, BodyError, BoxError, BoxIo, BudgetConfig,
    CallError, ChannelConfig, ChannelSnapshot, ClientConfig, Connect, Connecting, ConnectionConfig,
    FailureKind, Io, NotReady, PickKey, Policy, ProtocolMismatch, Pushback, ReconnectConfig,
    RequestError, ServedBy, ServiceReport, Silence, StallConfig, StreamError, TcpConnect,
};
#[cfg(all(feature = "tonic", feature = "tls"))]
pub use waypost_http::{Pem, ServerTlsConfig, TlsConfig, TlsConnect, TlsError, TlsIdentity};
#[cfg(feature = "local")]
pub use waypost_local::{LocalOptions, LocalRegistry};
#[cfg(feature = "tonic")]
pub use waypost_tonic::{
    BuildError, Channel, ChannelBuilder, Client, ClientBuilder, ResponseFuture, Server,
    ServerHandle, UnknownFilters, descriptor, server,
};
