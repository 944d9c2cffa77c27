//! `cargo xtask`: the one entry point for lints, tests and comparisons. It knows the workspace as
//! files and as `cargo metadata`, and uses none of its crates but `waypost-etcd-binary`, so that
//! it builds in seconds and cannot break with them.

mod api;
mod build_cost;
mod etcd;
mod etcd_faults;
mod lint;
mod paths;
mod size;
mod source;
mod test;
mod workspace;

use std::process::{Command, ExitCode};

use workspace::{Result, Workspace};

const USAGE: &str = "\
usage: cargo xtask <command>

  lint                 formatting, clippy, docs, layering, room order, documents, no path of a machine
  test                 every test of the workspace, examples included, on every etcd that `etcd` finds; ends with `N passed, N failed`
  ci                   lint, then test
  etcd [--json]        every etcd to test with, installed (Debian's, as root) or built (by Go) first if need be
  etcd-figures [--json] [--only idle|list|latency|herd|cleanup]
                       what a fleet costs each of those etcds, and the latency of its changes (release build, about five minutes an etcd)
  etcd-fleet [--json] [--only proof|rest|recovery] [--seconds N]
                       what a fleet of up to 10 000 processes costs each of those etcds, and how it recovers (release build, an hour an etcd)
  etcd-faults [--rounds N] [--json]
                       every fault on every etcd, the long ones too (minutes): what each costs; ends with `N passed, N failed`
  compare [--json]     Waypost and tonic's own balancer, side by side in one run (release build)
  bench <name> [flags] what the client costs and survives: callers, chaos, churn, deadlines, hostile, stuck, zombie (release build); `bench help`
  api [--bless]        every type in the façade's signatures has a name there (nightly); --bless writes the test of the names
  size [--json]        lines by crate, doc sentences, type names, module cycles and examples, counted from the source
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

/// Runs one command; returns exit code 0 for success, 1 for failure, 2 for wrong usage.
fn run(args: &[&str]) -> Result<ExitCode> {
    let good = match args {
        ["lint"] => lint::run(&Workspace::find()?),
        ["test"] => test::run(&Workspace::find()?)?,
        ["ci"] => ci(&Workspace::find()?)?,
        ["etcd"] => etcd::run(&Workspace::find()?, etcd::EtcdFormat::Text)?,
        ["etcd", "--json"] => etcd::run(&Workspace::find()?, etcd::EtcdFormat::Json)?,
        ["etcd-figures", rest @ ..] => etcd_figures(&Workspace::find()?, rest)?,
        ["etcd-fleet", ..] => etcd_figures(&Workspace::find()?, args)?,
        ["etcd-faults", rest @ ..] => match etcd_faults::Options::of(rest) {
            Some(options) => etcd_faults::run(&Workspace::find()?, options)?,
            None => return Ok(wrong_usage()),
        },
        ["compare", rest @ ..] => compare(&Workspace::find()?, rest)?,
        ["bench", rest @ ..] => measured(&Workspace::find()?, "waypost-bench", "bench", rest)
            .status()?
            .success(),
        ["build-cost"] => build_cost::run(&Workspace::find()?, build_cost::CostFormat::Text)?,
        ["api"] => api::run(&Workspace::find()?, false)?,
        ["api", "--bless"] => api::run(&Workspace::find()?, true)?,
        ["size"] => size::run(&Workspace::find()?, false)?,
        ["size", "--json"] => size::run(&Workspace::find()?, true)?,
        ["build-cost", "--json"] => {
            build_cost::run(&Workspace::find()?, build_cost::CostFormat::Json)?
        }
        _ => return Ok(wrong_usage()),
    };
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn wrong_usage() -> ExitCode {
    eprint!("{USAGE}");
    ExitCode::from(2)
}

fn ci(workspace: &Workspace) -> Result<bool> {
    let linted = lint::run(workspace);
    Ok(test::run(workspace)? && linted)
}

fn etcd_figures(workspace: &Workspace, args: &[&str]) -> Result<bool> {
    let etcds = etcd::ensure(workspace)?;
    let mut command = measured(workspace, "waypost-bench", "etcd-figures", args);
    Ok(command
        .env(etcd::VARIABLE, etcd::variable(&etcds)?)
        .status()?
        .success())
}

fn compare(workspace: &Workspace, args: &[&str]) -> Result<bool> {
    Ok(measured(workspace, "waypost-bench", "compare", args)
        .status()?
        .success())
}

/// Returns the command that runs a measuring program in a release build.
fn measured(workspace: &Workspace, package: &str, name: &str, args: &[&str]) -> Command {
    let mut command = workspace.cargo(&["run", "--release", "-p", package, "--bin", name, "--"]);
    command.args(args);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_command_and_an_unknown_one_are_wrong_usage() {
        let wrong: [&[&str]; 7] = [
            &[],
            &["tset"],
            &["lint", "now"],
            &["build-cost", "--jsn"],
            &["etcd", "--jsn"],
            &["etcd-faults", "--rounds", "0"],
            &["etcd-faults", "--rounds"],
        ];
        for args in wrong {
            assert_eq!(
                run(args).expect("no command was run"),
                ExitCode::from(2),
                "{args:?}"
            );
        }
    }
}
