//! Tower layers around all that a server answers: order, scope, state, errors and panics.

use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Request;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower::Service;
use tower::layer::layer_fn;
use tower::limit::ConcurrencyLimitLayer;
use tower::load_shed::LoadShedLayer;
use tower::timeout::TimeoutLayer;
use tower::util::MapRequestLayer;
use waypost_core::memory::MemoryRegistry;
use waypost_greeter::greeter::HelloRequest;
use waypost_greeter::greeter::greeter_client::GreeterClient;

use super::echo::{self, BidiStream, HANG, word};
use super::lifecycle::{SOON, builder};

type Seen = Arc<Mutex<Vec<String>>>;

/// Returns a function of a layer that records its name and the path of each request.
fn seeing(
    name: &'static str,
    seen: &Seen,
) -> impl Fn(Request<Body>) -> Request<Body> + Clone + Send + 'static {
    let seen = Arc::clone(seen);
    move |request| {
        let line = format!("{name} {}", request.uri().path());
        seen.lock().unwrap().push(line);
        request
    }
}

#[tokio::test]
async fn the_first_layer_is_the_outermost_and_all_that_is_answered_is_inside() {
    let (registry, seen) = (MemoryRegistry::new(), Seen::default());
    let (builder, _) = builder(&registry);
    let server = builder
        .reflection(true)
        .layer(MapRequestLayer::new(seeing("first", &seen)))
        .layer(MapRequestLayer::new(seeing("second", &seen)))
        .start()
        .await
        .unwrap();
    let channel = echo::connect(server.advertised()).await.unwrap();
    let mut client = echo::client(server.advertised()).await;
    client.unary_echo(word("hello")).await.unwrap();
    let health = HealthCheckRequest {
        service: String::new(),
    };
    HealthClient::new(channel.clone())
        .check(health)
        .await
        .unwrap();
    let mut unknown = GreeterClient::new(channel);
    let status = unknown.hello(HelloRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert_eq!(
        *seen.lock().unwrap(),
        [
            "first /echo.Echo/UnaryEcho",
            "second /echo.Echo/UnaryEcho",
            "first /grpc.health.v1.Health/Check",
            "second /grpc.health.v1.Health/Check",
            "first /greeter.Greeter/Hello",
            "second /greeter.Greeter/Hello",
        ]
    );
}

#[tokio::test]
async fn a_call_whose_deadline_has_passed_reaches_no_layer() {
    let (registry, seen) = (MemoryRegistry::new(), Seen::default());
    let (builder, _) = builder(&registry);
    let server = builder
        .layer(MapRequestLayer::new(seeing("any", &seen)))
        .start()
        .await
        .unwrap();
    let mut late = tonic::Request::new(word("late"));
    late.metadata_mut()
        .insert("grpc-timeout", "0n".parse().unwrap());
    let mut client = echo::client(server.advertised()).await;
    client.idempotent_echo(late).await.unwrap_err();
    client.unary_echo(word("in time")).await.unwrap();
    assert_eq!(*seen.lock().unwrap(), ["any /echo.Echo/UnaryEcho"]);
}

#[tokio::test]
async fn the_limit_of_a_layer_is_one_of_all_connections_and_its_error_the_answer() {
    let registry = MemoryRegistry::new();
    let (builder, hanging) = builder(&registry);
    let server = builder
        .layer(LoadShedLayer::new())
        .layer(ConcurrencyLimitLayer::new(1))
        .start()
        .await
        .unwrap();
    let mut one = echo::client(server.advertised()).await;
    let held = tokio::task::JoinSet::from_iter([async move { one.unary_echo(word(HANG)).await }]);
    hanging.are(1).await;
    let mut other = echo::client(server.advertised()).await;
    let status = other.unary_echo(word("hello")).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (
            Code::ResourceExhausted,
            "Too many active requests for the connection"
        )
    );
    drop(held);
    hanging.are(0).await;
    assert_eq!(
        other
            .unary_echo(word("hello"))
            .await
            .unwrap()
            .into_inner()
            .text,
        "hello"
    );
}

#[tokio::test]
async fn an_error_of_a_layer_is_the_answer_to_its_call_alone() {
    let registry = MemoryRegistry::new();
    let (builder, _) = builder(&registry);
    let refusing = layer_fn(Refusing);
    let server = builder
        .layer(TimeoutLayer::new(Duration::from_millis(200)))
        .layer(refusing)
        .start()
        .await
        .unwrap();
    let mut client = echo::client(server.advertised()).await;
    let mut stream = BidiStream::begin(&mut client).await;
    let status = client.unary_echo(word(HANG)).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unknown, "request timed out")
    );
    let status = client.idempotent_echo(word("x")).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::PermissionDenied, "look elsewhere")
    );
    assert_eq!(stream.exchange("still here").await.unwrap(), "still here");
}

#[tokio::test]
async fn a_panic_in_a_layer_ends_its_call_and_neither_the_connection_nor_the_server() {
    let registry = MemoryRegistry::new();
    let (builder, _) = builder(&registry);
    let server = builder
        .layer(MapRequestLayer::new(|request: Request<Body>| {
            assert!(
                !request.uri().path().ends_with("/IdempotentEcho"),
                "a layer of a user"
            );
            request
        }))
        .start()
        .await
        .unwrap();
    let mut client = echo::client(server.advertised()).await;
    let mut stream = BidiStream::begin(&mut client).await;
    let failed = timeout(SOON, client.idempotent_echo(word("x")))
        .await
        .expect("it ends");
    assert_eq!(
        failed.unwrap_err().code(),
        Code::Cancelled,
        "as for a handler"
    );
    assert_eq!(
        stream.exchange("same connection").await.unwrap(),
        "same connection"
    );
    let mut other = echo::client(server.advertised()).await;
    assert_eq!(
        other
            .unary_echo(word("hello"))
            .await
            .unwrap()
            .into_inner()
            .text,
        "hello"
    );
}

/// Service that answers `IdempotentEcho` with a status as its error.
#[derive(Clone)]
struct Refusing<S>(S);

impl<S: Service<Request<Body>, Error = std::convert::Infallible>> Service<Request<Body>>
    for Refusing<S>
where
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = Status;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<S::Response, Status>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.0.poll_ready(cx).map_err(|never| match never {})
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if request.uri().path().ends_with("/IdempotentEcho") {
            let refusal = Status::permission_denied("look elsewhere");
            return Box::pin(async { Err(refusal) });
        }
        let answer = self.0.call(request);
        Box::pin(async move { answer.await.map_err(|never| match never {}) })
    }
}
