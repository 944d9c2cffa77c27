//! `compare`: Waypost beside tonic's own balancer, in one program and one run.
//!
//! Five parts: one dead endpoint, no endpoint at all, a client before its first server, restarts
//! under load, and throughput. Servers are child processes of this program; both sides call them
//! through the same generated stub. This program may depend on everything; nothing depends on it.

mod caller;
mod dead;
mod empty;
mod first;
mod restarts;
mod servers;
mod throughput;

use std::process::ExitCode;

use waypost_testkit::report::{Figures, Options, Result, described, exit};

const USAGE: &str = "\
usage: compare [--json] [--only dead|empty|first|restarts|throughput]... [--rounds N]

  --json      one object as the last line of stdout, the tables on stderr
  --only P    this part only; may be given again
  --rounds N  rounds of each kind in the throughput part (default 9, at least 1)

Exit code 0 if Waypost lost no call beside a dead endpoint and across restarts, reported an empty set within 250 ms,
and gave every first answer within 50 ms.
";

/// Name and function of a part; [`ROUNDS`] is the default number of rounds of the last one.
type Part = (&'static str, fn(&Options) -> Result<Figures>);
const PARTS: [Part; 5] = [
    ("dead", |_| dead::run()),
    ("empty", |_| empty::run()),
    ("first", |_| first::run()),
    ("restarts", |_| restarts::run()),
    ("throughput", |options| {
        throughput::run(options.number.unwrap_or(ROUNDS))
    }),
];
const ROUNDS: usize = 9;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|first| first == "server") {
        return exit("compare", servers::serve(&args[1..]).map(|()| true));
    }
    let Some(options) = Options::parse(&args, &PARTS.map(|(name, _)| name), "--rounds") else {
        eprint!("{USAGE}");
        return ExitCode::from(2);
    };
    exit("compare", compare(&options, &args))
}

fn compare(options: &Options, args: &[String]) -> Result<bool> {
    let mut json = described("cargo xtask compare", args);
    json.insert("tonic".to_owned(), "0.14".into());
    let mut failures = Vec::new();
    for (name, run) in PARTS.into_iter().filter(|(name, _)| options.wants(name)) {
        let Figures {
            table,
            json: figures,
            failures: failed,
        } = run(options)?;
        options.show(&format!("{table}\n"));
        json.insert(name.to_owned(), figures);
        failures.extend(failed);
    }
    Ok(options.conclude(json, &failures))
}
