//! One file a command.

mod deregister;
mod get;
mod list;
mod register;
mod wait;
mod watch;

use std::future::Future;

use crate::cli::{Cli, Command};
use crate::demo;
use crate::failure::Failure;
use crate::place::Place;
use crate::signals::Signals;

/// Does what was typed.
pub(crate) async fn run(cli: Cli) -> Result<(), Failure> {
    let url = cli.place();
    match cli.command {
        Command::List(args) => interruptible(list::run(&Place::open(&url).await?, &args)).await,
        Command::Get(args) => interruptible(get::run(&Place::open(&url).await?, &args)).await,
        Command::Watch(args) => interruptible(watch::run(&Place::open(&url).await?, &args)).await,
        Command::Wait(args) => interruptible(wait::run(&Place::open(&url).await?, &args)).await,
        Command::Deregister(args) => interruptible(deregister::run(&Place::open(&url).await?, &args)).await,
        Command::Register(args) => register::run(Place::open_for("a node", &url).await?, args).await,
        Command::Demo(args) => demo::run(args, cli.registry, &url).await,
    }
}

/// Ends `work` at the first signal.
async fn interruptible(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    tokio::select! {
        result = work => result,
        () = signals.next() => Err(Failure::interrupted()),
    }
}
