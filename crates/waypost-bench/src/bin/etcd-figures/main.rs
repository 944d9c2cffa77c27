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

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|first| first == "fleet") {
        return exit("etcd-figures", fleet::run(&args[1..]).map(|()| true));
    }
    let Some(options) = Options::parse(&args, &PARTS.map(|(name, _)| name), "--seconds") else {
        eprint!("{USAGE}");
        return ExitCode::from(2);
    };
    exit("etcd-figures", all(&options, &args))
}

fn all(options: &Options, args: &[String]) -> Result<bool> {
    let mut json = described("cargo xtask etcd-figures", args);
    options.show(&format!(
        "{}, commit {}\n",
        text(&json, "machine"),
        text(&json, "commit")
    ));
    let mut etcds = Vec::new();
    let mut failures = Vec::new();
    for binary in Binary::all()? {
        let (figures, failed) = on(&binary, options)?;
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
fn on(binary: &Binary, options: &Options) -> Result<(Value, Vec<String>)> {
    let version = binary.version().to_string();
    let mut json = Map::from_iter([("version".to_owned(), Value::from(version.as_str()))]);
    let mut failures = Vec::new();
    for (name, run) in PARTS.into_iter().filter(|(name, _)| options.wants(name)) {
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
        json.insert(name.to_owned(), figures);
        failures.extend(
            failed
                .into_iter()
                .map(|why| format!("etcd {version}: {why}")),
        );
    }
    Ok((json.into(), failures))
}
