//! `waypost completions SHELL`: a script for the user's shell.

use std::io::{self, Write};

use clap::{Command, CommandFactory};

use crate::cli::{Cli, Completions};
use crate::error::CliError;

pub(crate) fn run(args: &Completions) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(
        args.shell,
        &mut shown(&Cli::command()),
        "waypost",
        &mut script,
    );
    Ok(io::stdout().lock().write_all(&script)?)
}

/// Returns the command without hidden flags and subcommands, which the generators would show.
fn shown(command: &Command) -> Command {
    let args = command
        .get_arguments()
        .filter(|arg| !arg.is_hide_set())
        .cloned();
    let commands = command
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
        .map(shown);
    let about = command.get_about().cloned().unwrap_or_default();
    Command::new(command.get_name().to_owned())
        .about(about)
        .args(args)
        .subcommands(commands)
}
