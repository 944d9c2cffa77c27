//! `waypost demo --etcd`: an etcd of the demo's own, gone with it.
//!
//! etcd itself would outlive a demo that is killed. So a keeper runs it, this program again as `demo keep-etcd`, which holds the other end
//! of a pipe as its stdin: when that closes, it kills etcd and removes its data. This room knows the keeper, and nothing of records.

mod find;
mod keeper;
mod port;

use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::escape;
use crate::failure::Failure;
use find::Binary;
pub(super) use keeper::{KeeperArgs, run as keep};

/// How long etcd may take to serve; a quiet machine needs a second.
const START: Duration = Duration::from_secs(60);
/// How long the keeper may take to kill it and to remove its data.
const END: Duration = Duration::from_secs(10);

/// What the keeper says, one JSON object a line.
#[derive(Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Said {
    /// Our own child answers clients there.
    Serving { url: String },
    /// It has ended by itself.
    Ended { why: String },
}

/// An etcd that lives as long as this, and no longer than this process.
///
/// Dropped, it is gone a moment later; [`end`](Etcd::end) waits for that.
pub(super) struct Etcd {
    binary: Binary,
    url: String,
    keeper: Child,
    /// Held apart, since waiting for a child closes what it holds.
    stdin: Option<ChildStdin>,
    said: Lines<BufReader<ChildStdout>>,
}

impl Etcd {
    /// Starts one, if this machine has any.
    ///
    /// # Errors
    /// It has none; the text says how to get one.
    pub(super) async fn start() -> Result<Self, Failure> {
        let binary = find::etcd().await?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["demo", "keep-etcd"]).arg(&binary.path);
        // Not killed on drop: it would leave etcd behind.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(false);
        // Ctrl-C is for the demo: its servers still have to leave the registry.
        #[cfg(unix)]
        command.process_group(0);
        let mut keeper = command.spawn()?;
        let stdin = keeper.stdin.take();
        let stdout = keeper.stdout.take().ok_or_else(|| Failure::no("the keeper of etcd has no stdout"))?;
        Ok(Self { binary, url: String::new(), keeper, stdin, said: BufReader::new(stdout).lines() })
    }

    /// Waits until it serves.
    ///
    /// # Errors
    /// It does not.
    pub(super) async fn serving(&mut self) -> Result<(), Failure> {
        let late = |_| Failure::registry(format!("{} did not serve within {START:?}", self.binary));
        match timeout(START, self.said.next_line()).await.map_err(late)? {
            Ok(Some(line)) => match serde_json::from_str(&line) {
                Ok(Said::Serving { url }) => self.url = url,
                other => return Err(self.failure(other.ok())),
            },
            _ => return Err(self.failure(None)),
        }
        Ok(())
    }

    /// Where it serves.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// What it says it is, such as 3.4.23.
    pub(super) fn version(&self) -> &str {
        &self.binary.version
    }

    /// Waits for what should not happen: that it ends by itself.
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub(super) async fn failed(&mut self) -> Failure {
        let said = self.said.next_line().await.ok().flatten();
        self.failure(said.and_then(|line| serde_json::from_str(&line).ok()))
    }

    /// Ends it, and returns when neither process nor data is left.
    pub(super) async fn end(mut self) -> Result<(), Failure> {
        drop(self.stdin.take());
        let left = |why: &str| Failure::no(format!("{} may be left behind: {why}", self.binary));
        let ended = timeout(END, self.keeper.wait()).await.map_err(|_| left("its keeper does not end"))??;
        if ended.success() { Ok(()) } else { Err(left(&format!("its keeper ended with {ended}"))) }
    }

    fn failure(&self, said: Option<Said>) -> Failure {
        let why = match said {
            Some(Said::Ended { why }) => escape::text(&why),
            _ => "its keeper ended first".to_owned(),
        };
        Failure::registry(format!("{} ended by itself: {why}", self.binary))
            .next("try another: WAYPOST_ETCD=/path/to/etcd waypost demo --etcd")
    }
}
