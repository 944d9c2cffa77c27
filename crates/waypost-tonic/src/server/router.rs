//! axum router as the service of a server (feature `axum`).

use std::net::SocketAddr;

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use tonic::service::Routes;
use tonic::transport::server::TcpConnectInfo;
use tower::util::MapRequestLayer;

use super::ServerBuilder;

impl ServerBuilder {
    /// Serves an axum router, in HTTP/1 and in HTTP/2 without TLS, with all that a gRPC server has:
    /// the address, the registration, the checks and hooks, the signals, and the graceful stop.
    /// A repeated call replaces the router.
    ///
    /// The node says `protocol=http`, and there is no gRPC health service. With gRPC services
    /// [added](Self::add_service) as well, both are served on one port: the router answers what no
    /// service does, and the node says `protocol=grpc`.
    ///
    /// `ConnectInfo<SocketAddr>` can be extracted. Connections cannot be upgraded, so WebSockets
    /// need a server of one's own and a [`Registration`](waypost_core::registrar::Registration),
    /// as for any other server.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use waypost_core::memory::MemoryRegistry;
    /// # use waypost_core::registry::AnyRegistry;
    /// use axum::{Router, routing::get};
    /// use waypost_tonic::Server;
    ///
    /// # let registry = AnyRegistry::from(MemoryRegistry::new());
    /// let server = Server::builder("users", registry.clone())
    ///     .bind("0.0.0.0:0")
    ///     .router(Router::new().route("/", get(|| async { "hello\n" })))
    ///     .start() // or serve(), until SIGTERM
    ///     .await?;
    /// server.registered().await?;
    ///
    /// let node = &registry.get_service("users").await?[0].nodes[0];
    /// assert_eq!(node.metadata.get("protocol"), Some("http"));
    /// # Ok(()) }
    /// ```
    pub fn router(mut self, router: Router) -> Self {
        self.transport = self.transport.accept_http1(true);
        self.router = Some(router);
        self
    }
}

/// Returns routes whose services answer first, and then the router.
pub(super) fn over(routes: Routes, router: Router) -> Routes {
    let router = router.layer(MapRequestLayer::new(with_peer));
    routes.into_axum_router().fallback_service(router).into()
}

/// Adds the peer's address as axum's own server does, for the extractor `ConnectInfo`.
fn with_peer(mut request: Request) -> Request {
    let info = request.extensions().get::<TcpConnectInfo>();
    if let Some(peer) = info.and_then(TcpConnectInfo::remote_addr) {
        request
            .extensions_mut()
            .insert(ConnectInfo::<SocketAddr>(peer));
    }
    request
}
