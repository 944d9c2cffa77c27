//! Program to start: its path, arguments and environment.

use std::ffi::OsString;
use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

/// Program that can be started any number of times, each time as a [`Child`](crate::Child). Its
/// stdin is empty.
#[derive(Clone, Debug)]
pub struct Program {
    path: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    pub(crate) own_group: bool,
}

impl Program {
    /// Creates a program from its `path`; a name without a slash is looked up in `PATH`.
    pub fn new(path: impl Into<OsString>) -> Self {
        Self {
            path: path.into(),
            args: Vec::new(),
            env: Vec::new(),
            own_group: false,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<T: Into<OsString>>(mut self, args: impl IntoIterator<Item = T>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets one variable in addition to the environment of the test.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Gives the child a process group of its own, for programs that start programs:
    /// [`ctrl_c`](crate::Child::ctrl_c) reaches all of them as a terminal does, and all of them are
    /// killed when the child is dropped. Without it, Ctrl-C at the test's own terminal reaches the
    /// child.
    #[must_use]
    pub fn own_group(mut self) -> Self {
        self.own_group = true;
        self
    }

    /// Returns the same program, started by another program that takes it as its last arguments and
    /// executes it in its own process.
    #[must_use]
    pub(crate) fn under<'a>(mut self, path: &str, args: impl IntoIterator<Item = &'a str>) -> Self {
        let own = std::mem::replace(&mut self.path, path.into());
        let args = args
            .into_iter()
            .map(OsString::from)
            .chain([own])
            .chain(self.args);
        self.args = args.collect();
        self
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = interruptible(&self.path);
        command
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if self.own_group {
            command.process_group(0);
        }
        command
    }
}

/// Returns a command that Ctrl-C reaches. Tests started in the background ignore SIGINT, and so
/// would all that they start; a shell cannot even trap a signal that was ignored when it started.
fn interruptible(path: &OsString) -> Command {
    // The command itself must report a missing program, not `env`.
    if !ignores_interrupts() || !is_there(path) {
        return Command::new(path);
    }
    // An absolute path, since the program may get a `PATH` of its own.
    let mut command = Command::new("/usr/bin/env");
    command.arg("--default-signal=INT").arg(path);
    command
}

fn ignores_interrupts() -> bool {
    const SIGINT: u64 = 1 << 1;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    ignored.is_some_and(|signals| signals & SIGINT != 0)
}

fn is_there(path: &OsString) -> bool {
    let path = Path::new(path);
    let dirs = std::env::var_os("PATH").unwrap_or_default();
    path.exists()
        || path.components().count() == 1
            && std::env::split_paths(&dirs).any(|dir| dir.join(path).exists())
}
