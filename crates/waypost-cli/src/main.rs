//! The command line: looks into a registry, registers what cannot do so itself, and shows it all working with `waypost demo`.
//!
//! Data goes to stdout and nothing else there; notes and errors go to stderr. Exit codes: 0 yes, 1 the answer is no, 2 wrong usage,
//! 3 the registry cannot be reached or refuses, 130 interrupted. This crate knows the façade and a terminal, and nothing below.

mod cli;
mod commands;
mod demo;
mod escape;
mod failure;
mod logging;
mod output;
mod place;
mod signals;

use std::process::ExitCode;

use clap::Parser;
use waypost::args::duration;

use failure::Failure;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    logging::start();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(cli: cli::Cli) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(commands::run(cli));
    // A thread may still read stdin, which nothing can end; all else has been joined.
    runtime.shutdown_background();
    result
}
