//! Command line: shows the contents of a registry, registers servers that cannot register
//! themselves, and demonstrates all of it with `waypost demo`.
//!
//! stdout carries data and nothing else; notes and errors go to stderr. Exit codes: 0 success, 1
//! negative result, 2 wrong usage, 3 the registry cannot be reached or refuses, 130 interrupted.
//! This crate knows the façade and a terminal, and nothing below.

mod cli;
mod commands;
mod demo;
mod error;
mod escape;
mod logging;
mod open_registry;
mod output;
mod signals;
mod timestamp;

use std::process::ExitCode;

use clap::Parser;
use waypost::args::duration;

use error::CliError;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    logging::start();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(cli: cli::Cli) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(commands::run(cli));
    // A thread may still read stdin, which cannot be interrupted; all else has been joined.
    runtime.shutdown_background();
    result
}
