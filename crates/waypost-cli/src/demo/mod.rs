//! `waypost demo`: restarts and kills servers while a client calls them, and no call fails.
//!
//! The servers are child processes, this program again as `demo server`. The client is in this
//! process. Both halves also run alone. This module knows how to break its own children, and
//! nothing of other processes.

mod call;
mod certificates;
mod client;
mod etcd;
mod fleet;
mod histogram;
mod load;
mod registry;
mod report;
mod runner;
mod screen;
mod script;
mod server;
mod stats;

use std::time::Duration;

use clap::{Args, Subcommand};
use waypost::Client;
use waypost::args::RegistryArgs;

use crate::duration;
use crate::error::{CliError, exit_codes};
use crate::open_registry::{OpenRegistry, registry_url};
use crate::output;
use crate::signals::Signals;
use certificates::DemoCertificates;
use fleet::DemoFleet;
use registry::DemoRegistry;
use report::{DemoReport, DemoSetting};
use runner::Runner;
use script::DemoScript;

/// Service that the demo serves and calls.
const SERVICE: &str = "greeter";

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
#[command(
    after_help = concat!(
        "Without --registry it runs in a fresh directory, or with --etcd on a fresh etcd, without regard to WAYPOST_REGISTRY, and removes \
         it at the end. The etcd is that of WAYPOST_ETCD, else that on the PATH, else the newest that cargo xtask etcd has built.\n\n",
        exit_codes!("no call failed", "a call failed")
    )
)]
pub(crate) struct DemoArgs {
    #[command(subcommand)]
    half: Option<Half>,
    /// Number of servers
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=20))]
    servers: u16,
    /// Calls a second, whatever the answers
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// Start an etcd of its own to run on, and throw it away at the end
    #[arg(long)]
    etcd: bool,
    /// Over TLS, with certificates made on the spot, one of which is replaced under load
    #[arg(long)]
    tls: bool,
    /// One JSON object instead of the table, on the last line of stdout
    #[arg(long)]
    json: bool,
    /// Duration of the first phase; the others follow it
    #[arg(long, hide = true, value_parser = duration::parse, default_value = "5s")]
    phase: Duration,
}

#[derive(Debug, Subcommand)]
enum Half {
    /// One greeter, until SIGTERM or Ctrl-C; one JSON line when registered, one when it has left
    Server(server::DemoServerArgs),
    /// Calls the greeters at a steady rate; one JSON line a call, then a summary
    Client(client::DemoClientArgs),
    /// Runs the etcd of --etcd until stdin closes
    #[command(hide = true)]
    KeepEtcd(etcd::KeeperArgs),
}

/// Runs the whole demo, for which only the flag of `registry` counts, or one half.
pub(crate) async fn run(args: DemoArgs, registry: &RegistryArgs) -> Result<(), CliError> {
    match &args.half {
        Some(Half::Server(server)) => {
            server::run(
                OpenRegistry::open_for("a server", &registry_url(registry)?).await?,
                server,
            )
            .await
        }
        Some(Half::Client(client)) => {
            client::run(&OpenRegistry::open(&registry_url(registry)?).await?, client).await
        }
        Some(Half::KeepEtcd(keeper)) => etcd::keep(keeper).await,
        None => whole(&args, registry.flag().map(|url| url.expose().to_owned())).await,
    }
}

/// Runs the whole demo in the given registry, or in one of its own, which is removed at the end.
async fn whole(args: &DemoArgs, given: Option<String>) -> Result<(), CliError> {
    let mut signals = Signals::listen()?;
    let mut registry = DemoRegistry::choose(given, args.etcd).await?;
    let played = tokio::select! {
        ready = registry.ready() => match ready {
            Ok(()) => on(&mut registry, args, &mut signals).await,
            Err(failure) => Err(failure),
        },
        () = signals.next() => Err(CliError::interrupted()),
    };
    let cleared = registry.clear().await;
    let report = played?;
    cleared?;
    report.print(args.json)?;
    report.verdict()
}

async fn on(
    registry: &mut DemoRegistry,
    args: &DemoArgs,
    signals: &mut Signals,
) -> Result<DemoReport, CliError> {
    let url = registry.url();
    let opened = OpenRegistry::open_for("the demo's servers", &url).await?;
    let mut certificates = args.tls.then(DemoCertificates::create).transpose()?;
    let client = client(&opened, certificates.as_ref())?;
    let environment = certificates
        .as_ref()
        .map(DemoCertificates::server_environment);
    let mut fleet = DemoFleet::new(&url, registry.is_shared(), environment.unwrap_or_default())?;
    let setting = DemoSetting {
        registry: opened.name(),
        etcd: registry.etcd(),
        servers: args.servers,
        rate: args.rate,
    };
    let played = tokio::select! {
        played = play(args, setting, &opened, &client, &mut fleet, certificates.as_mut(), signals) => played,
        failure = registry.failed() => Err(failure),
    };
    let ended = fleet.end().await;
    client.close().await;
    let closed = opened.close().await;
    let removed = certificates.map_or(Ok(()), DemoCertificates::remove);
    let report = played?;
    ended?;
    closed?;
    removed?;
    Ok(report)
}

fn client(
    opened: &OpenRegistry,
    certificates: Option<&DemoCertificates>,
) -> Result<Client, CliError> {
    let builder = Client::builder(opened.registry());
    let Some(certificates) = certificates else {
        return Ok(builder.build());
    };
    let builder = builder
        .tls(certificates.client_tls())
        .map_err(|error| CliError::no(error.to_string()))?;
    Ok(builder.build())
}

async fn play(
    args: &DemoArgs,
    setting: DemoSetting,
    opened: &OpenRegistry,
    client: &Client,
    fleet: &mut DemoFleet,
    certificates: Option<&mut DemoCertificates>,
    signals: &mut Signals,
) -> Result<DemoReport, CliError> {
    tokio::select! {
        answered = opened.answers(SERVICE) => answered?,
        () = signals.next() => return Err(CliError::interrupted()),
    }
    let channel = client
        .channel(SERVICE)
        .map_err(|error| CliError::usage(error.to_string()))?;
    let own = setting
        .etcd
        .as_ref()
        .map(|version| format!(" (etcd {version} of its own)"))
        .unwrap_or_default();
    let tls = if args.tls { " over TLS" } else { "" };
    output::note(&format!(
        "{} × waypost demo server in {}{own}, {} calls a second{tls}",
        args.servers,
        opened.url(),
        args.rate
    ));
    let (events, received) = tokio::sync::mpsc::channel(runner::QUEUE);
    let script = DemoScript {
        servers: args.servers,
        rate: args.rate,
        phase: args.phase,
        channel: channel.clone(),
        events,
    };
    let runner = Runner::new(setting, channel);
    // An interrupt ends the script and its load, and the report is that of the calls so far.
    let script = async {
        tokio::select! {
            biased;
            () = signals.next() => None,
            played = script.run(fleet, certificates) => Some(played),
        }
    };
    match tokio::join!(script, runner.run(received)) {
        (Some(played), report) => played.map(|()| report),
        (None, report) => Ok(report.interrupted()),
    }
}
