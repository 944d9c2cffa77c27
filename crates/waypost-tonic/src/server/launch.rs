//! Start of a server from its settings: bind, serve, register.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::service::Routes;
use waypost_core::record::{Endpoint, Metadata, NilableVec, Node, Service, keys};
use waypost_core::registrar::{Advertise, Registration};
use waypost_core::registry::AnyRegistry;
use waypost_http::outbound_addresses;

use super::health::HealthServices;
use super::hooks::Hooks;
use super::listen::listen;
use super::run::{Order, Run};
use super::signals::Signals;
use super::{Error, ServerBuilder, ServerHandle};
use crate::descriptor;

impl ServerBuilder {
    /// Serves until SIGTERM or SIGINT, and then until the calls in flight have finished. A second
    /// signal stops at once.
    ///
    /// # Errors
    /// As [`start`](ServerBuilder::start), and [`Error::Signals`].
    ///
    /// # Cancel safety
    /// If dropped, the server is aborted, as when a [`ServerHandle`] is dropped.
    pub async fn serve(self) -> Result<(), Error> {
        let mut signals = Signals::listen().map_err(Error::Signals)?;
        let (mut running, after_start) = tokio::select! {
            launched = self.launch() => launched?,
            () = signals.next() => return Ok(()),
        };
        let started = tokio::select! {
            started = after_start.run() => Some(started),
            end = running.wait() => return end,
            () = signals.next() => None,
        };
        if !matches!(started, Some(Ok(()))) {
            running.order(Order::Drain);
        }
        let end = wait_or_signals(&mut running, &mut signals, started.is_none()).await;
        started.unwrap_or(Ok(())).and(end)
    }

    /// Binds, serves, and begins to register; returns once it serves. An unreachable registry
    /// delays nothing: it is retried forever.
    ///
    /// # Errors
    /// See [`Error`]: settings that cannot work, an address that cannot be bound, a hook that
    /// failed.
    ///
    /// # Cancel safety
    /// If dropped before it serves, nothing is left. If dropped while an `after_start` hook runs,
    /// the server is aborted, as when a [`ServerHandle`] is dropped.
    pub async fn start(self) -> Result<ServerHandle, Error> {
        let (mut running, after_start) = self.launch().await?;
        if let Err(error) = after_start.run().await {
            running.order(Order::Drain);
            let _ = running.wait().await;
            return Err(error);
        }
        Ok(running)
    }

    /// Binds, serves, and begins to register; returns the hooks to run after that. If dropped
    /// before it returns, nothing is left.
    async fn launch(mut self) -> Result<(ServerHandle, Hooks), Error> {
        let registry = self.registry.clone();
        let endpoints = descriptor::endpoints(&self.descriptor)
            .map_err(|error| Error::Descriptor(error.into()))?;
        self.before_start.take().run().await?;
        let listener = listen(&self.bind).await?;
        let address = listener.local_addr().map_err(|source| Error::Bind {
            address: self.bind.clone(),
            source,
        })?;
        let node = self.node(&registry, address).await?;
        let (name, advertised, node_id) =
            (self.name.clone(), node.address.clone(), node.id.clone());
        let mut service = self.service(endpoints, node);
        if let Some(length) = service.trim(&registry.options().limits) {
            tracing::warn!(
                service = name,
                length,
                "record too long; registering endpoints without schemas"
            );
        }
        let after_start = self.after_start.take();
        let (orders, order) = watch::channel(Order::Serve);
        let run = self.run(registry, service, listener, order).await?;
        let (registration, state) = (Arc::downgrade(&run.registration), run.registration.watch());
        let mut task = JoinSet::new();
        task.spawn(run.run());
        Ok((
            ServerHandle {
                name,
                address,
                advertised,
                node_id,
                orders,
                registration,
                state,
                task,
            },
            after_start,
        ))
    }

    /// Reads the certificates.
    #[cfg(feature = "tls")]
    fn acceptor(&self) -> Result<Option<waypost_http::TlsAcceptor>, Error> {
        let acceptor = self.tls.clone().map(waypost_http::TlsAcceptor::new);
        acceptor.transpose().map_err(Error::Tls)
    }

