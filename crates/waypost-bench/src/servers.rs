//! Server processes: this program, started again as `bench serve`. Each limits the streams of a
//! connection. `Hello` responds after a delay; `Count` sends one word and stays open.

use std::pin::Pin;
use std::time::Duration;

use futures_core::Stream;
use rustix::process::{Signal, set_parent_process_death_signal};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};
use waypost_greeter::echo::EchoMessage;
use waypost_greeter::echo::echo_server::{Echo, EchoServer};
use waypost_greeter::greeter::greeter_server::{Greeter, GreeterServer};
use waypost_greeter::greeter::{HelloRequest, HelloResponse};
use waypost_testkit::report::{Result, one_thread};
use waypost_testkit::{Child, Program};

const START: Duration = Duration::from_secs(10);

/// Running server, and its address.
#[derive(Debug)]
pub(crate) struct BenchServer {
    pub(crate) address: String,
    _child: Child,
}

impl BenchServer {
    /// Starts a server that allows this many streams per connection and whose `Hello` takes this
    /// long.
    pub(crate) async fn start(streams: u32, takes: Duration) -> Result<Self> {
        let program = Program::new(std::env::current_exe()?);
        let mut child = Child::start(
            "server",
            &program.args([
                "serve",
                &streams.to_string(),
                &takes.as_millis().to_string(),
            ]),
        )?;
        Ok(Self {
            address: child.line(START).await?,
            _child: child,
        })
    }
}

/// Runs the child process: `serve STREAMS MILLISECONDS`. Prints its address.
pub(crate) fn serve(args: &[String]) -> Result<()> {
    // The servers end with the benchmark, even if it is killed.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let [streams, takes] = args else {
        return Err("serve STREAMS MILLISECONDS".into());
    };
    let (streams, takes): (u32, _) = (streams.parse()?, Duration::from_millis(takes.parse()?));
    one_thread()?.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        let mut server = tonic::transport::Server::builder().max_concurrent_streams(streams);
        let router = server
            .add_service(GreeterServer::new(Slow { takes }))
            .add_service(EchoServer::new(Slow { takes }));
        Ok(router
            .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
            .await?)
    })
}

/// Handlers that respond after a delay.
#[derive(Debug)]
pub(crate) struct Slow {
    pub(crate) takes: Duration,
}

#[tonic::async_trait]
impl Greeter for Slow {
    async fn hello(
        &self,
        request: Request<HelloRequest>,
    ) -> std::result::Result<Response<HelloResponse>, Status> {
        tokio::time::sleep(self.takes).await;
        let message = format!("Hello {}", request.into_inner().name);
        Ok(Response::new(HelloResponse { message }))
    }
}

type EchoStream = Pin<Box<dyn Stream<Item = std::result::Result<EchoMessage, Status>> + Send>>;

#[tonic::async_trait]
impl Echo for Slow {
    type ServerStreamingEchoStream = EchoStream;
    type BidirectionalStreamingEchoStream = EchoStream;

    async fn unary_echo(
        &self,
        request: Request<EchoMessage>,
    ) -> std::result::Result<Response<EchoMessage>, Status> {
        Ok(Response::new(request.into_inner()))
    }

    async fn server_streaming_echo(
        &self,
        request: Request<EchoMessage>,
    ) -> std::result::Result<Response<EchoStream>, Status> {
        Ok(Response::new(Box::pin(One(Some(request.into_inner())))))
    }

    async fn client_streaming_echo(
        &self,
        _: Request<Streaming<EchoMessage>>,
    ) -> std::result::Result<Response<EchoMessage>, Status> {
        Err(Status::unimplemented("no benchmark gathers"))
    }

    async fn bidirectional_streaming_echo(
        &self,
        _: Request<Streaming<EchoMessage>>,
    ) -> std::result::Result<Response<EchoStream>, Status> {
        Err(Status::unimplemented("no benchmark talks"))
    }

    async fn idempotent_echo(
        &self,
        request: Request<EchoMessage>,
    ) -> std::result::Result<Response<EchoMessage>, Status> {
        Ok(Response::new(request.into_inner()))
    }
}

/// Stream of one word that does not end.
struct One(Option<EchoMessage>);

impl Stream for One {
    type Item = std::result::Result<EchoMessage, Status>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.take().map_or(std::task::Poll::Pending, |word| {
            std::task::Poll::Ready(Some(Ok(word)))
        })
    }
}
