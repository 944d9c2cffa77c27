//! `etcd-figures`: cost of a fleet for etcd, and latency of its changes, on every etcd of the
//! machine.
//!
//! Five parts: ten thousand idle nodes, their first list, one change on its way to a snapshot, two
//! hundred registrars after a wipe, and what is left when all is closed. The registrars are child
//! processes of this program. Their cost is read from etcd and from the kernel; the reference is
//! etcd called directly. This program may depend on everything; nothing depends on it.

mod baseline;
mod cleanup;
mod fleet;
mod fleet_sizes;
mod herd;
mod idle;
mod latency;
mod list;
mod messages;
mod usage;

use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::runtime::{Builder, Runtime};
use waypost_testkit::etcd::Binary;
use waypost_testkit::report::{Figures, Options, Result, described, exit};

const USAGE: &str = "\
usage: etcd-figures [--json] [--only idle|list|latency|herd|cleanup]... [--seconds N]

  --json       one object as the last line of stdout, the tables on stderr
  --only P     this part only; may be given again
  --seconds N  duration of the idle measurement (default 60)

Exit code 0 if, on every etcd, an idle fleet wrote nothing and caused no event, no 250 ms after a wipe held more than a quarter of the
registrars and all were back in time, and nothing was left when all was closed. Speed is reported, and has no limit.
";

const FLEET_USAGE: &str = "\
usage: etcd-fleet [--json] [--only proof|rest|recovery]... [--seconds N]

  --json       one object as the last line of stdout, the tables on stderr
  --only P     this part only; may be given again
  --seconds N  duration of each measurement at rest (default 60)

Exit code 0 if, on every etcd, each proof succeeded, the fleet was calm again after each fault, and no client lost a node.
";

/// Name and function of a part; [`IDLE_TIME`] is the default duration of the first one.
type Part = (&'static str, fn(&Binary, &Options) -> Result<Figures>);
const PARTS: [Part; 5] = [
    ("idle", |binary, options| {
        two_threads()?.block_on(idle::run(binary, seconds(options)))
    }),
    ("list", |binary, _| {
        two_threads()?.block_on(list::run(binary))
    }),
    ("latency", |binary, _| {
        two_threads()?.block_on(latency::run(binary))
    }),
    ("herd", |binary, _| {
        two_threads()?.block_on(herd::run(binary))
    }),
    ("cleanup", |binary, _| cleanup::run(binary)),
];
const FLEET_PARTS: [Part; 3] = [
    ("proof", |binary, options| {
        two_threads()?.block_on(fleet_sizes::proof::run(binary, seconds(options)))
    }),
    ("rest", |binary, options| {
        two_threads()?.block_on(fleet_sizes::rest::run(binary, seconds(options)))
    }),
    ("recovery", |binary, _| {
        two_threads()?.block_on(fleet_sizes::recovery::run(binary))
    }),
];
const IDLE_TIME: Duration = Duration::from_secs(60);

fn seconds(options: &Options) -> Duration {
    options
        .number
        .map_or(IDLE_TIME, |seconds| Duration::from_secs(seconds as u64))
}

/// Creates the runtime of everything except the code whose CPU time or tasks are counted.
fn two_threads() -> Result<Runtime> {
    Ok(Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?)
}

/// Programs of this binary: a table of parts, or one of the children that they start.
fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let rest = args.get(1..).unwrap_or_default();
    match args.first().map(String::as_str) {
        Some("fleet") => exit("etcd-figures", fleet::run(rest).map(|()| true)),
        Some("processes") => exit(
            "etcd-figures",
            fleet_sizes::bare_process::run(rest).map(|()| true),
        ),
        Some("followers") => exit(
            "etcd-figures",
            fleet_sizes::follower::run(rest).map(|()| true),
        ),
        Some("etcd-fleet") => measure("etcd-fleet", FLEET_USAGE, &FLEET_PARTS, rest),
        _ => measure("etcd-figures", USAGE, &PARTS, &args),
    }
}

fn measure(program: &str, usage: &str, parts: &[Part], args: &[String]) -> ExitCode {
    let names: Vec<_> = parts.iter().map(|(name, _)| *name).collect();
    let Some(options) = Options::parse(args, &names, "--seconds") else {
        eprint!("{usage}");
        return ExitCode::from(2);
    };
    exit(program, all(program, parts, &options, args))
}

fn all(program: &str, parts: &[Part], options: &Options, args: &[String]) -> Result<bool> {
    let mut json = described(&format!("cargo xtask {program}"), args);
    options.show(&format!(
        "{}, commit {}\n",
        text(&json, "machine"),
        text(&json, "commit")
    ));
    let mut etcds = Vec::new();
    let mut failures = Vec::new();
    for binary in Binary::all()? {
        let (figures, failed) = on(&binary, parts, options)?;
        etcds.push(figures);
        failures.extend(failed);
    }
    json.insert("etcds".to_owned(), etcds.into());
    Ok(options.conclude(json, &failures))
}

fn text<'a>(json: &'a Map<String, Value>, key: &str) -> &'a str {
    json.get(key).and_then(Value::as_str).unwrap_or("unknown")
}

/// Runs the selected parts on one etcd; returns the figures, and the requirements that were not
/// met.
fn on(binary: &Binary, parts: &[Part], options: &Options) -> Result<(Value, Vec<String>)> {
    let version = binary.version().to_string();
    let mut json = Map::from_iter([("version".to_owned(), Value::from(version.as_str()))]);
    let mut failures = Vec::new();
    for (name, run) in parts.iter().filter(|(name, _)| options.wants(name)) {
        let load = usage::load();
        let Figures {
            table,
            json: mut figures,
            failures: failed,
        } = run(binary, options)?;
        options.show(&format!(
            "etcd {version}: {table}\n  (load of the machine before: {load:.2})\n"
        ));
        figures["load_before"] = load.into();
        json.insert((*name).to_owned(), figures);
        failures.extend(
            failed
                .into_iter()
                .map(|why| format!("etcd {version}: {why}")),
        );
    }
    Ok((json.into(), failures))
}