    async fn node(&self, registry: &AnyRegistry, bound: SocketAddr) -> Result<Node, Error> {
        let mut advertise = Advertise::default()
            .listener(bound)
            .allow_loopback(self.allow_loopback)
            .fallback(outbound_addresses());
        if let Some(given) = &self.advertise {
            advertise = advertise.address(given);
        }
        let address = advertise.resolve(registry).await?.to_string();
        let mut node = match &self.id {
            Some(id) => Node::with_id(&self.name, id, address),
            None => Node::new(&self.name, address),
        };
        node.metadata = self.metadata.iter().cloned().collect::<Metadata>();
        let protocol = if self.is_http() { "http" } else { "grpc" };
        for key in [keys::PROTOCOL, "server", "transport"] {
            node.metadata.insert(key, protocol);
        }
        node.metadata.insert("registry", registry.name());
        #[cfg(feature = "tls")]
        if self.tls.is_some() {
            node.metadata.insert(keys::TLS, "true");
        }
        Ok(node)
    }

    /// Returns true if an axum router is all that is served.
    fn is_http(&self) -> bool {
        #[cfg(feature = "axum")]
        let has_router = self.router.is_some();
        #[cfg(not(feature = "axum"))]
        let has_router = false;
        has_router && self.services.is_empty()
    }

    /// Returns the record: the endpoints of the services that were added, of all that are described.
    fn service(&self, mut endpoints: Vec<Endpoint>, node: Node) -> Service {
        let is_added = |path: &str| {
            path.split('/')
                .nth(1)
                .is_some_and(|service| self.services.contains(&service))
        };
        endpoints.retain(|endpoint| endpoint.metadata.get(keys::PATH).is_none_or(is_added));
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
        #[cfg(feature = "tls")]
        let acceptor = self.acceptor()?;
        let health = self.add_health().await;
        self.add_reflection()?;
        let routes = self.routes();
        let mut registration = Registration::builder(registry, service)
            .config(self.register)
            .allow_loopback(self.allow_loopback);
        if let Some(check) = self.check {
            registration = registration.check(check);
        }
        Ok(Run {
            transport: self.transport,
            service: self.layers.around(routes),
            listener,
            orders,
            registration: Arc::new(registration.start().map_err(Error::Registration)?),
            health,
            before_stop: self.before_stop,
            after_stop: self.after_stop,
            drain_timeout: self.drain_timeout,
            #[cfg(feature = "tls")]
            acceptor,
        })
    }

    /// Takes all routes out: of the services, and of the router.
    fn routes(&mut self) -> Routes {
        let routes = std::mem::take(&mut self.routes).routes();
        #[cfg(feature = "axum")]
        let routes = match self.router.take() {
            Some(router) => super::router::over(routes, router),
            None => routes,
        };
        routes.prepare()
    }

    async fn add_health(&mut self) -> Option<HealthServices> {
        if !self.health || self.is_http() {
            return None;
        }
        let (reporter, service) = tonic_health::server::health_reporter();
        self.routes.add_service(service);
        let health = HealthServices::new(reporter, self.services.clone());
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
                builder = builder
                    .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
            }
            builder.register_encoded_file_descriptor_set(&self.descriptor)
        };
        let v1 = builder()
            .build_v1()
            .map_err(|error| Error::Descriptor(error.into()))?;
        let v1alpha = builder()
            .build_v1alpha()
            .map_err(|error| Error::Descriptor(error.into()))?;
        self.routes.add_service(v1).add_service(v1alpha);
        Ok(())
    }
}

/// Waits until the server has stopped. A signal stops it; another one during the stop aborts the
/// calls in flight.
async fn wait_or_signals(
    running: &mut ServerHandle,
    signals: &mut Signals,
    mut signalled: bool,
) -> Result<(), Error> {
    loop {
        tokio::select! {
            end = running.wait() => return end,
            () = signals.next() => running.order(if signalled { Order::Abort } else { Order::Drain }),
        }
        signalled = true;
    }
}
