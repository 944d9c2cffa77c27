//! One member of a cluster: its process, ports and folder. Knows nothing of the other members but
//! their addresses.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Binary;
use super::metrics::Metrics;
use crate::{Child, Failure, Port, Program};

/// Message that every version of etcd logs once it has joined its cluster and serves clients;
/// before that it accepts connections and does not respond.
const SERVING: &str = "serving client traffic";
/// Timeout of a start, for three members on a busy machine; it costs no time when all is well.
const START: Duration = Duration::from_secs(60);
const END: Duration = Duration::from_secs(20);

/// Member of a cluster. Its ports stay reserved while it is down: connections are refused, and no
/// other process can take them.
#[derive(Debug)]
pub struct Member {
    name: String,
    title: String,
    data: PathBuf,
    client: Port,
    peer: Port,
    metrics: Port,
    program: Program,
    child: Option<Child>,
    paused: bool,
}

impl Member {
    pub(super) fn new(binary: &Binary, name: String, data_dir: &Path) -> std::io::Result<Self> {
        Ok(Self {
            title: format!("etcd {} {name}", binary.version()),
            data: data_dir.join(&name),
            client: Port::take()?,
            peer: Port::take()?,
            metrics: Port::take()?,
            program: Program::new(binary.path()),
            child: None,
            paused: false,
            name,
        })
    }

    /// Sets the flags of this member and those `shared` by all members.
    pub(super) fn configure(&mut self, scheme: &str, shared: &[String]) {
        let (client, peer, metrics) = (
            self.client.address(),
            self.peer.address(),
            self.metrics.address(),
        );
        let own = [
            format!("--name={}", self.name),
            format!("--data-dir={}", self.data.display()),
            format!("--listen-client-urls={scheme}://{client}"),
            format!("--advertise-client-urls={scheme}://{client}"),
            format!("--listen-peer-urls=http://{peer}"),
            format!("--initial-advertise-peer-urls=http://{peer}"),
            format!("--listen-metrics-urls=http://{metrics}"),
        ];
        self.program = self.program.clone().args(own).args(shared);
    }

    /// Returns the member's name in the cluster: `m1`, `m2`, `m3`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the address for clients: 127.0.0.1 and a port.
    pub fn address(&self) -> SocketAddr {
        self.client.address()
    }

    /// Returns the member's entry in `--initial-cluster`: `m1=http://127.0.0.1:4321`.
    pub(super) fn peer(&self) -> String {
        format!("{}=http://{}", self.name, self.peer.address())
    }

    /// Returns the process id while the member runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::pid)
    }

    /// Returns the log since the last start: one JSON object per line.
    pub fn log(&self) -> Vec<String> {
        self.child.as_ref().map(Child::stdout).unwrap_or_default()
    }

    /// Returns true if the member was started, and neither killed nor paused since.
    pub fn is_up(&self) -> bool {
        self.child.is_some() && !self.paused
    }

    /// Fails the test if the member has ended by itself.
    ///
    /// # Panics
    /// The member has ended; the message shows its output.
    #[track_caller]
    pub fn assert_alive(&mut self) {
        if let Some(child) = &mut self.child {
            child.assert_alive();
        }
    }

    /// Freezes the member (SIGSTOP): it accepts connections and does not respond.
    ///
    /// # Errors
    /// The member is down.
    pub fn pause(&mut self) -> Result<(), Failure> {
        self.running()?.sigstop()?;
        self.paused = true;
        Ok(())
    }

    /// Resumes the member (SIGCONT).
    ///
    /// # Errors
    /// The member is down.
    pub fn resume(&mut self) -> Result<(), Failure> {
        self.running()?.sigcont()?;
        self.paused = false;
        Ok(())
    }

    /// Kills the member (SIGKILL), paused or not; returns once it has ended. Its data is kept.
    ///
    /// # Errors
    /// The member is already down.
    ///
    /// # Cancel safety
    /// If the future is dropped, the member has been killed; call it again.
    pub async fn kill(&mut self) -> Result<(), Failure> {
        let child = self.running()?;
        if child.is_alive() {
            child.sigkill()?;
        }
        child.wait(END).await?;
        (self.child, self.paused) = (None, false);
        Ok(())
    }

    /// Starts the member again with its data. It serves once a majority of the cluster is up: see
    /// [`serving`](Member::serving).
    ///
    /// # Errors
    /// The member already runs, or does not start.
    pub fn start(&mut self) -> Result<(), Failure> {
        if self.child.is_some() {
            return Err(Failure::new(format!("{} runs already", self.title)));
        }
        self.child = Some(Child::start(&self.title, &self.program)?);
        Ok(())
    }

    /// Waits until the member has joined its cluster and serves clients.
    ///
    /// # Errors
    /// The member is down, has ended, or does not serve within a minute.
    ///
    /// # Cancel safety
    /// Once it has returned, or its future was dropped, do not call it again before the next start.
    pub async fn serving(&mut self) -> Result<(), Failure> {
        self.running()?
            .line_where(START, |line| line.contains(SERVING))
            .await
            .map(drop)
    }

    /// Returns the metrics that the member exposes to Prometheus.
    ///
    /// # Errors
    /// The member does not respond.
    pub async fn metrics(&self) -> Result<Metrics, Failure> {
        let read = tokio::time::timeout(END, Metrics::read(self.metrics.address())).await;
        let failed = |why: &str| Failure::new(format!("{} has no metrics: {why}", self.title));
        read.map_err(|_| failed("no answer"))?
            .map_err(|error| failed(&error.to_string()))
    }

    /// Removes the member's data.
    pub(super) fn forget(&self) -> std::io::Result<()> {
        if self.data.exists() {
            std::fs::remove_dir_all(&self.data)
        } else {
            Ok(())
        }
    }

    /// Returns the id of the cluster that the member joined, from its own log.
    pub(super) fn joined(&self) -> Option<u64> {
        let log = self.log();
        let id = log
            .iter()
            .rev()
            .find_map(|line| line.split_once("\"cluster-id\":\"")?.1.split_once('"'));
        u64::from_str_radix(id?.0, 16).ok()
    }

    fn running(&mut self) -> Result<&mut Child, Failure> {
        self.child
            .as_mut()
            .ok_or_else(|| Failure::new(format!("{} is down", self.title)))
    }
}
