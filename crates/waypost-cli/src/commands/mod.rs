//! Commands, one file each.

mod completions;
mod deregister;
mod get;
mod list;
mod register;
mod wait;
mod watch;

use std::future::Future;

use crate::cli::{Cli, Command};
use crate::demo;
use crate::error::CliError;
use crate::open_registry::{OpenRegistry, registry_url};
use crate::signals::Signals;

/// Runs the given command.
pub(crate) async fn run(cli: Cli) -> Result<(), CliError> {
    let Cli { registry, command } = cli;
    // Evaluated only where it is needed: not every command reads the environment.
    let url = || registry_url(&registry);
    match command {
        Command::List(args) => {
            interruptible(list::run(&OpenRegistry::open(&url()?).await?, &args)).await
        }
        Command::Get(args) => {
            interruptible(get::run(&OpenRegistry::open(&url()?).await?, &args)).await
        }
        Command::Watch(args) => {
            interruptible(watch::run(&OpenRegistry::open(&url()?).await?, &args)).await
        }
        Command::Wait(args) => {
            interruptible(wait::run(&OpenRegistry::open(&url()?).await?, &args)).await
        }
        Command::Deregister(args) => {
            interruptible(deregister::run(&OpenRegistry::open(&url()?).await?, &args)).await
        }
        Command::Register(args) => {
            register::run(OpenRegistry::open_for("a node", &url()?).await?, args).await
        }
        Command::Completions(args) => completions::run(&args),
        Command::Demo(args) => demo::run(args, &registry).await,
    }
}

/// Runs `work`, and ends it at the first signal.
async fn interruptible(work: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    let mut signals = Signals::listen()?;
    tokio::select! {
        result = work => result,
        () = signals.next() => Err(CliError::interrupted()),
    }
}
