//! `waypost demo client`: calls greeters, of this demo or others, and reports every call.

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use waypost::{Channel, Client, args};

use super::SERVICE;
use super::call::{DemoCall, METHOD};
use super::load::DemoLoad;
use super::stats::Stats;
use crate::duration;
use crate::error::{CliError, exit_codes};
use crate::open_registry::OpenRegistry;
use crate::output::{self, SCHEMA};
use crate::signals::Signals;
use crate::timestamp::Timestamp;

/// Maximum number of calls that wait to be written. Above it, the tasks of the calls wait, after
/// their measurement.
const LINES: usize = 65_536;

/// Maximum wait for a first server.
const READY: Duration = Duration::from_secs(30);

#[derive(Args, Debug)]
#[command(after_help = exit_codes!("all calls answered", "a call failed, or no server was ready"))]
pub(super) struct DemoClientArgs {
    #[command(flatten)]
    waypost: args::ClientArgs,
    /// Service to call, if it is not called greeter
    #[arg(long, default_value = SERVICE, hide_default_value = true, value_name = "NAME")]
    service: String,
    /// Calls a second, whatever the answers
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// For how long
    #[arg(long = "for", value_parser = duration::parse, default_value = "30s", value_name = "TIME")]
    time: Duration,
    /// Send no call twice, though its method allows it
    #[arg(long)]
    not_idempotent: bool,
}

pub(super) async fn run(opened: &OpenRegistry, args: &DemoClientArgs) -> Result<(), CliError> {
    let mut signals = Signals::listen()?;
    let client = args
        .waypost
        .apply(Client::builder(opened.registry()))?
        .build();
    let channel = channel(&client, args)?;
    let called = tokio::select! {
        ready = ready(&channel) => match ready {
            Ok(()) => call(opened, channel, args, &mut signals).await,
            Err(failure) => Err(failure),
        },
        () = signals.next() => Err(CliError::interrupted()),
    };
    client.close().await;
    called
}

fn channel(client: &Client, args: &DemoClientArgs) -> Result<Channel, CliError> {
    let builder = client.channel_builder(&args.service);
    let builder = if args.not_idempotent {
        builder.not_idempotent(METHOD)
    } else {
        builder
    };
    builder
        .build()
        .map_err(|error| CliError::usage(error.to_string()))
}

async fn ready(channel: &Channel) -> Result<(), CliError> {
    let ready = channel.ready(READY).await;
    ready.map_err(|error| {
        let failure = CliError::no(crate::escape::text(&error.to_string()));
        match error.report.known {
            0 => failure.next("start one: waypost demo server"),
            _ => failure,
        }
    })
}

/// Makes calls until the time is over or a signal arrives. The summary is the last line in both
/// cases.
async fn call(
    opened: &OpenRegistry,
    channel: Channel,
    args: &DemoClientArgs,
    signals: &mut Signals,
) -> Result<(), CliError> {
    let (calls, ended) = mpsc::channel(LINES);
    let scribe = EventPrinter::new(opened.name());
    let mut scribes = JoinSet::new();
    scribes.spawn_blocking(move || scribe.write(ended));
    let load = DemoLoad::start(channel, args.rate, calls);
    let interrupted = tokio::select! {
        () = sleep(args.time) => false,
        () = signals.next() => true,
    };
    load.finish().await;
    let written = scribes.join_next().await;
    written
        .and_then(Result::ok)
        .unwrap_or_else(|| Err(CliError::no("the calls could not be reported")))?;
    if interrupted {
        Err(CliError::interrupted())
    } else {
        Ok(())
    }
}

/// Writer of a line for each call, in a thread of its own, so that a slow reader delays no call.
struct EventPrinter {
    registry: &'static str,
    origin: Instant,
    /// Wall-clock time at `origin`, in microseconds since 1970.
    origin_us: u64,
}

#[derive(Serialize)]
struct CallLine<'a> {
    schema: &'static str,
    event: &'static str,
    /// Microseconds since 1970, comparable with the clocks of other programs.
    start_us: u64,
    duration_us: u64,
    node: Option<&'a str>,
    result: String,
    moved: bool,
    attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

#[derive(Serialize)]
struct Summary {
    schema: &'static str,
    event: &'static str,
    registry: &'static str,
    calls: u64,
    failed: u64,
    moved: u64,
    p50_us: u64,
    p99_us: u64,
    longest_gap_ms: u64,
}

impl EventPrinter {
    fn new(registry: &'static str) -> Self {
        Self {
            registry,
            origin: Instant::now(),
            origin_us: micros(Timestamp::now().since_epoch()),
        }
    }

    fn write(self, mut calls: mpsc::Receiver<DemoCall>) -> Result<(), CliError> {
        let mut stats = Stats::default();
        stats.begin("calls", self.origin);
        while let Some(call) = calls.blocking_recv() {
            stats.count(&call);
            output::line(&output::compact(&self.line(&call)))?;
        }
        output::line(&output::compact(&self.summary(&stats)))?;
        match stats.total.failed {
            0 => Ok(()),
            failed => Err(CliError::no(format!(
                "{failed} of {} calls failed",
                stats.total.calls
            ))),
        }
    }

    fn line<'a>(&self, call: &'a DemoCall) -> CallLine<'a> {
        CallLine {
            schema: SCHEMA,
            event: "call",
            start_us: self.origin_us + micros(call.due.saturating_duration_since(self.origin)),
            duration_us: micros(call.latency()),
            node: call.node.as_deref(),
            result: call
                .fault
                .as_ref()
                .map_or("ok".to_owned(), |(code, _)| format!("{code:?}")),
            moved: call.is_moved(),
            attempts: call.attempts,
            error: call.fault.as_ref().map(|(_, text)| text.as_str()),
        }
    }

    fn summary(&self, stats: &Stats) -> Summary {
        let total = &stats.total;
        Summary {
            schema: SCHEMA,
            event: "summary",
            registry: self.registry,
            calls: total.calls,
            failed: total.failed,
            moved: total.moved,
            p50_us: total.p50_us(),
            p99_us: total.p99_us(),
            longest_gap_ms: total.longest_gap_ms(),
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
