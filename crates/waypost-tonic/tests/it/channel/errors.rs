//! Full text of every error that a caller may see.

use std::time::Duration;

use tonic::{Code, Status};
use waypost_core::memory::MemoryRegistry;
use waypost_core::record::{Node, Service};
use waypost_core::registry::{AnyRegistry, Instance, RegisterOptions, Registry};
use waypost_greeter::greeter::HelloRequest;
use waypost_greeter::greeter::greeter_client::GreeterClient;
use waypost_tonic::{Channel, Client};

use crate::support::text;

fn channel(memory: &MemoryRegistry) -> Channel {
    let client = Client::new(AnyRegistry::new(memory.open()));
    client
        .channel_builder("greeter")
        .wait_for_ready(Duration::from_millis(300))
        .build()
        .unwrap()
}

async fn register(memory: &MemoryRegistry, id: &str, address: &str, protocol: &str) {
    let mut service = Service::new("greeter");
    let mut node = Node::with_id("greeter", id, address);
    node.metadata.insert("protocol", protocol);
    service.nodes.push(node);
    let options = RegisterOptions {
        ttl: Duration::from_secs(60),
        instance: Instance::from(id),
    };
    memory.register(&service, &options).await.unwrap();
}

async fn hello(channel: &Channel, timeout: Option<Duration>) -> Status {
    let mut request = tonic::Request::new(HelloRequest { name: "x".into() });
    if let Some(timeout) = timeout {
        request.set_timeout(timeout);
    }
    GreeterClient::new(channel.clone())
        .hello(request)
        .await
        .unwrap_err()
}

/// Returns an address of this host without a listener.
async fn dead() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

#[tokio::test]
async fn no_node_is_registered() {
    let error = hello(&channel(&MemoryRegistry::new()), None).await;
    insta::assert_snapshot!(text(&error), @"Unavailable: greeter: no node was ready within N ms (the registry knows no node of it)");
}

