//! `cargo xtask`: the one entrance for lints, tests and comparisons. It knows the workspace as files and as `cargo metadata`, and uses
//! none of its crates, so that it builds in seconds and cannot break with them.

mod build_cost;
mod etcd;
mod lint;
mod test;
mod workspace;

use std::process::ExitCode;

use workspace::{Result, Workspace};

const USAGE: &str = "\
usage: cargo xtask <command>

  lint                 formatting, clippy, docs, layering, room order, documents, no path of a machine
  test                 every test of the workspace, examples included; ends with `N passed, N failed`
  test-etcd            every test that needs a real etcd, on every one that `etcd` finds; ends in the same way
  ci                   lint, then test
  etcd [--json]        every etcd to test with, installed (Debian's, as root) or built (by Go) first if need be
  compare [--json]     Waypost and tonic's own balancer, side by side in one run (release build)
  build-cost [--json]  packages and CPU seconds of a user of Waypost beside a user of bare tonic (cold builds, minutes)
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match run(&args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs one command: 0 yes, 1 the answer is no, 2 wrong usage.
fn run(args: &[&str]) -> Result<ExitCode> {
    let good = match args {
        ["lint"] => lint::run(&Workspace::find()?),
        ["test"] => test::run(&Workspace::find()?)?,
        ["test-etcd"] => test::run_on_etcd(&Workspace::find()?)?,
        ["ci"] => ci(&Workspace::find()?)?,
        ["etcd"] => etcd::run(&Workspace::find()?, etcd::Format::Text)?,
        ["etcd", "--json"] => etcd::run(&Workspace::find()?, etcd::Format::Json)?,
        ["compare", rest @ ..] => compare(&Workspace::find()?, rest)?,
        ["build-cost"] => build_cost::run(&Workspace::find()?, build_cost::Format::Text)?,
        ["build-cost", "--json"] => build_cost::run(&Workspace::find()?, build_cost::Format::Json)?,
        _ => {
            eprint!("{USAGE}");
            return Ok(ExitCode::from(2));
        }
    };
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn ci(workspace: &Workspace) -> Result<bool> {
    let linted = lint::run(workspace);
    Ok(test::run(workspace)? && linted)
}

fn compare(workspace: &Workspace, args: &[&str]) -> Result<bool> {
    let program = ["run", "--release", "-p", "waypost-testkit", "--bin", "compare", "--"];
    Ok(workspace.cargo(&program).args(args).status()?.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_command_and_an_unknown_one_are_wrong_usage() {
        for args in [&[][..], &["tset"], &["lint", "now"], &["build-cost", "--jsn"], &["etcd", "--jsn"]] {
            assert_eq!(run(args).expect("no command was run"), ExitCode::from(2), "{args:?}");
        }
    }
}
