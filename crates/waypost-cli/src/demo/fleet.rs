//! Servers of the demo: child processes that cannot outlive it.
//!
//! Each holds the other end of a pipe as its stdin, and leaves the registry when the pipe closes,
//! however this process ends.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::error::CliError;

/// Maximum time for a server to register.
const START: Duration = Duration::from_secs(15);
/// Maximum time for a server to leave and to drain.
const STOP: Duration = Duration::from_secs(35);
/// Maximum time for a server to end after its stdin has closed, before it is killed.
const END: Duration = Duration::from_secs(4);

/// Servers by slot. A slot that is filled again gets a new name.
pub(super) struct DemoFleet {
    program: PathBuf,
    /// URL of the registry, which may hold a password. Children receive it by their environment,
    /// since their arguments are visible to all users.
    registry: String,
    /// Suffix that distinguishes this demo's servers from another's in the same registry.
    mark: String,
    /// Variables with the paths of the servers' certificates.
    environment: Vec<(&'static str, PathBuf)>,
    slots: Vec<ServerSlot>,
}

struct ServerSlot {
    starts: u32,
    name: String,
    /// Address of the server, once it is registered.
    address: Option<SocketAddr>,
    child: Option<Child>,
    /// Held separately, since waiting for a child closes its stdin.
    stdin: Option<ChildStdin>,
}

/// Line that a server prints when it is registered.
#[derive(Deserialize)]
struct RegisteredServer {
    id: String,
    address: String,
}

impl DemoFleet {
    /// Creates a fleet without servers, for the registry at `registry`. A `shared` registry may
    /// hold other greeters.
    pub(super) fn new(
        registry: &str,
        shared: bool,
        environment: Vec<(&'static str, PathBuf)>,
    ) -> Result<Self, CliError> {
        let program = std::env::current_exe()?;
        let mark = if shared {
            format!("-{}", std::process::id())
        } else {
            String::new()
        };
        Ok(Self {
            program,
            registry: registry.to_owned(),
            mark,
            environment,
            slots: Vec::new(),
        })
    }

    /// Returns the name in the registry of the server in `slot`.
    pub(super) fn name(&self, slot: usize) -> &str {
        &self.slots[slot].name
    }

    /// Returns the names and the addresses of the servers that are registered.
    pub(super) fn addresses(&self) -> Vec<(String, SocketAddr)> {
        let slots = self.slots.iter();
        slots
            .filter_map(|slot| Some((slot.name.clone(), slot.address?)))
            .collect()
    }

    /// Starts one server in each slot.
    pub(super) async fn start_all(&mut self, slots: usize) -> Result<(), CliError> {
        self.slots.resize_with(slots, || ServerSlot {
            starts: 0,
            name: String::new(),
            address: None,
            child: None,
            stdin: None,
        });
        for slot in 0..slots {
            self.spawn(slot)?;
        }
        for slot in 0..slots {
            self.registered(slot).await?;
        }
        Ok(())
    }

    /// Starts a new server in `slot`, waits until it is registered, and returns its name.
    pub(super) async fn start(&mut self, slot: usize) -> Result<String, CliError> {
        self.spawn(slot)?;
        self.registered(slot).await?;
        Ok(self.slots[slot].name.clone())
    }

    /// Requests the server in `slot` to end, and waits until it has ended.
    pub(super) async fn terminate(&mut self, slot: usize) -> Result<(), CliError> {
        let ServerSlot {
            name, child, stdin, ..
        } = &mut self.slots[slot];
        let Some(child) = child else { return Ok(()) };
        ask_to_end(child, stdin)?;
        let ended = timeout(STOP, child.wait())
            .await
            .map_err(|_| CliError::no(format!("{name} did not end within {STOP:?}")))?;
        well(name, ended?)
    }

    /// Kills the server in `slot`.
    pub(super) async fn kill(&mut self, slot: usize) -> Result<(), CliError> {
        if let Some(child) = &mut self.slots[slot].child {
            child.kill().await?;
        }
        Ok(())
    }

    /// Ends all servers, and returns when no process is left.
    pub(super) async fn end(&mut self) -> Result<(), CliError> {
        for slot in &mut self.slots {
            slot.stdin = None;
        }
        let mut result = Ok(());
        for ServerSlot { name, child, .. } in &mut self.slots {
            let Some(mut child) = child.take() else {
                continue;
            };
            if timeout(END, child.wait()).await.is_err() {
                child.kill().await?;
                result = Err(CliError::no(format!(
                    "{name} did not end by itself within {END:?}, and was killed"
                )));
            }
        }
        result
    }

    fn spawn(&mut self, slot: usize) -> Result<(), CliError> {
        let slot_name = char::from(b'a' + u8::try_from(slot).unwrap_or(25));
        let filled = &mut self.slots[slot];
        filled.starts += 1;
        let id = format!("{slot_name}{}{}", filled.starts, self.mark);
        let mut command = Command::new(&self.program);
        for name in waypost::args::variables() {
            command.env_remove(name);
        }
        command
            .args(["demo", "server", "--until-stdin-closes", "--id", &id])
            .env("WAYPOST_REGISTRY", &self.registry)
            .envs(self.environment.iter().cloned());
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        filled.name = format!("{}-{id}", super::SERVICE);
        let mut child = command.spawn()?;
        filled.stdin = child.stdin.take();
        filled.child = Some(child);
        Ok(())
    }

    /// Waits until the server in `slot` reports that it is registered. Its later output fits into
    /// the pipe.
    async fn registered(&mut self, slot: usize) -> Result<(), CliError> {
        let ServerSlot {
            name,
            address,
            child,
            ..
        } = &mut self.slots[slot];
        let stdout = child.as_mut().and_then(|child| child.stdout.as_mut());
        let late = |_| {
            let next = "its own words stand above; see more: RUST_LOG=waypost=debug waypost demo";
            CliError::registry(format!("{name} was not registered within {START:?}")).next(next)
        };
        let line = timeout(START, first_line(stdout)).await.map_err(late)?;
        let registered = line.and_then(|line| serde_json::from_str::<RegisteredServer>(&line).ok());
        let registered = registered
            .ok_or_else(|| CliError::no(format!("{name} ended before it was registered")))?;
        (*name, *address) = (registered.id, registered.address.parse().ok());
        Ok(())
    }
}

async fn first_line(stdout: Option<&mut ChildStdout>) -> Option<String> {
    let mut lines: Lines<_> = BufReader::new(stdout?).lines();
    lines.next_line().await.ok()?
}

fn well(name: &str, status: ExitStatus) -> Result<(), CliError> {
    if status.success() {
        Ok(())
    } else {
        Err(CliError::no(format!("{name} did not end well: {status}")))
    }
}

/// Sends SIGTERM, as a supervisor does.
#[cfg(unix)]
fn ask_to_end(child: &Child, _: &mut Option<ChildStdin>) -> Result<(), CliError> {
    use rustix::process::{Pid, Signal, kill_process};
    // No id means that the child has been waited for. Until then, the system does not reuse its id.
    let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    match pid {
        Some(pid) => Ok(kill_process(pid, Signal::TERM).map_err(std::io::Error::from)?),
        None => Ok(()),
    }
}

/// Closes the child's stdin, on platforms without SIGTERM.
#[cfg(not(unix))]
fn ask_to_end(_: &Child, stdin: &mut Option<ChildStdin>) -> Result<(), CliError> {
    drop(stdin.take());
    Ok(())
}
