//! Calls without time left, for which no handler is called.

use std::sync::atomic::Ordering::SeqCst;

use bytes::Bytes;
use http::{HeaderMap, Request};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use waypost_core::memory::MemoryRegistry;
use waypost_core::registry::AnyRegistry;
use waypost_greeter::echo::echo_server::EchoServer;
use waypost_tonic::server::{Server, ServerHandle};

use super::echo::{self, word};
use crate::support::Service;

async fn serving() -> (ServerHandle, Service) {
    let service = Service::default();
    let server = Server::builder("echo", AnyRegistry::new(MemoryRegistry::new()));
    (
        server
            .add_service(EchoServer::new(service.clone()))
            .start()
            .await
            .unwrap(),
        service,
    )
}

/// Calls `method` with the given timeout over plain h2, and returns the headers of the response.
async fn call(address: &str, method: &str, timeout: &str) -> HeaderMap {
    let (h2, connection) = h2::client::handshake(TcpStream::connect(address).await.unwrap())
        .await
        .unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    let request = Request::post(format!("http://{address}/echo.Echo/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", timeout);
    let (response, mut body) = h2
        .ready()
        .await
        .unwrap()
        .send_request(request.body(()).unwrap(), false)
        .unwrap();
    body.send_data(Bytes::from_static(&[0; 5]), true).unwrap();
    response.await.unwrap().into_parts().0.headers
}

#[tokio::test]
async fn a_call_without_time_left_reaches_no_handler() {
    let (server, service) = serving().await;
    for method in [
        "UnaryEcho",
        "ServerStreamingEcho",
        "BidirectionalStreamingEcho",
    ] {
        for timeout in ["0n", "0u", "0m", "0S", "0M", "0H", "00000000n", "1n"] {
            let headers = call(server.advertised(), method, timeout).await;
            assert_eq!(
                headers.get("grpc-status").map(http::HeaderValue::as_bytes),
                Some(&b"4"[..]),
                "{method} {timeout}: {headers:?}"
            );
        }
    }
    assert_eq!(service.calls.load(SeqCst), 0);
    let headers = call(server.advertised(), "UnaryEcho", "10S").await;
    assert_eq!(
        (headers.get("grpc-status"), service.calls.load(SeqCst)),
        (None, 1),
        "with time left it is served"
    );
    call(server.advertised(), "UnaryEcho", "0x").await;
    assert_eq!(service.calls.load(SeqCst), 2, "a malformed timeout is none");
}

#[tokio::test]
async fn a_tonic_client_without_time_left_reaches_no_handler() {
    let (server, service) = serving().await;
    let mut client = echo::client(server.advertised()).await;
    for _ in 0..200 {
        let mut request = tonic::Request::new(word("late"));
        request.set_timeout(std::time::Duration::ZERO);
        client.unary_echo(request).await.unwrap_err();
    }
    assert_eq!(service.calls.load(SeqCst), 0);
    assert!(
        client.unary_echo(word("in time")).await.is_ok(),
        "the connection is as it was"
    );
}
