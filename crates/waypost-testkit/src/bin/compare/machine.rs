//! On what, of what, and how the figures were taken.

use std::process::Command;

use serde_json::{Map, Value};

/// The machine, the commit and the command, for the report.
pub(crate) fn described(command: &str, args: &[String]) -> Map<String, Value> {
    let command = std::iter::once(command).chain(args.iter().map(String::as_str)).collect::<Vec<_>>().join(" ");
    let schema = "waypost/1".to_owned();
    let pairs = [("schema", schema), ("command", command), ("machine", machine()), ("commit", commit())];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect()
}

fn machine() -> String {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let names: Vec<_> = cpus.lines().filter_map(|line| line.strip_prefix("model name")).collect();
    let name = names.first().map_or("unknown", |name| name.trim_start_matches(['\t', ' ', ':']));
    format!("{} x {name}, {}", names.len(), std::env::consts::OS)
}

fn commit() -> String {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".to_owned() };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|changes| !changes.is_empty());
    if changed { format!("{commit} with changes") } else { commit }
}
