//! Server processes: this program, started again as `… server`.

use std::time::Duration;

use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::signal::unix::{SignalKind, signal};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use waypost_greeter::greeter::greeter_server::{Greeter, GreeterServer};
use waypost_greeter::greeter::{FILE_DESCRIPTOR_SET, HelloRequest, HelloResponse};
use waypost_testkit::report::{Result, one_thread};
use waypost_testkit::{Child, Program};

use crate::caller::SERVICE;

const START: Duration = Duration::from_secs(10);

/// Kind of a server.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ServerKind<'a> {
    /// Server of tonic, not registered.
    Plain,
    /// Server of Waypost, registered; waits for `drain_delay` between leaving and GOAWAY.
    Registered {
        registry: &'a str,
        drain_delay: Duration,
    },
}

/// Server process, and the address it listens on.
#[derive(Debug)]
pub(crate) struct RunningServer {
    pub(crate) child: Child,
    pub(crate) address: String,
}

impl RunningServer {
    /// Starts a server; returns once it listens and, if it registers, is registered.
    pub(crate) async fn start(kind: ServerKind<'_>, bind: &str) -> Result<Self> {
        let program = Program::new(std::env::current_exe()?).args(["server", bind]);
        let program = match kind {
            ServerKind::Plain => program,
            ServerKind::Registered {
                registry,
                drain_delay,
            } => program.args([registry, &drain_delay.as_millis().to_string()]),
        };
        let mut child = Child::start("server", &program)?;
        let address = child.line(START).await?;
        Ok(Self { child, address })
    }

    /// Starts `n` plain servers.
    pub(crate) async fn plain(n: usize) -> Result<Vec<Self>> {
        let mut servers = Vec::new();
        for _ in 0..n {
            servers.push(Self::start(ServerKind::Plain, "127.0.0.1:0").await?);
        }
        Ok(servers)
    }
}

/// Returns the addresses that the servers listen on.
pub(crate) fn addresses(servers: &[RunningServer]) -> Vec<String> {
    servers
        .iter()
        .map(|server| server.address.clone())
        .collect()
}

/// Runs the child process: `server BIND [REGISTRY DRAIN_MS]`. Prints its address once it is ready.
pub(crate) fn serve(args: &[String]) -> Result<()> {
    // The servers end with the comparison, even if it is killed.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    match args {
        [bind] => one_thread()?.block_on(serve_plain(bind)),
        [bind, registry, drain_ms] => one_thread()?.block_on(serve_registered(
            bind,
            registry,
            Duration::from_millis(drain_ms.parse()?),
        )),
        _ => Err("server BIND [REGISTRY DRAIN_MS]".into()),
    }
}

async fn serve_plain(bind: &str) -> Result<()> {
    let listener = tokio::net::TcpListener::bind(bind).await?;
    println!("{}", listener.local_addr()?);
    let mut terminate = signal(SignalKind::terminate())?;
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let stop = async move {
        terminate.recv().await;
    };
    let server = tonic::transport::Server::builder().add_service(GreeterServer::new(Polite));
    Ok(server.serve_with_incoming_shutdown(incoming, stop).await?)
}

async fn serve_registered(bind: &str, registry: &str, drain_delay: Duration) -> Result<()> {
    let mut register = waypost::registrar::Config::default();
    register.drain_delay = drain_delay;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut running = waypost::Server::builder(SERVICE, waypost::connect(registry).await?)
        .descriptor(FILE_DESCRIPTOR_SET)
        .bind(bind)
        .register(register)
        .add_service(GreeterServer::new(Polite))
        .start()
        .await?;
    running.registered().await?;
    println!("{}", running.address());
    terminate.recv().await;
    running.stop();
    Ok(running.wait().await?)
}

/// Handler that responds at once.
#[derive(Debug)]
struct Polite;

#[tonic::async_trait]
impl Greeter for Polite {
    async fn hello(
        &self,
        request: Request<HelloRequest>,
    ) -> std::result::Result<Response<HelloResponse>, Status> {
        let message = format!("Hello {}", request.into_inner().name);
        Ok(Response::new(HelloResponse { message }))
    }
}
