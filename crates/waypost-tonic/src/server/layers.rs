//! Tower layers around all that a server answers. Their state is that of the server: a layer is
//! applied once, and each connection has a clone of the service.

use std::convert::Infallible;
use std::fmt;
use std::future::{Future, ready};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Request, Response, StatusCode};
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tower::util::{BoxCloneService, Either};
use tower::{Layer, Service};

use super::ServerBuilder;
use super::hooks::BoxError;

/// Service that [`ServerBuilder::layer`] passes to a layer: all that the server answers, below the
/// layers that were added later. It is always ready when they are, and never fails: an error of a
/// layer has become a response.
#[derive(Clone)]
pub struct InnerService(BoxCloneService<Request<Body>, Response<Body>, Infallible>);

/// Service of a server: its routes, or the layers around them.
pub(super) type Stack = Either<Routes, InnerService>;

/// Layers in the order in which they were added: the first is the outermost.
#[derive(Default)]
pub(super) struct Layers(Vec<Box<dyn FnOnce(InnerService) -> InnerService + Send>>);

impl Layers {
    /// Wraps the routes. Without layers, a call has no cost of theirs.
    pub(super) fn around(self, routes: Routes) -> Stack {
        if self.0.is_empty() {
            return Either::Left(routes);
        }
        let layers = self.0.into_iter().rev();
        let inner = InnerService(BoxCloneService::new(routes));
        Either::Right(layers.fold(inner, |inner, layer| layer(inner)))
    }
}

impl fmt::Debug for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} layers", self.0.len())
    }
}

impl ServerBuilder {
    /// Adds a tower layer around all that the server answers: the added services, health,
    /// reflection, an axum router, and the answers to unknown paths. A layer that must spare
    /// probes, such as one that authenticates, passes paths below `/grpc.health.v1.Health/` through.
    ///
    /// The first layer added is the outermost, as for tower's `ServiceBuilder` and tonic's
    /// `Server::layer`: it sees a request first, and its response last. (The last one is the
    /// outermost in axum's `Router::layer`.) A layer is applied once for the server, so that the
    /// limit of a `ConcurrencyLimitLayer` is one of all connections. Calls whose deadline has
    /// passed do not reach it.
    ///
    /// An error of the layer is the answer to its call, as [`Status::from_error`] converts it: the
    /// status in its chain of causes, `RESOURCE_EXHAUSTED` for a load shed by tower, else `UNKNOWN`
    /// with its text. A request that is not gRPC is answered 500. A panic in the layer ends its call
    /// only, as a panic in a handler does.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/greeter.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use waypost_tonic::{Client, Server};
    /// use tower::limit::ConcurrencyLimitLayer;
    /// use tower::util::MapRequestLayer;
    ///
    /// # let registry = registry();
    /// let server = Server::builder("greeter", registry.clone())
    ///     .layer(MapRequestLayer::new(|request: http::Request<tonic::body::Body>| {
    ///         println!("{}", request.uri().path());
    ///         request
    ///     }))
    ///     .layer(ConcurrencyLimitLayer::new(64))
    ///     .add_service(GreeterServer::new(MyGreeter))
    ///     .start()
    ///     .await?;
    ///
    /// let mut greeter = GreeterClient::new(Client::new(registry).channel("greeter")?);
    /// greeter.hello(HelloRequest { name: "Ann".into() }).await?;
    /// # Ok(()) }
    /// ```
    pub fn layer<L, B>(mut self, layer: L) -> Self
    where
        L: Layer<InnerService> + Send + 'static,
        L::Service: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
        <L::Service as Service<Request<Body>>>::Error: Into<BoxError>,
        <L::Service as Service<Request<Body>>>::Future: Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let wrap =
            move |inner| InnerService(BoxCloneService::new(Answering::new(layer.layer(inner))));
        self.layers.0.push(Box::new(wrap));
        self
    }
}

impl<B> Service<Request<B>> for InnerService
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.0.call(request.map(Body::new))
    }
}

impl fmt::Debug for InnerService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InnerService")
    }
}

/// Service of a layer, whose errors are responses.
struct Answering<S> {
    service: S,
    /// Error of the layer while it became ready, which is the answer to the next call.
    unready: Option<BoxError>,
}

impl<S> Answering<S> {
    fn new(service: S) -> Self {
        Self {
            service,
            unready: None,
        }
    }
}

impl<S: Clone> Clone for Answering<S> {
    fn clone(&self) -> Self {
        Self::new(self.service.clone())
    }
}

impl<S, B> Service<Request<Body>> for Answering<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.unready = std::task::ready!(self.service.poll_ready(cx))
            .err()
            .map(Into::into);
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let is_grpc = is_grpc(request.headers());
        if let Some(error) = self.unready.take() {
            return Box::pin(ready(Ok(failed(error, is_grpc))));
        }
        let answer = self.service.call(request);
        Box::pin(async move {
            Ok(match answer.await {
                Ok(response) => response.map(Body::new),
                Err(error) => failed(error.into(), is_grpc),
            })
        })
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(http::HeaderValue::as_bytes);
    kind.is_some_and(|kind| kind.starts_with(b"application/grpc"))
}

/// Returns the answer to a call that a layer has failed.
fn failed(error: BoxError, is_grpc: bool) -> Response<Body> {
    tracing::debug!(%error, "layer failed the request");
    if is_grpc {
        return Status::from_error(error).into_http();
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response
}
