// Greeter servers of the documentation's examples, each of which includes this file.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use waypost_core::balance::Decision;
use waypost_core::memory::MemoryRegistry;
use waypost_core::registry::AnyRegistry;
use waypost_greeter::greeter::greeter_client::GreeterClient;
use waypost_greeter::greeter::greeter_server::{Greeter, GreeterServer};
use waypost_greeter::greeter::{FILE_DESCRIPTOR_SET, HelloRequest, HelloResponse};

type Greeting = Result<tonic::Response<HelloResponse>, tonic::Status>;

/// Greeter that greets at once.
struct MyGreeter;

#[tonic::async_trait]
impl Greeter for MyGreeter {
    async fn hello(&self, request: tonic::Request<HelloRequest>) -> Greeting {
        Ok(tonic::Response::new(HelloResponse { message: format!("Hello {}", request.into_inner().name) }))
    }
}

/// Greeter that never responds.
struct SlowGreeter;

#[tonic::async_trait]
impl Greeter for SlowGreeter {
    async fn hello(&self, _: tonic::Request<HelloRequest>) -> Greeting {
        std::future::pending().await
    }
}

/// Greeter that fails its first calls, and counts all.
#[derive(Clone, Default)]
struct FlakyGreeter {
    failures: u32,
    calls: Arc<AtomicU32>,
}

#[tonic::async_trait]
impl Greeter for FlakyGreeter {
    async fn hello(&self, request: tonic::Request<HelloRequest>) -> Greeting {
        match self.calls.fetch_add(1, Relaxed) {
            call if call < self.failures => Err(tonic::Status::unavailable("try again")),
            _ => MyGreeter.hello(request).await,
        }
    }
}

/// Returns an empty registry.
fn registry() -> AnyRegistry {
    AnyRegistry::new(MemoryRegistry::new())
}

/// Starts a server and waits until it is registered.
async fn started(server: waypost_tonic::server::ServerBuilder) -> waypost_tonic::ServerHandle {
    let server = server.start().await.unwrap();
    server.registered().await.unwrap();
    server
}

/// Starts a server of this greeter and waits until it is registered.
async fn serving(server: waypost_tonic::server::ServerBuilder, greeter: impl Greeter) -> waypost_tonic::ServerHandle {
    started(server.add_service(GreeterServer::new(greeter))).await
}

/// Waits until the channel picks this number of nodes.
async fn picked(channel: &waypost_tonic::Channel, number: usize) {
    while channel.snapshot().nodes.iter().filter(|node| node.decision == Decision::Picked).count() < number {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}
