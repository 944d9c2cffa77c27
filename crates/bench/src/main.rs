//! `bench`: benchmarks of the client. Each command prints a table, or one JSON object with `--json`; `cargo xtask bench` builds it for release
//! and runs it. Nothing depends on this crate.

mod hostile;
mod options;

use std::process::ExitCode;

use options::Options;
use waypost_testkit::report::{Figures, Result, described, exit};

const USAGE: &str = "\
usage: cargo xtask bench <name> [--json] [flags]

  hostile [--seeds N] [--seed FIRST] [--at-once N] [--no-panics]
             randomised trials of the client against hostile peers; a failure names its seed
";

/// A benchmark: its name, its flags with a value and without, and its run.
type Bench = (&'static str, &'static [&'static str], &'static [&'static str], fn(&Options) -> Result<Figures>);
const BENCHES: &[Bench] = &[("hostile", &["seeds", "seed", "at-once"], &["json", "no-panics"], hostile::run)];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some(bench) = args.first().and_then(|name| BENCHES.iter().find(|(known, ..)| known == name)) else {
        eprint!("{USAGE}");
        return ExitCode::from(2);
    };
    let (_, valued, bare, run) = bench;
    match Options::parse(&args[1..], valued, bare) {
        Ok(options) => exit("bench", measure(*run, &options, &args)),
        Err(error) => {
            eprintln!("bench: {error}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn measure(run: fn(&Options) -> Result<Figures>, options: &Options, args: &[String]) -> Result<bool> {
    let mut json = described("cargo xtask bench", args);
    let Figures { table, json: figures, failures } = run(options)?;
    let as_json = options.flag("json");
    let show = |text: &str| if as_json { eprintln!("{text}") } else { println!("{text}") };
    show(&table);
    failures.iter().for_each(|failure| show(&format!("FAILED: {failure}")));
    json.insert("figures".to_owned(), figures);
    json.insert("ok".to_owned(), failures.is_empty().into());
    if as_json {
        println!("{}", serde_json::Value::Object(json));
    }
    Ok(failures.is_empty())
}
