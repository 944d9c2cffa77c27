//! Lints: cargo's checks, and the house rules that only this tool knows. Every check runs; each
//! reports the problem, its location and the remedy.

mod architecture;
mod features;
mod language;
mod layering;
mod machine;
mod outside;
mod publish;
mod rooms;

use std::fmt;

use serde_json::Value;

pub(crate) use language::hides_subject;

use crate::workspace::{Result, Workspace};

/// One problem.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    place: String,
    what: String,
    remedy: String,
}

impl Finding {
    fn new(place: impl Into<String>, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            what: what.into(),
            remedy: remedy.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "  {}: {}\n    {}", self.place, self.what, self.remedy)
    }
}

type Check = fn(&Workspace) -> Result<Vec<Finding>>;

/// House rules, cheapest first.
const HOUSE: &[(&str, Check)] = &[
    ("layering", layering::run),
    ("outside dependencies", outside::run),
    ("ARCHITECTURE.md", architecture::run),
    ("room order", rooms::run),
    ("no path of a machine", machine::run),
    ("published packages", publish::run),
    ("language", language::run),
];

/// Checks of cargo. `publish` packs what would be published, without building it again; it does not
/// mind changes that are not committed yet.
const CARGO: &[(&str, &[&str])] = &[
    ("fmt", &["fmt", "--all", "--check"]),
    (
        "clippy",
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ],
    ),
    ("doc", &["doc", "--no-deps", "--workspace"]),
    (
        "publish",
        &[
            "publish",
            "--workspace",
            "--dry-run",
            "--allow-dirty",
            "--target-dir",
            publish::TARGET,
        ],
    ),
];

/// Runs all checks; returns true if there are no findings.
pub(crate) fn run(workspace: &Workspace) -> bool {
    let mut failed = Vec::new();
    for (name, check) in HOUSE {
        report(name, &check(workspace), &mut failed);
    }
    if let Err(error) = publish::remove_earlier(workspace) {
        println!("note: the packages of an earlier run cannot be removed: {error}");
    }
    for (name, args) in CARGO {
        report(name, &cargo(workspace, args), &mut failed);
    }
    report("features", &features::run(workspace), &mut failed);
    match failed.as_slice() {
        [] => println!("lint: nothing found"),
        names => println!("lint: failed: {}", names.join(", ")),
    }
    failed.is_empty()
}

fn report(name: &'static str, outcome: &Result<Vec<Finding>>, failed: &mut Vec<&'static str>) {
    match outcome {
        Ok(findings) if findings.is_empty() => return println!("ok    {name}"),
        Ok(findings) => {
            println!("FAIL  {name}");
            findings.iter().for_each(|finding| println!("{finding}"));
        }
        Err(error) => println!("FAIL  {name}\n  could not check: {error}"),
    }
    failed.push(name);
}

/// Returns the packages of the workspace that are published.
fn published(metadata: &Value) -> impl Iterator<Item = &Value> {
    // `publish = false` is an empty list of registries.
    let is_published = |package: &&Value| {
        package["publish"]
            .as_array()
            .is_none_or(|to| !to.is_empty())
    };
    metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(is_published)
}

fn cargo(workspace: &Workspace, args: &[&str]) -> Result<Vec<Finding>> {
    let mut command = workspace.cargo(args);
    if command
        .env("RUSTDOCFLAGS", "-D warnings")
        .status()?
        .success()
    {
        return Ok(Vec::new());
    }
    let shown = format!("cargo {}", args.join(" "));
    Ok(vec![Finding::new(
        shown,
        "it failed, see above",
        "mend what it names, then `cargo xtask lint` again",
    )])
}
