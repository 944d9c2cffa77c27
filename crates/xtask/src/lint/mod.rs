//! Lints: cargo's checks, and the house rules that only this tool knows. Every check runs; each
//! reports the problem, its location and the remedy.

mod architecture;
mod language;
mod layering;
mod machine;
mod outside;
mod rooms;

use std::fmt;

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
    ("language", language::run),
];

/// Checks of cargo. The façade is checked with each feature alone, since the workspace build
/// enables all of them together.
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
    (
        "no feature",
        &[
            "clippy",
            "-p",
            "waypost",
            "--no-default-features",
            "--",
            "-D",
            "warnings",
        ],
    ),
    (
        "feature local",
        &[
            "clippy",
            "-p",
            "waypost",
            "--no-default-features",
            "--features",
            "local",
            "--",
            "-D",
            "warnings",
        ],
    ),
    (
        "feature etcd",
        &[
            "clippy",
            "-p",
            "waypost",
            "--no-default-features",
            "--features",
            "etcd",
            "--",
            "-D",
            "warnings",
        ],
    ),
    (
        "feature args",
        &[
            "clippy",
            "-p",
            "waypost",
            "--no-default-features",
            "--features",
            "args",
            "--",
            "-D",
            "warnings",
        ],
    ),
    (
        "feature tonic",
        &[
            "clippy",
            "-p",
            "waypost",
            "--no-default-features",
            "--features",
            "tonic",
            "--",
            "-D",
            "warnings",
        ],
    ),
    (
        "feature axum",
        &[
            "clippy",
            "-p",
            "waypost",
            "--no-default-features",
            "--features",
            "axum",
            "--",
            "-D",
            "warnings",
        ],
    ),
    ("doc", &["doc", "--no-deps", "--workspace"]),
];

/// Runs all checks; returns true if there are no findings.
pub(crate) fn run(workspace: &Workspace) -> bool {
    let mut failed = Vec::new();
    for (name, check) in HOUSE {
        report(name, &check(workspace), &mut failed);
    }
    for (name, args) in CARGO {
        report(name, &cargo(workspace, args), &mut failed);
    }
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
