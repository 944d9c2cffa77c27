//! Commands, one file each.

mod completions;
mod deregister;
mod get;
mod list;
mod register;
mod wait;
mod watch;

use std::future::Future;

use crate::cli::{Cli, Command, place};
use crate::demo;
use crate::failure::Failure;
use crate::place::Place;
use crate::signals::Signals;

/// Runs the given command.
pub(crate) async fn run(cli: Cli) -> Result<(), Failure> {
    let Cli { registry, command } = cli;
    // Evaluated only where it is needed: not every command reads the environment.
    let url = || place(&registry);
    match command {
        Command::List(args) => interruptible(list::run(&Place::open(&url()?).await?, &args)).await,
        Command::Get(args) => interruptible(get::run(&Place::open(&url()?).await?, &args)).await,
        Command::Watch(args) => interruptible(watch::run(&Place::open(&url()?).await?, &args)).await,
        Command::Wait(args) => interruptible(wait::run(&Place::open(&url()?).await?, &args)).await,
        Command::Deregister(args) => interruptible(deregister::run(&Place::open(&url()?).await?, &args)).await,
        Command::Register(args) => register::run(Place::open_for("a node", &url()?).await?, args).await,
        Command::Completions(args) => completions::run(&args),
        Command::Demo(args) => demo::run(args, &registry).await,
    }
}

/// Runs `work`, and ends it at the first signal.
async fn interruptible(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    tokio::select! {
        result = work => result,
        () = signals.next() => Err(Failure::interrupted()),
    }
}
