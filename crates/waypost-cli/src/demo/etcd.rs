//! `waypost demo --etcd`: an etcd of the demo's own, which ends with the demo.
//!
//! etcd itself would outlive a demo that is killed. Therefore a keeper runs it: this program again,
//! as `demo keep-etcd`. The keeper holds the other end of a pipe as its stdin. When that closes, it
//! kills etcd and removes its data. This module knows the keeper, and nothing of records.

mod keeper;
mod port;

use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;
use waypost_etcd_binary::{Candidates, EtcdBinary, Version};

use crate::error::CliError;
use crate::escape;
pub(super) use keeper::{KeeperArgs, run as keep};

/// Maximum time for etcd to start serving. An idle machine needs a second.
const START: Duration = Duration::from_secs(60);
/// Maximum time for the keeper to kill etcd and remove its data.
const END: Duration = Duration::from_secs(10);

const REMEDY: &str = "get one: apt-get install etcd-server, or cargo xtask etcd; or name one: WAYPOST_ETCD=/path/to/etcd";

/// Event of the keeper, one JSON object per line.
#[derive(Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum KeeperOutput {
    /// The keeper's own etcd process serves clients at `url`.
    Serving { url: String },
    /// The etcd process has ended by itself.
    Ended { why: String },
}

/// Finds etcd: `$WAYPOST_ETCD`, else the one on the `PATH`, else the newest that `cargo xtask etcd`
/// has built.
fn find() -> Result<EtcdBinary, CliError> {
    let path = Candidates::of(|name| std::env::var_os(name)).first();
    let path = path.ok_or_else(|| {
        CliError::registry(
            "this machine has no etcd: none is named in WAYPOST_ETCD, on the PATH or built",
        )
        .next(REMEDY)
    })?;
    EtcdBinary::at(path).map_err(|error| CliError::registry(error.to_string()).next(REMEDY))
}

/// etcd that lives as long as this value, and no longer than this process.
///
/// After a drop it ends within a moment; [`end`](Etcd::end) waits for that.
pub(super) struct DemoEtcd {
    binary: EtcdBinary,
    url: String,
    keeper: Child,
    /// Held separately, since waiting for a child closes its stdin.
    stdin: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
}

impl DemoEtcd {
    /// Starts an etcd of this machine.
    ///
    /// # Errors
    /// [`CliError`] if the machine has none; the text says how to get one.
    pub(super) async fn start() -> Result<Self, CliError> {
        let binary = tokio::task::spawn_blocking(find)
            .await
            .map_err(std::io::Error::from)??;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["demo", "keep-etcd"]).arg(&binary.path);
        // Not killed on drop: that would leave etcd behind.
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(false);
        // Ctrl-C must not reach the keeper: the demo's servers still have to leave the registry.
        #[cfg(unix)]
        command.process_group(0);
        let mut keeper = command.spawn()?;
        let stdin = keeper.stdin.take();
        let stdout = keeper
            .stdout
            .take()
            .ok_or_else(|| CliError::no("the keeper of etcd has no stdout"))?;
        Ok(Self {
            binary,
            url: String::new(),
            keeper,
            stdin,
            output: BufReader::new(stdout).lines(),
        })
    }

    /// Waits until etcd serves.
    ///
    /// # Errors
    /// [`CliError`] if it does not.
    pub(super) async fn serving(&mut self) -> Result<(), CliError> {
        let late =
            |_| CliError::registry(format!("{} did not serve within {START:?}", self.binary));
        match timeout(START, self.output.next_line())
            .await
            .map_err(late)?
        {
            Ok(Some(line)) => match serde_json::from_str(&line) {
                Ok(KeeperOutput::Serving { url }) => self.url = url,
                other => return Err(self.failure(other.ok())),
            },
            _ => return Err(self.failure(None)),
        }
        Ok(())
    }

    /// Returns the URL of etcd.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Returns the version that etcd reports, such as 3.4.23.
    pub(super) fn version(&self) -> Version {
        self.binary.version
    }

    /// Waits until etcd ends by itself, which is a failure.
    ///
    /// # Cancel safety
    /// Safe: nothing is lost when it is dropped.
    pub(super) async fn failed(&mut self) -> CliError {
        let output = self.output.next_line().await.ok().flatten();
        self.failure(output.and_then(|line| serde_json::from_str(&line).ok()))
    }

    /// Ends etcd, and returns when neither process nor data is left.
    pub(super) async fn end(mut self) -> Result<(), CliError> {
        drop(self.stdin.take());
        let left = |why: &str| CliError::no(format!("{} may be left behind: {why}", self.binary));
        let ended = timeout(END, self.keeper.wait())
            .await
            .map_err(|_| left("its keeper does not end"))??;
        if ended.success() {
            Ok(())
        } else {
            Err(left(&format!("its keeper ended with {ended}")))
        }
    }

    fn failure(&self, output: Option<KeeperOutput>) -> CliError {
        let why = match output {
            Some(KeeperOutput::Ended { why }) => escape::text(&why),
            _ => "its keeper ended first".to_owned(),
        };
        CliError::registry(format!("{} ended by itself: {why}", self.binary))
            .next("try another: WAYPOST_ETCD=/path/to/etcd waypost demo --etcd")
    }
}
