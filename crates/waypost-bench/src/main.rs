//! `bench`: benchmarks of the client. Each command prints a table, or one JSON object with
//! `--json`; `cargo xtask bench` runs it in a release build. Nothing depends on this crate.

mod callers;
mod chaos;
mod churn;
mod cpu;
mod deadlines;
mod hostile;
mod load;
mod lost;
mod options;
mod peers;
mod records;
mod registry;
mod servers;

use std::process::ExitCode;

use options::BenchOptions;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use waypost_testkit::report::{Figures, Result, described, exit};

const USAGE: &str = "\
usage: cargo xtask bench <name> [--json] [flags]

  callers   [--callers 64,200,1000] [--seconds N]
               many callers at one node with few streams beside tonic's channel, many streams, rising limits
  chaos     [--registry local|etcd] [--only crash-loop|dead|frozen|cut-off|firewall] [--seconds N]
               calls at a steady rate while server processes crash, freeze, are cut off or forgotten
  churn     [--nodes 100,1000,10000,100000] [--seconds N] [--before FILE]
               CPU of one event, of a rolling replacement and of backoff; bytes a node; time to the first answer
  deadlines    the end of calls to a node that hangs and whose methods are unknown
  hostile   [--seeds N] [--seed FIRST] [--at-once N] [--no-panics]
               randomised trials of the client against hostile peers; a failure names its seed
  stuck     [--nodes N] [--clients N] [--batch N]
               clients that are never connected to a node that was dead for a while
  zombie    [--nodes N] [--clients N] [--batch N]
               clients that fail calls to a node that closed one connection after its hello
";

/// Benchmark: its name, its flags with a value, its flags without, its function.
struct Bench(
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
    fn(&BenchOptions) -> Result<Figures>,
);

const BENCHES: [Bench; 7] = [
    Bench("callers", &["callers", "seconds"], &["json"], callers::run),
    Bench(
        "chaos",
        &["registry", "only", "seconds"],
        &["json"],
        chaos::run,
    ),
    Bench(
        "churn",
        &["nodes", "seconds", "before"],
        &["json"],
        churn::run,
    ),
    Bench("deadlines", &[], &["json"], deadlines::run),
    Bench(
        "hostile",
        &["seeds", "seed", "at-once"],
        &["json", "no-panics"],
        hostile::run,
    ),
    Bench(
        "stuck",
        &["nodes", "clients", "batch"],
        &["json"],
        lost::stuck,
    ),
    Bench(
        "zombie",
        &["nodes", "clients", "batch"],
        &["json"],
        lost::zombie,
    ),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|first| first == "serve") {
        return exit("bench serve", servers::serve(&args[1..]).map(|()| true));
    }
    if args.first().is_some_and(|first| first == "node") {
        return exit("bench node", chaos::node(&args[1..]).map(|()| true));
    }
    let Some(bench) = args
        .first()
        .and_then(|name| BENCHES.iter().find(|bench| bench.0 == name))
    else {
        eprint!("{USAGE}");
        return ExitCode::from(2);
    };
    allow_descriptors();
    let Bench(_, valued, unvalued, run) = bench;
    match BenchOptions::parse(&args[1..], valued, unvalued) {
        Ok(options) => exit("bench", measure(*run, &options, &args)),
        Err(error) => {
            eprintln!("bench: {error}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn measure(
    run: fn(&BenchOptions) -> Result<Figures>,
    options: &BenchOptions,
    args: &[String],
) -> Result<bool> {
    let mut json = described("cargo xtask bench", args);
    let Figures {
        table,
        json: figures,
        failures,
    } = run(options)?;
    let as_json = options.flag("json");
    let show = |text: &str| {
        if as_json {
            eprintln!("{text}");
        } else {
            println!("{text}");
        }
    };
    show(&table);
    failures
        .iter()
        .for_each(|failure| show(&format!("FAILED: {failure}")));
    json.insert("figures".to_owned(), figures);
    json.insert("ok".to_owned(), failures.is_empty().into());
    if as_json {
        println!("{}", serde_json::Value::Object(json));
    }
    Ok(failures.is_empty())
}

/// Raises the limit of open files to the system's maximum: some benchmarks hold both ends of
/// thousands of connections.
fn allow_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    );
}
