//! Server that echoes every message, except one that it never answers.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};
use waypost_greeter::echo::EchoMessage;
use waypost_greeter::echo::echo_client::EchoClient;
use waypost_greeter::echo::echo_server::{Echo, EchoServer};

/// Message that is never answered.
pub(crate) const HANG: &str = "hang";

/// Number of handlers that hang, counted by guards.
#[derive(Clone)]
pub(crate) struct Hanging(Arc<watch::Sender<usize>>);

impl Hanging {
    /// Waits until `count` handlers hang.
    pub(crate) async fn are(&self, count: usize) {
        let mut now = self.0.subscribe();
        timeout(Duration::from_secs(10), now.wait_for(|now| *now == count))
            .await
            .expect("in time")
            .unwrap();
    }
}

struct Hung(Hanging);

impl Drop for Hung {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
    }
}

pub(crate) struct EchoService(Hanging);

pub(crate) fn service() -> (EchoServer<EchoService>, Hanging) {
    let hanging = Hanging(Arc::new(watch::channel(0).0));
    (EchoServer::new(EchoService(hanging.clone())), hanging)
}

#[tonic::async_trait]
impl Echo for EchoService {
    async fn unary_echo(
        &self,
        word: Request<EchoMessage>,
    ) -> Result<Response<EchoMessage>, Status> {
        if word.get_ref().text == HANG {
            self.0.0.send_modify(|count| *count += 1);
            let _hung = Hung(self.0.clone());
            std::future::pending::<()>().await;
        }
        Ok(Response::new(word.into_inner()))
    }

    type ServerStreamingEchoStream = ReceiverStream<Result<EchoMessage, Status>>;

    async fn server_streaming_echo(
        &self,
        _: Request<EchoMessage>,
    ) -> Result<Response<Self::ServerStreamingEchoStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn client_streaming_echo(
        &self,
        _: Request<Streaming<EchoMessage>>,
    ) -> Result<Response<EchoMessage>, Status> {
        Err(Status::unimplemented("not here"))
    }

    type BidirectionalStreamingEchoStream = Streaming<EchoMessage>;

    async fn bidirectional_streaming_echo(
        &self,
        words: Request<Streaming<EchoMessage>>,
    ) -> Result<Response<Self::BidirectionalStreamingEchoStream>, Status> {
        Ok(Response::new(words.into_inner()))
    }

    async fn idempotent_echo(
        &self,
        word: Request<EchoMessage>,
    ) -> Result<Response<EchoMessage>, Status> {
        Ok(Response::new(word.into_inner()))
    }
}

pub(crate) fn word(text: &str) -> EchoMessage {
    EchoMessage {
        text: text.to_owned(),
        number: 0,
    }
}

pub(crate) async fn connect(address: &str) -> Result<Channel, tonic::transport::Error> {
    Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .connect()
        .await
}

pub(crate) async fn client(address: &str) -> EchoClient<Channel> {
    EchoClient::new(connect(address).await.expect("it listens"))
}

/// Waits until the address refuses connections.
pub(crate) async fn refuses(address: &str) {
    let refused = async {
        while TcpStream::connect(address).await.is_ok() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(10), refused)
        .await
        .expect("it stops to accept");
}

/// Bidirectional stream that stays in flight until it is ended.
pub(crate) struct BidiStream {
    requests: mpsc::Sender<EchoMessage>,
    responses: Streaming<EchoMessage>,
}

impl BidiStream {
    pub(crate) async fn begin(client: &mut EchoClient<Channel>) -> Self {
        let (requests, words) = mpsc::channel(1);
        let responses = client
            .bidirectional_streaming_echo(ReceiverStream::new(words))
            .await
            .unwrap()
            .into_inner();
        let mut stream = Self {
            requests,
            responses,
        };
        stream.exchange("first").await.unwrap();
        stream
    }

    pub(crate) async fn exchange(&mut self, text: &str) -> Result<String, Status> {
        self.requests
            .send(word(text))
            .await
            .map_err(|_| Status::cancelled("the call ended"))?;
        Ok(self.responses.message().await?.expect("an answer").text)
    }

    /// Ends the stream gracefully.
    pub(crate) async fn close(self) -> Result<Option<EchoMessage>, Status> {
        let Self {
            requests,
            mut responses,
        } = self;
        drop(requests);
        responses.message().await
    }

    /// Waits until the stream ends by itself.
    pub(crate) async fn ends(mut self) -> Result<Option<EchoMessage>, Status> {
        self.responses.message().await
    }
}
