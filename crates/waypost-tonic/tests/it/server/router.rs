//! axum router as the service of a server: HTTP/1 and HTTP/2, metadata, and the graceful stop.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::get;
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use waypost_core::memory::MemoryRegistry;
use waypost_core::record::{Service, keys};
use waypost_tonic::Server;
use waypost_tonic::server::ServerBuilder;

use super::echo::{self, word};
use super::lifecycle::{SOON, config, left, stopped};

/// Sends one HTTP/1 request that closes its connection; returns the response.
async fn get_once(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: users\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    let read = timeout(SOON, stream.read_to_string(&mut response));
    read.await.expect("in time").unwrap();
    response
}

fn web(registry: &MemoryRegistry, router: Router) -> ServerBuilder {
    Server::builder("users", registry.open())
        .register(config(Duration::from_millis(200)))
        .router(router)
}

async fn record(registry: &MemoryRegistry) -> Option<Service> {
    use waypost_core::registry::Registry;
    let services = registry.get_service("users").await.ok();
    services.map(|mut services| services.remove(0))
}

#[tokio::test]
async fn a_router_is_served_in_both_versions_of_http_and_reports_it() {
    let registry = MemoryRegistry::new();
    let peer = |ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.ip().to_string() };
    let router = Router::new()
        .route("/", get(|| async { "hello" }))
        .route("/peer", get(peer));
    let server = web(&registry, router)
        .id("one")
        .bind("0.0.0.0:0")
        .start()
        .await
        .unwrap();
    server.registered().await.unwrap();
    let node = record(&registry).await.unwrap().nodes[0].clone();
    let address: SocketAddr = node.address.parse().unwrap();
    assert_eq!(node.id, "users-one");
    for (key, value) in [
        (keys::PROTOCOL, "http"),
        ("server", "http"),
        ("registry", "memory"),
    ] {
        assert_eq!(node.metadata.get(key), Some(value), "{key}");
    }

    let first = get_once(address, "/").await;
    assert!(
        first.starts_with("HTTP/1.1 200 OK") && first.ends_with("hello"),
        "{first}"
    );
    assert!(get_once(address, "/peer").await.ends_with("127.0.0.1"));
    assert!(
        get_once(address, "/nothing")
            .await
            .starts_with("HTTP/1.1 404")
    );
    let health = get_once(address, "/grpc.health.v1.Health/Check").await;
    assert!(
        health.starts_with("HTTP/1.1 404"),
        "no gRPC health: {health}"
    );

    let stream = TcpStream::connect(address).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    let mut driver = JoinSet::new();
    driver.spawn(async move { drop(connection.await) });
    let mut client = client.ready().await.unwrap();
    let request = http::Request::get(format!("http://{address}/"))
        .body(())
        .unwrap();
    let (response, _) = client.send_request(request, true).unwrap();
    let mut body = timeout(SOON, response).await.unwrap().unwrap().into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), Bytes::from("hello"));
}

#[tokio::test]
async fn a_graceful_stop_leaves_serves_on_and_finishes_the_requests_in_flight() {
    let registry = MemoryRegistry::new();
    let (arrived, mut arrivals) = mpsc::channel(1);
    let (answer, answers) = tokio::sync::watch::channel(false);
    let slow = move || {
        let (arrived, mut answers) = (arrived.clone(), answers.clone());
        async move {
            arrived.send(()).await.unwrap();
            drop(answers.wait_for(|now| *now).await);
            "finished"
        }
    };
    let router = Router::new()
        .route("/", get(|| async { "hello" }))
        .route("/slow", get(slow));
    let server = web(&registry, router).start().await.unwrap();
    server.registered().await.unwrap();
    let address = server.address();
    // A connection that is kept alive and idle does not hold the stop up.
    let mut idle = TcpStream::connect(address).await.unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\nhost: users\r\n\r\n")
        .await
        .unwrap();
    let mut some = [0; 12];
    idle.read_exact(&mut some).await.unwrap();
    assert_eq!(&some, b"HTTP/1.1 200");
    let mut call = JoinSet::new();
    call.spawn(async move { get_once(address, "/slow").await });
    arrivals.recv().await.unwrap();

    server.stop();
    left(&server).await;
    assert_eq!(record(&registry).await, None, "out of the registry first");
    assert!(
        get_once(address, "/").await.ends_with("hello"),
        "and serving on"
    );
    echo::refuses(&address.to_string()).await;
    answer.send(true).unwrap();
    let finished = call.join_next().await.unwrap().unwrap();
    assert!(finished.ends_with("finished"), "{finished}");
    stopped(server).await;
}

#[tokio::test]
async fn a_request_that_hangs_is_aborted_at_the_drain_timeout() {
    let registry = MemoryRegistry::new();
    let (arrived, mut arrivals) = mpsc::channel(1);
    let hang = move || {
        let arrived = arrived.clone();
        async move {
            arrived.send(()).await.unwrap();
            std::future::pending::<&'static str>().await
        }
    };
    let builder = web(&registry, Router::new().route("/", get(hang)));
    let server = builder
        .drain_timeout(Duration::from_millis(300))
        .start()
        .await
        .unwrap();
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: users\r\n\r\n")
        .await
        .unwrap();
    arrivals.recv().await.unwrap();
    server.stop();
    stopped(server).await;
    let end = timeout(SOON, stream.read(&mut [0; 1]))
        .await
        .expect("aborted");
    assert!(matches!(end, Ok(0) | Err(_)), "no response: {end:?}");
}

#[tokio::test]
async fn services_and_a_router_share_a_port_and_the_layers() {
    let registry = MemoryRegistry::new();
    let (service, _) = echo::service();
    let router = Router::new().fallback(|| async { "fallback of the router" });
    let server = web(&registry, router)
        .layer(tower::util::MapResponseLayer::new(
            |mut response: http::Response<tonic::body::Body>| {
                response
                    .headers_mut()
                    .insert("x-layer", http::HeaderValue::from_static("seen"));
                response
            },
        ))
        .add_service(service)
        .start()
        .await
        .unwrap();
    server.registered().await.unwrap();
    let node = record(&registry).await.unwrap().nodes[0].clone();
    assert_eq!(node.metadata.get(keys::PROTOCOL), Some("grpc"));
    let mut client = echo::client(server.advertised()).await;
    let response = client.unary_echo(word("hello")).await.unwrap();
    assert_eq!(response.metadata().get("x-layer").unwrap(), "seen");
    assert_eq!(response.into_inner().text, "hello");
    let page = get_once(server.address(), "/any").await;
    assert!(
        page.ends_with("fallback of the router") && page.contains("x-layer: seen"),
        "{page}"
    );
}

#[tokio::test]
async fn an_error_of_a_layer_is_500_to_a_request_that_is_not_grpc() {
    let registry = MemoryRegistry::new();
    let hang = || async { std::future::pending::<&'static str>().await };
    let router = Router::new().route("/", get(hang));
    let limit = tower::timeout::TimeoutLayer::new(Duration::from_millis(50));
    let server = web(&registry, router).layer(limit).start().await.unwrap();
    let response = get_once(server.address(), "/").await;
    assert!(
        response.starts_with("HTTP/1.1 500 Internal Server Error"),
        "{response}"
    );
}
