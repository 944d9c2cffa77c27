//! `compare`: Waypost beside tonic's own balancer, in one program and one run.
//!
//! Five parts: one dead endpoint, no endpoint at all, a client before its first server, restarts under load, and throughput. Servers are child processes of this very
//! program; both sides call them through the same generated stub. This program may know everything; nothing knows it.

mod caller;
mod dead;
mod empty;
mod first;
mod machine;
mod parts;
mod restarts;
mod servers;
mod throughput;

use std::process::ExitCode;

use parts::{Figures, Options, Part, Result};
use serde_json::Value;

const USAGE: &str = "\
usage: compare [--json] [--only dead|empty|first|restarts|throughput]... [--rounds N]

  --json      one object as the last line of stdout, the tables on stderr
  --only P    this part only; may be given again
  --rounds N  rounds of each kind in the throughput part (default 9, at least 1)

Exit code 0 if Waypost lost no call beside a dead endpoint and across restarts, told of an empty set within 250 ms,
and gave every first answer within 50 ms.
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|first| first == "server") {
        return done(servers::serve(&args[1..]).map(|()| true));
    }
    let Some(options) = Options::parse(&args) else {
        eprint!("{USAGE}");
        return ExitCode::from(2);
    };
    done(compare(&options, &args))
}

fn done(result: Result<bool>) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare(options: &Options, args: &[String]) -> Result<bool> {
    let mut json = machine::described("cargo xtask compare", args);
    json.insert("tonic".to_owned(), "0.14".into());
    let mut failures = Vec::new();
    for part in Part::ALL.into_iter().filter(|part| options.wants(*part)) {
        let Figures { table, json: figures, failure } = run(part, options)?;
        options.show(&format!("{table}\n"));
        json.insert(part.name().to_owned(), figures);
        failures.extend(failure);
    }
    for failure in &failures {
        options.show(&format!("FAILED: {failure}"));
    }
    json.insert("ok".to_owned(), failures.is_empty().into());
    if options.json {
        println!("{}", Value::Object(json));
    }
    Ok(failures.is_empty())
}

fn run(part: Part, options: &Options) -> Result<Figures> {
    match part {
        Part::Dead => dead::run(),
        Part::Empty => empty::run(),
        Part::First => first::run(),
        Part::Restarts => restarts::run(),
        Part::Throughput => throughput::run(options.rounds),
    }
}
