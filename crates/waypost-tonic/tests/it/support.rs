//! Real greeter and echo servers on loopback, in one memory registry.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use futures_core::Stream;
use tonic::{Request, Response, Status, Streaming};
use waypost_core::memory::MemoryRegistry;
use waypost_core::registry::AnyRegistry;
use waypost_greeter::echo::echo_server::{Echo, EchoServer};
use waypost_greeter::echo::{self, EchoMessage};
use waypost_greeter::greeter::greeter_server::{Greeter, GreeterServer};
use waypost_greeter::greeter::{self, HelloRequest, HelloResponse};
use waypost_tonic::server::ServerBuilder;
use waypost_tonic::{Server, ServerHandle};

/// Service that answers with its name. A request of `sleep MS` sleeps first, `code N` fails with
/// that status, `pushback MS` fails with that pushback.
#[derive(Clone, Default)]
pub(crate) struct Service {
    pub(crate) name: String,
    pub(crate) calls: Arc<AtomicU64>,
}

impl Service {
    async fn obey(&self, order: &str) -> Result<(), Status> {
        self.calls.fetch_add(1, Relaxed);
        if let Some(ms) = order.strip_prefix("sleep ") {
            tokio::time::sleep(Duration::from_millis(ms.parse().unwrap())).await;
        }
        if let Some(code) = order.strip_prefix("code ") {
            return Err(Status::new(
                code.parse::<i32>().unwrap().into(),
                format!("{} returns {code}", self.name),
            ));
        }
        if let Some(ms) = order.strip_prefix("pushback ") {
            let mut status = Status::unavailable(format!("{} asks for a pause", self.name));
            status
                .metadata_mut()
                .insert("grpc-retry-pushback-ms", ms.parse().unwrap());
            return Err(status);
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl Greeter for Service {
    async fn hello(
        &self,
        request: Request<HelloRequest>,
    ) -> Result<Response<HelloResponse>, Status> {
        self.obey(&request.get_ref().name).await?;
        Ok(Response::new(HelloResponse {
            message: self.name.clone(),
        }))
    }
}

type EchoStream = Pin<Box<dyn Stream<Item = Result<EchoMessage, Status>> + Send>>;

#[tonic::async_trait]
impl Echo for Service {
    type ServerStreamingEchoStream = EchoStream;
    type BidirectionalStreamingEchoStream = EchoStream;

    async fn unary_echo(
        &self,
        request: Request<EchoMessage>,
    ) -> Result<Response<EchoMessage>, Status> {
        self.obey(&request.get_ref().text).await?;
        Ok(Response::new(request.into_inner()))
    }

    async fn idempotent_echo(
        &self,
        request: Request<EchoMessage>,
    ) -> Result<Response<EchoMessage>, Status> {
        self.unary_echo(request).await
    }

    async fn server_streaming_echo(
        &self,
        request: Request<EchoMessage>,
    ) -> Result<Response<EchoStream>, Status> {
        let EchoMessage { text, number } = request.into_inner();
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let order = self.clone();
        tokio::spawn(async move {
            for number in 0..number {
                if sender
                    .send(Ok(EchoMessage {
                        text: text.clone(),
                        number,
                    }))
                    .await
                    .is_err()
                {
                    return;
                }
                let _ = order.obey(&text).await;
            }
        });
        Ok(Response::new(Box::pin(Received(receiver))))
    }

    async fn client_streaming_echo(
        &self,
        request: Request<Streaming<EchoMessage>>,
    ) -> Result<Response<EchoMessage>, Status> {
        let mut words = request.into_inner();
        let mut all = EchoMessage::default();
        while let Some(word) = words.message().await? {
            self.obey(&word.text).await?;
            all.text.push_str(&word.text);
            all.number += 1;
        }
        Ok(Response::new(all))
    }

    async fn bidirectional_streaming_echo(
        &self,
        request: Request<Streaming<EchoMessage>>,
    ) -> Result<Response<EchoStream>, Status> {
        let mut words = request.into_inner();
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            while let Ok(Some(word)) = words.message().await {
                if sender.send(Ok(word)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(Received(receiver))))
    }
}

pub(crate) struct Received<T>(pub(crate) tokio::sync::mpsc::Receiver<T>);

impl<T> Stream for Received<T> {
    type Item = T;

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<T>> {
        self.0.poll_recv(cx)
    }
}

/// Registry with servers in it.
pub(crate) struct Town {
    pub(crate) memory: MemoryRegistry,
}

impl Town {
    pub(crate) fn new() -> Self {
        Self {
            memory: MemoryRegistry::new(),
        }
    }

    pub(crate) fn registry(&self) -> AnyRegistry {
        AnyRegistry::new(self.memory.open())
    }

    /// Starts a registered server of both services under the name `greeter`.
    pub(crate) async fn server(&self, name: &str) -> (ServerHandle, Service) {
        let (builder, service) = self.builder(name);
        (serving(builder).await, service)
    }

    /// Returns a builder for a server of both services under the name `greeter`.
    pub(crate) fn builder(&self, name: &str) -> (ServerBuilder, Service) {
        let service = Service {
            name: name.to_owned(),
            ..Service::default()
        };
        let builder = Server::builder("greeter", self.registry())
            .id(name)
            .bind("127.0.0.1:0")
            .descriptor(greeter::FILE_DESCRIPTOR_SET)
            .descriptor(echo::FILE_DESCRIPTOR_SET)
            .add_service(GreeterServer::new(service.clone()))
            .add_service(EchoServer::new(service.clone()));
        (builder, service)
    }
}

/// Starts a server and waits until it is registered.
pub(crate) async fn serving(builder: ServerBuilder) -> ServerHandle {
    let running = builder.start().await.unwrap();
    running.registered().await.unwrap();
    running
}

/// Returns the text of a status without ports and times, which differ from run to run.
pub(crate) fn text(status: &Status) -> String {
    let mut text = format!("{:?}: ", status.code());
    let mut digits = String::new();
    for c in status.message().chars().chain(['\0']) {
        if c.is_ascii_digit() {
            digits.push(c);
            continue;
        }
        if !digits.is_empty() {
            let port = text.ends_with(':') && digits.len() > 3;
            text.push_str(if port {
                "PORT"
            } else if c == ' ' && digits.len() > 2 {
                "N"
            } else {
                &digits
            });
            digits.clear();
        }
        text.push(c);
    }
    text.trim_end_matches('\0').to_owned()
}
