//! `waypost demo server`: one greeter.

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;
use tonic::{Request, Response, Status, async_trait};
use waypost::registrar::State;
use waypost::{Server, ServerHandle, args};
use waypost_greeter::greeter::greeter_server::{Greeter, GreeterServer};
use waypost_greeter::greeter::{FILE_DESCRIPTOR_SET, HelloRequest, HelloResponse};

use super::SERVICE;
use crate::error::{CliError, exit_codes};
use crate::escape;
use crate::open_registry::OpenRegistry;
use crate::output::{self, SCHEMA};
use crate::signals::Signals;

/// Maximum time to leave after stdin has closed. By then no process waits for this one.
const LEAVE: Duration = Duration::from_secs(2);

#[derive(Args, Debug)]
#[command(after_help = exit_codes!("stopped by a signal and left the registry"))]
#[command(mut_arg("server-id", |id| id.visible_alias("id")))]
pub(super) struct DemoServerArgs {
    #[command(flatten)]
    waypost: args::ServerArgs,
    /// Leave and end at once when stdin closes: with the process that started this one
    #[arg(long, hide = true)]
    until_stdin_closes: bool,
}

struct Hello;

#[async_trait]
impl Greeter for Hello {
    async fn hello(
        &self,
        request: Request<HelloRequest>,
    ) -> Result<Response<HelloResponse>, Status> {
        Ok(Response::new(HelloResponse {
            message: format!("Hello {}", request.into_inner().name),
        }))
    }
}

#[derive(Serialize)]
struct ServerOutput<'a> {
    schema: &'static str,
    event: &'static str,
    service: &'a str,
    id: &'a str,
    address: &'a str,
}

pub(super) async fn run(opened: OpenRegistry, args: &DemoServerArgs) -> Result<(), CliError> {
    let mut signals = Signals::listen()?;
    let server = Server::builder(SERVICE, opened.registry()).descriptor(FILE_DESCRIPTOR_SET);
    let server = args.waypost.apply(server)?;
    let started = server.add_service(GreeterServer::new(Hello)).start().await;
    let mut running = started.map_err(|error| failed(&error))?;
    serve(&opened, &mut running, &mut signals, args.until_stdin_closes).await?;
    opened.close().await?;
    print_event("left", &running)
}

/// Serves until the end. A signal begins a graceful stop, and a second one aborts the calls in
/// flight.
async fn serve(
    opened: &OpenRegistry,
    running: &mut ServerHandle,
    signals: &mut Signals,
    until_stdin_closes: bool,
) -> Result<(), CliError> {
    let mut orphaned = std::pin::pin!(stdin_closed(until_stdin_closes));
    let mut states = running.registration();
    states.mark_changed();
    loop {
        tokio::select! {
            result = running.wait() => return result.map_err(|error| failed(&error)),
            Ok(()) = states.changed() => print_state(opened, running, &states.borrow_and_update().clone())?,
            () = signals.next() => running.stop(),
            () = &mut orphaned => {
                deregister(running).await;
                return Ok(());
            }
        }
    }
}

/// Leaves the registry, and does no more: the calls in flight end with the process.
async fn deregister(running: &ServerHandle) {
    running.stop();
    let _ = timeout(LEAVE, running.registration().wait_for(State::is_left)).await;
}

async fn stdin_closed(wanted: bool) {
    if !wanted {
        return std::future::pending().await;
    }
    let mut stdin = tokio::io::stdin();
    while stdin.read(&mut [0; 64]).await.is_ok_and(|read| read > 0) {}
}

/// Reports the state of the registration: on stdout when it is registered, on stderr when it fails.
fn print_state(
    opened: &OpenRegistry,
    running: &ServerHandle,
    state: &State,
) -> Result<(), CliError> {
    match state {
        State::Registered { .. } => print_event("registered", running),
        State::Failing { why, .. } => {
            output::note(&format!(
                "not registered in {}, retrying: {}",
                opened.url(),
                escape::text(why)
            ));
            Ok(())
        }
        _ => Ok(()),
    }
}

fn print_event(event: &'static str, running: &ServerHandle) -> Result<(), CliError> {
    let (service, id, address) = (running.service(), running.node_id(), running.advertised());
    Ok(output::line(&output::compact(&ServerOutput {
        schema: SCHEMA,
        event,
        service,
        id,
        address,
    }))?)
}

fn failed(error: &waypost::server::Error) -> CliError {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    let text = causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"));
    CliError::usage(escape::text(&text))
}
