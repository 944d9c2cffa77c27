//! Options, results and output of the measuring programs. Knows nothing of what is measured.

use std::process::{Command, ExitCode};

use serde_json::{Map, Value};
use tokio::runtime::{Builder, Runtime};

/// Result with any error; the error ends the program.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Command line: `[--json] [--only PART]... [--NUMBER N]`.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// True if the last line of stdout is one JSON object and the tables go to stderr.
    pub json: bool,
    only: Vec<String>,
    /// Value of the flag that takes a number, at least 1.
    pub number: Option<usize>,
}

impl Options {
    /// Parses the command line; `number` is the flag that takes a number, with its dashes. Returns
    /// `None` if the command line is invalid.
    pub fn parse(args: &[String], parts: &[&str], number: &str) -> Option<Self> {
        let mut options = Self {
            json: false,
            only: Vec::new(),
            number: None,
        };
        let mut args = args.iter().map(String::as_str);
        while let Some(arg) = args.next() {
            match arg {
                "--json" => options.json = true,
                "--only" => options
                    .only
                    .push(args.next().filter(|name| parts.contains(name))?.to_owned()),
                arg if arg == number => {
                    options.number = Some(args.next()?.parse().ok().filter(|number| *number > 0)?);
                }
                _ => return None,
            }
        }
        Some(options)
    }

    /// Returns true if `part` is selected: by `--only`, or because there is no `--only`.
    pub fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == part)
    }

    /// Prints text for people: on stdout, or on stderr if stdout is for JSON.
    pub fn show(&self, text: &str) {
        if self.json {
            eprintln!("{text}");
        } else {
            println!("{text}");
        }
    }

    /// Prints the failures, and the JSON object if it is requested; returns true if nothing failed.
    pub fn conclude(&self, mut json: Map<String, Value>, failures: &[String]) -> bool {
        for failure in failures {
            self.show(&format!("FAILED: {failure}"));
        }
        json.insert("ok".to_owned(), failures.is_empty().into());
        if self.json {
            println!("{}", Value::Object(json));
        }
        failures.is_empty()
    }
}

/// Result of one part.
#[derive(Debug)]
pub struct Figures {
    /// Table for people.
    pub table: String,
    /// Figures for programs.
    pub json: Value,
    /// Requirements that were not met.
    pub failures: Vec<String>,
}

/// Returns the exit code: 0 if all requirements were met, 1 if one was not or after an error, which
/// is printed.
pub fn exit(program: &str, result: Result<bool>) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{program}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Creates a runtime with one thread for everything, so that its CPU time is that of the process.
///
/// # Errors
/// The runtime cannot be created.
pub fn one_thread() -> Result<Runtime> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}

/// Returns the median, the greater of the middle two; NaN if there are no values.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// Returns the quantile at `share`, from 0 to 1; NaN if there are no values.
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted
        .get(((last as f64) * share).round() as usize)
        .copied()
        .unwrap_or(f64::NAN)
}

/// Rounds to three decimal places, which is more than the precision of the measurements.
pub fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// Returns the head of a report: schema, command, machine and commit.
pub fn described(command: &str, args: &[String]) -> Map<String, Value> {
    let command = std::iter::once(command)
        .chain(args.iter().map(String::as_str))
        .collect::<Vec<_>>()
        .join(" ");
    let schema = "waypost/1".to_owned();
    let pairs = [
        ("schema", schema),
        ("command", command),
        ("machine", machine()),
        ("commit", commit()),
    ];
    pairs
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.into()))
        .collect()
}

fn machine() -> String {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let names: Vec<_> = cpus
        .lines()
        .filter_map(|line| line.strip_prefix("model name"))
        .collect();
    let name = names
        .first()
        .map_or("unknown", |name| name.trim_start_matches(['\t', ' ', ':']));
    format!("{} x {name}, {}", names.len(), std::env::consts::OS)
}

fn commit() -> String {
    let git = |args: &[&str]| {
        let output = Command::new("git")
            .args(args)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return "unknown".to_owned();
    };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])
        .is_some_and(|changes| !changes.is_empty());
    if changed {
        format!("{commit} with changes")
    } else {
        commit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Option<Options> {
        let args: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        Options::parse(&args, &["dead", "first"], "--rounds")
    }

    #[test]
    fn the_command_line_is_read_in_any_order() {
        let options = parse("--only first --rounds 3 --json --only dead").unwrap();
        assert_eq!((options.json, options.number), (true, Some(3)));
        assert!(options.wants("dead") && options.wants("first"));
        assert!(parse("").unwrap().wants("dead"));
        assert!(!parse("--only dead").unwrap().wants("first"));
        for wrong in [
            "--only",
            "--only nothing",
            "--rounds",
            "--rounds 0",
            "--rounds x",
            "--seconds 3",
            "dead",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_middle_of_an_even_number_is_the_greater() {
        assert_eq!(
            [median(&[3.0, 1.0, 2.0]), median(&[4.0, 1.0, 2.0, 3.0])],
            [2.0, 3.0]
        );
        assert_eq!(
            [quantile(&[2.0, 1.0], 0.0), quantile(&[2.0, 1.0], 1.0)],
            [1.0, 2.0]
        );
        assert!(median(&[]).is_nan());
    }
}
