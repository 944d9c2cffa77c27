//! `waypost demo keep-etcd`: runs an etcd as long as its own stdin is open, and leaves nothing
//! behind.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use clap::Args;
use serde::Deserialize;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};

use super::KeeperOutput;
use super::port::ReservedPort;
use crate::error::CliError;
use crate::output;
use crate::signals::Signals;

/// Message that every version of etcd logs once it serves clients. Before that, it accepts
/// connections but does not respond.
const SERVING: &str = "serving client traffic";
/// Prefix of the environment variables for etcd's flags. Some machines require [`NEEDED`].
const FLAGS: &str = "ETCD_";
const NEEDED: &str = "ETCD_UNSUPPORTED_ARCH";

#[derive(Args, Debug)]
pub(in crate::demo) struct KeeperArgs {
    /// The program
    etcd: PathBuf,
}

pub(in crate::demo) async fn run(args: &KeeperArgs) -> Result<(), CliError> {
    let mut signals = Signals::listen()?;
    let folder = TempDir::with_prefix("waypost-demo-etcd-")?;
    let ports = [ReservedPort::take()?, ReservedPort::take()?];
    let mut etcd = command(&args.etcd, folder.path(), &ports).spawn()?;
    let ended = tokio::select! {
        ended = follow(&mut etcd, &ports[0]) => ended,
        () = stdin_closed() => Ok(None),
        () = signals.next() => Ok(None),
    };
    etcd.kill().await?;
    folder.close()?;
    match ended? {
        Some(why) => print(&KeeperOutput::Ended { why }),
        None => Ok(()),
    }
}

fn command(etcd: &Path, folder: &Path, [client, peer]: &[ReservedPort; 2]) -> Command {
    let (client, peer) = (client.address, peer.address);
    let mut command = Command::new(etcd);
    command
        .args(["--name=demo", "--logger=zap", "--log-outputs=stdout"])
        .arg(format!("--data-dir={}", folder.display()))
        .args([
            format!("--listen-client-urls=http://{client}"),
            format!("--advertise-client-urls=http://{client}"),
            format!("--listen-peer-urls=http://{peer}"),
            format!("--initial-advertise-peer-urls=http://{peer}"),
            format!("--initial-cluster=demo=http://{peer}"),
            format!(
                "--initial-cluster-token=waypost-demo-{}",
                std::process::id()
            ),
        ]);
    // Variables of the environment may configure another etcd of this machine.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with(FLAGS) && name != NEEDED {
            command.env_remove(name);
        }
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Reads all output of etcd, reports when it serves, and returns the reason why it ended.
async fn follow(etcd: &mut Child, client: &ReservedPort) -> Result<Option<String>, CliError> {
    let (Some(stdout), Some(stderr)) = (etcd.stdout.take(), etcd.stderr.take()) else {
        return Ok(None);
    };
    let (mut log, mut errors) = (
        BufReader::new(stdout).lines(),
        BufReader::new(stderr).lines(),
    );
    let (mut serves, mut complaint) = (false, None);
    loop {
        let line = tokio::select! {
            Ok(Some(line)) = log.next_line() => line,
            Ok(Some(line)) = errors.next_line() => line,
            else => break,
        };
        if line.contains(SERVING) && !std::mem::replace(&mut serves, true) {
            print(&KeeperOutput::Serving {
                url: format!("etcd://{}", client.address),
            })?;
        }
        complaint = complaint_in(&line).or(complaint);
    }
    let status = etcd.wait().await?;
    Ok(Some(complaint.map_or_else(
        || status.to_string(),
        |complaint| format!("{status}: {complaint}"),
    )))
}

/// Returns the error that a line reports, if any.
fn complaint_in(line: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct KeeperLog {
        level: String,
        msg: String,
        error: Option<String>,
    }
    match serde_json::from_str::<KeeperLog>(line) {
        Ok(logged) if matches!(logged.level.as_str(), "debug" | "info" | "warn") => None,
        Ok(KeeperLog { msg, error, .. }) => {
            Some(error.map_or_else(|| msg.clone(), |error| format!("{msg}: {error}")))
        }
        Err(_) => Some(line.to_owned()).filter(|line| !line.trim().is_empty()),
    }
}

async fn stdin_closed() {
    let mut stdin = tokio::io::stdin();
    while stdin.read(&mut [0; 64]).await.is_ok_and(|read| read > 0) {}
}

fn print(output: &KeeperOutput) -> Result<(), CliError> {
    let text = serde_json::to_string(output).map_err(io::Error::from)?;
    Ok(output::line(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_complaints_of_etcd_are_passed_on() {
        assert_eq!(complaint_in(r#"{"level":"info","msg":"hello"}"#), None);
        let fatal = r#"{"level":"fatal","ts":"x","msg":"discovery failed","error":"no room"}"#;
        assert_eq!(
            complaint_in(fatal).as_deref(),
            Some("discovery failed: no room")
        );
        assert_eq!(
            complaint_in("flag provided but not defined: -logger").as_deref(),
            Some("flag provided but not defined: -logger")
        );
    }
}
