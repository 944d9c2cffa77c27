//! `etcd-figures`: what a fleet costs etcd, and how fast it is heard, on every etcd there is.
//!
//! Five parts: ten thousand nodes at rest, their first list, one change on its way to a snapshot, two hundred registrars after a wipe, and
//! what is left when all is closed. The registrars are child processes of this very program; what they cost is asked of etcd and of the
//! kernel, and what is compared with is etcd asked by hand. This program may know everything; nothing knows it.

mod bare;
mod fleet;
mod follow;
mod herd;
mod leave;
mod list;
#[path = "../compare/machine.rs"]
mod machine;
mod parts;
mod rest;
mod usage;
mod wire;

use std::process::ExitCode;

use parts::{Figures, Options, Part, Result, two_threads};
use serde_json::{Map, Value};
use waypost_testkit::etcd::Binary;

const USAGE: &str = "\
usage: etcd-figures [--json] [--only rest|list|follow|herd|leave]... [--seconds N]

  --json       one object as the last line of stdout, the tables on stderr
  --only P     this part only; may be given again
  --seconds N  how long the fleet at rest is looked at (default 60)

Exit code 0 if, on every etcd, a fleet at rest wrote nothing and woke nobody, no 250 ms after a wipe held more than a quarter of the
registrars and all were back in time, and nothing was left when all was closed. Speed is told and not judged.
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|first| first == "fleet") {
        return done(fleet::run(&args[1..]).map(|()| true));
    }
    let Some(options) = Options::parse(&args) else {
        eprint!("{USAGE}");
        return ExitCode::from(2);
    };
    done(all(&options, &args))
}

fn done(result: Result<bool>) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("etcd-figures: {error}");
            ExitCode::FAILURE
        }
    }
}

fn all(options: &Options, args: &[String]) -> Result<bool> {
    let mut json = machine::described("cargo xtask etcd-figures", args);
    options.show(&format!("{}, commit {}\n", text(&json, "machine"), text(&json, "commit")));
    let mut etcds = Vec::new();
    let mut failures = Vec::new();
    for binary in Binary::all()? {
        let (figures, failed) = on(&binary, options)?;
        etcds.push(figures);
        failures.extend(failed);
    }
    for failure in &failures {
        options.show(&format!("FAILED: {failure}"));
    }
    json.insert("etcds".to_owned(), etcds.into());
    json.insert("ok".to_owned(), failures.is_empty().into());
    if options.json {
        println!("{}", Value::Object(json));
    }
    Ok(failures.is_empty())
}

fn text<'a>(json: &'a Map<String, Value>, key: &str) -> &'a str {
    json.get(key).and_then(Value::as_str).unwrap_or("unknown")
}

/// The figures of one etcd, and the promises that were not kept on it.
fn on(binary: &Binary, options: &Options) -> Result<(Value, Vec<String>)> {
    let version = binary.version().to_string();
    let mut json = Map::from_iter([("version".to_owned(), Value::from(version.as_str()))]);
    let mut failures = Vec::new();
    for part in Part::ALL.into_iter().filter(|part| options.wants(*part)) {
        let load = usage::load();
        let Figures { table, json: mut figures, failures: failed } = run(part, binary, options)?;
        options.show(&format!("etcd {version}: {table}\n  (load of the machine before: {load:.2})\n"));
        figures["load_before"] = load.into();
        json.insert(part.name().to_owned(), figures);
        failures.extend(failed.into_iter().map(|why| format!("etcd {version}: {why}")));
    }
    Ok((json.into(), failures))
}

fn run(part: Part, binary: &Binary, options: &Options) -> Result<Figures> {
    match part {
        Part::Rest => two_threads()?.block_on(rest::run(binary, options.rest)),
        Part::List => two_threads()?.block_on(list::run(binary)),
        Part::Follow => two_threads()?.block_on(follow::run(binary)),
        Part::Herd => two_threads()?.block_on(herd::run(binary)),
        Part::Leave => leave::run(binary),
    }
}