#[tokio::test]
async fn no_node_is_registered_within_the_deadline() {
    let error = hello(
        &channel(&MemoryRegistry::new()),
        Some(Duration::from_millis(200)),
    )
    .await;
    insta::assert_snapshot!(text(&error), @"DeadlineExceeded: greeter: deadline exceeded after N ms (the registry knows no node of it)");
    assert_eq!(error.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn the_only_node_refuses_connections_and_another_speaks_something_else() {
    let memory = MemoryRegistry::new();
    register(&memory, "dead", &dead().await, "grpc").await;
    register(&memory, "other", "127.0.0.1:9", "mucp").await;
    register(&memory, "far", "0.0.0.0:9", "grpc").await;
    let error = hello(&channel(&memory), None).await;
    insta::assert_snapshot!(text(&error), @"Unavailable: greeter: no node was ready within N ms (3 known, 0 ready, 1 not_connected, 1 protocol (grpc wanted, mucp found), 1 address_refused; last connection failure: connect 127.0.0.1:PORT: Connection refused (os error 111))");
}

#[tokio::test]
async fn all_nodes_speak_another_protocol() {
    let memory = MemoryRegistry::new();
    register(&memory, "a", "127.0.0.1:9", "mucp").await;
    register(&memory, "b", "127.0.0.1:9", "http").await;
    let error = hello(&channel(&memory), None).await;
    insta::assert_snapshot!(text(&error), @"Unavailable: greeter: no node was ready within N ms (2 known, 0 ready, 2 protocol (grpc wanted, http and mucp found))");
}

#[tokio::test]
async fn the_only_record_is_skipped() {
    let memory = MemoryRegistry::new();
    memory
        .faults()
        .put_raw("greeter", "greeter-a", vec![b' '; 82_651]);
    let channel = channel(&memory);
    let error = hello(&channel, None).await;
    assert!(
        error
            .message()
            .contains("1 record skipped: 82 651 bytes, at most 66 560"),
        "{error}"
    );
    insta::assert_snapshot!(text(&error), @r#"Unavailable: greeter: no node was ready within N ms (the registry knows no node of it; 1 record skipped: 82 N bytes, at most 66 N (node "greeter-a"))"#);
    let skipped = channel.snapshot().skipped;
    assert_eq!(
        (skipped.count, skipped.first[0].id.as_str()),
        (1, "greeter-a")
    );
    memory.faults().remove_raw("greeter", "greeter-a");
    let error = hello(&channel, None).await;
    assert!(!error.message().contains("skipped"), "{error}");
}

#[tokio::test]
async fn the_registry_is_unreachable() {
    let memory = MemoryRegistry::new();
    memory.faults().set_unreachable(true);
    let error = hello(&channel(&memory), None).await;
    let shown = text(&error);
    let (before, after) = shown.split_once("unavailable for ").unwrap();
    let (seconds, after) = after.split_once(' ').unwrap();
    assert!(seconds.parse::<f64>().unwrap() >= 0.2, "{shown}");
    insta::assert_snapshot!(format!("{before}unavailable for N {after}"), @"Unavailable: greeter: no node was ready within N ms (the registry has not answered yet; registry unavailable for N s: the memory registry is unavailable: made unreachable by a test)");
}

#[tokio::test]
async fn the_node_dies_with_the_call() {
    let memory = MemoryRegistry::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    register(
        &memory,
        "mortal",
        &listener.local_addr().unwrap().to_string(),
        "grpc",
    )
    .await;
    let server = tokio::spawn(async move {
        let (io, _) = listener.accept().await.unwrap();
        drop(listener);
        let mut connection = h2::server::handshake(io).await.unwrap();
        let _request = connection.accept().await.unwrap().unwrap();
    });
    let error = hello(&channel(&memory), None).await;
    server.await.unwrap();
    // The counts in parentheses depend on how far the client has noticed the lost connection.
    let shown = text(&error);
    let (before, after) = shown.split_once(" (").unwrap();
    let (_, after) = after.split_once(')').unwrap();
    insta::assert_snapshot!(format!("{before}{after}"), @"Unavailable: greeter: no answer; tried: greeter-mortal at 127.0.0.1:PORT: connection lost: the connection was closed; not tried again: the method is not idempotent");
}

#[tokio::test]
async fn the_node_never_answers() {
    let memory = MemoryRegistry::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    register(
        &memory,
        "slow",
        &listener.local_addr().unwrap().to_string(),
        "grpc",
    )
    .await;
    let server = tokio::spawn(async move {
        let (io, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(io).await.unwrap();
        let mut held = Vec::new();
        while let Some(Ok(request)) = connection.accept().await {
            held.push(request);
        }
    });
    let error = hello(&channel(&memory), Some(Duration::from_millis(200))).await;
    insta::assert_snapshot!(text(&error), @"DeadlineExceeded: greeter: deadline exceeded after N ms (1 known, 1 ready)");
    server.abort();
}

#[tokio::test]
async fn the_client_is_closed() {
    let client = Client::new(AnyRegistry::new(MemoryRegistry::new()));
    let channel = client.channel("greeter").unwrap();
    client.close().await;
    insta::assert_snapshot!(text(&hello(&channel, None).await), @"Unavailable: greeter: the client is closed");
}

#[tokio::test]
async fn a_gate_that_does_not_open_and_a_name_that_cannot_be() {
    let memory = MemoryRegistry::new();
    register(&memory, "dead", "127.0.0.1:1", "mucp").await;
    let error = channel(&memory)
        .ready(Duration::from_millis(100))
        .await
        .unwrap_err();
    let shown = error.to_string();
    let (_, after) = shown.split_once("within ").unwrap();
    let (_, rest) = after.split_once(" (").unwrap();
    insta::assert_snapshot!(rest, @"1 known, 0 ready, 1 protocol (grpc wanted, mucp found))");
    let error = Client::new(AnyRegistry::new(memory))
        .channel("a/b")
        .unwrap_err();
    insta::assert_snapshot!(error, @r#"service name "a/b" has a character that is not allowed: use only a-z, A-Z, 0-9, '.', '_' and '-'"#);
}
