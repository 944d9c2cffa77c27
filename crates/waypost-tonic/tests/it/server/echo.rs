//! Server that echoes every message, except one that it never answers.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};
use waypost_greeter::parrot::Word;
use waypost_greeter::parrot::parrot_client::ParrotClient;
use waypost_greeter::parrot::parrot_server::{Parrot, ParrotServer};

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

pub(crate) struct Echo(Hanging);

pub(crate) fn service() -> (ParrotServer<Echo>, Hanging) {
    let hanging = Hanging(Arc::new(watch::channel(0).0));
    (ParrotServer::new(Echo(hanging.clone())), hanging)
}

#[tonic::async_trait]
impl Parrot for Echo {
    async fn say(&self, word: Request<Word>) -> Result<Response<Word>, Status> {
        if word.get_ref().text == HANG {
            self.0.0.send_modify(|count| *count += 1);
            let _hung = Hung(self.0.clone());
            std::future::pending::<()>().await;
        }
        Ok(Response::new(word.into_inner()))
    }

    type CountStream = ReceiverStream<Result<Word, Status>>;

    async fn count(&self, _: Request<Word>) -> Result<Response<Self::CountStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn gather(&self, _: Request<Streaming<Word>>) -> Result<Response<Word>, Status> {
        Err(Status::unimplemented("not here"))
    }

    type TalkStream = Streaming<Word>;

    async fn talk(
        &self,
        words: Request<Streaming<Word>>,
    ) -> Result<Response<Self::TalkStream>, Status> {
        Ok(Response::new(words.into_inner()))
    }

    async fn look(&self, word: Request<Word>) -> Result<Response<Word>, Status> {
        Ok(Response::new(word.into_inner()))
    }
}

pub(crate) fn word(text: &str) -> Word {
    Word {
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

pub(crate) async fn client(address: &str) -> ParrotClient<Channel> {
    ParrotClient::new(connect(address).await.expect("it listens"))
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
pub(crate) struct Talk {
    say: mpsc::Sender<Word>,
    hear: Streaming<Word>,
}

impl Talk {
    pub(crate) async fn begin(client: &mut ParrotClient<Channel>) -> Self {
        let (say, words) = mpsc::channel(1);
        let hear = client
            .talk(ReceiverStream::new(words))
            .await
            .unwrap()
            .into_inner();
        let mut talk = Self { say, hear };
        talk.exchange("first").await.unwrap();
        talk
    }

    pub(crate) async fn exchange(&mut self, text: &str) -> Result<String, Status> {
        self.say
            .send(word(text))
            .await
            .map_err(|_| Status::cancelled("the call ended"))?;
        Ok(self.hear.message().await?.expect("an answer").text)
    }

    /// Ends the stream gracefully.
    pub(crate) async fn hang_up(self) -> Result<Option<Word>, Status> {
        let Self { say, mut hear } = self;
        drop(say);
        hear.message().await
    }

    /// Waits until the stream ends by itself.
    pub(crate) async fn ends(mut self) -> Result<Option<Word>, Status> {
        self.hear.message().await
    }
}
