//! Calls of etcdctl with the flags that a cluster needs. Knows how members are reached, not what is
//! requested of them.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use crate::Failure;

/// Timeout of etcdctl for a response, and our timeout for etcdctl.
const COMMAND: &str = "--command-timeout=15s";
const DEADLINE: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(super) struct Control {
    pub(super) etcdctl: PathBuf,
    /// Flags for TLS.
    pub(super) tls: Vec<String>,
    /// `user:password`, once authentication is enabled.
    pub(super) login: Option<String>,
}

impl Control {
    /// Runs etcdctl with `args` and with `input` on stdin against these `endpoints`
    /// (`host:port,host:port`), and returns its stdout.
    pub(super) async fn run(
        &self,
        endpoints: &str,
        login: Option<&str>,
        args: &[&str],
        input: &[u8],
    ) -> Result<Vec<u8>, Failure> {
        let failed = |why: &str| {
            Failure::new(format!(
                "etcdctl {} (at {endpoints}): {why}",
                args.join(" ")
            ))
        };
        let mut child = self
            .command(endpoints, login, args)
            .spawn()
            .map_err(|error| failed(&error.to_string()))?;
        let mut stdin = child.stdin.take();
        let run = async {
            if let Some(mut stdin) = stdin.take() {
                // etcdctl may end before it has read all of stdin; its own error is more
                // informative.
                let _ = stdin.write_all(input).await;
            }
            child.wait_with_output().await
        };
        let output = timeout(DEADLINE, run)
            .await
            .map_err(|_| failed("no answer"))?;
        let output = output.map_err(|error| failed(&error.to_string()))?;
        if output.status.success() {
            Ok(output.stdout)
        } else {
            Err(failed(String::from_utf8_lossy(&output.stderr).trim()))
        }
    }

    fn command(&self, endpoints: &str, login: Option<&str>, args: &[&str]) -> Command {
        let mut command = Command::new(&self.etcdctl);
        command
            .args(["--endpoints", endpoints, COMMAND])
            .args(&self.tls);
        if let Some(login) = login {
            command.args(["--user", login]);
        }
        command
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }
}
