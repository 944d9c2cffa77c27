//! Flags of a service, with the environment as an argument.

mod config;
mod errors;
mod help;
mod precedence;
#[cfg(feature = "tls")]
mod tls;

use clap::Parser;

use super::ServiceArgs;

/// A service with a flag of its own
#[derive(Debug, Parser)]
#[command(name = "greeterd", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    waypost: ServiceArgs,
    /// Number of calls at once
    #[arg(long, default_value = "8")]
    workers: u8,
}

/// Returns the arguments parsed from these flags.
fn parsed(flags: &[&str]) -> ServiceArgs {
    Cli::try_parse_from([&["greeterd"], flags].concat())
        .unwrap_or_else(|error| panic!("{flags:?}: {error}"))
        .waypost
}
