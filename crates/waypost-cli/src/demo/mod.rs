//! `waypost demo`: servers are restarted and killed while a client calls them, and no call fails.
//!
//! The servers are children, this program again as `demo server`; the client is in this process. Both halves run alone too. This room
//! knows how to break its own children, and nothing of other processes.

mod call;
mod client;
mod fleet;
mod histogram;
mod load;
mod report;
mod screen;
mod script;
mod server;
mod stage;
mod tally;

use std::time::Duration;

use clap::{Args, Subcommand};
use tempfile::TempDir;
use waypost::Client;

use crate::duration;
use crate::failure::Failure;
use crate::output;
use crate::place::Place;
use crate::signals::Signals;
use fleet::Fleet;
use report::Setting;
use script::Script;
use stage::Stage;

/// The service that the demo serves and calls.
const SERVICE: &str = "greeter";

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
#[command(
    after_help = "Without --registry it runs in a fresh directory, whatever WAYPOST_REGISTRY says, and removes it at the end."
)]
pub(crate) struct DemoArgs {
    #[command(subcommand)]
    half: Option<Half>,
    /// How many servers
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=20))]
    servers: u16,
    /// Calls a second, whatever the answers
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// One JSON object instead of the table, on the last line of stdout
    #[arg(long)]
    json: bool,
    /// How long the first phase lasts; the others follow it
    #[arg(long, hide = true, value_parser = duration::parse, default_value = "5s")]
    phase: Duration,
}

#[derive(Debug, Subcommand)]
enum Half {
    /// One greeter, until SIGTERM or Ctrl-C; one JSON line when registered, one when it has left
    Server(server::ServerArgs),
    /// Calls the greeters at a steady rate; one JSON line a call, then a summary
    Client(client::ClientArgs),
}

/// Runs the whole, or one half; `given` is what `--registry` says, `url` what holds without it.
pub(crate) async fn run(args: DemoArgs, given: Option<String>, url: &str) -> Result<(), Failure> {
    match &args.half {
        Some(Half::Server(server)) => server::run(Place::open_for("a server", url).await?, server).await,
        Some(Half::Client(client)) => client::run(&Place::open(url).await?, client).await,
        None => whole(&args, given).await,
    }
}

/// In the registry given, or in a fresh directory, which is removed at the end.
async fn whole(args: &DemoArgs, given: Option<String>) -> Result<(), Failure> {
    match given {
        Some(url) => in_registry(args, &url, true).await,
        None => {
            let folder = TempDir::with_prefix("waypost-demo-")?;
            let result = in_registry(args, &format!("local://{}", folder.path().display()), false).await;
            folder.close()?;
            result
        }
    }
}

async fn in_registry(args: &DemoArgs, url: &str, shared: bool) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let place = Place::open_for("the demo's servers", url).await?;
    let client = Client::new(place.registry());
    let mut fleet = Fleet::new(url, shared)?;
    let played = tokio::select! {
        played = play(args, &place, &client, &mut fleet) => played,
        () = signals.next() => Err(Failure::interrupted()),
    };
    let ended = fleet.end().await;
    client.close().await;
    place.close().await?;
    let report = played?;
    ended?;
    report.print(args.json)?;
    report.verdict()
}

async fn play(args: &DemoArgs, place: &Place, client: &Client, fleet: &mut Fleet) -> Result<report::Report, Failure> {
    let setting = Setting { registry: place.name(), servers: args.servers, rate: args.rate };
    let channel = client.channel(SERVICE).map_err(|error| Failure::usage(error.to_string()))?;
    output::note(&format!("{} × waypost demo server in {}, {} calls a second", args.servers, place.url(), args.rate));
    let (news, heard) = tokio::sync::mpsc::channel(stage::NEWS);
    let script = Script { servers: args.servers, rate: args.rate, phase: args.phase, channel: channel.clone(), news };
    let stage = Stage::new(setting, channel);
    let (played, report) = tokio::join!(script.play(fleet), stage.follow(heard));
    played.map(|()| report)
}
