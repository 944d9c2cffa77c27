//! One member of a cluster: a process of ours, its ports and its folder. It knows nothing of the others but their addresses.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Binary;
use super::metrics::Metrics;
use crate::{Child, Failure, Port, Program};

/// What etcd logs, in every version, once it has joined its cluster and answers clients; before that it accepts and is silent.
const SERVING: &str = "serving client traffic";
/// Three members on a busy machine; nothing waits for it when all is well.
const START: Duration = Duration::from_secs(60);
const END: Duration = Duration::from_secs(20);

/// One member. Its ports stay its own while it is down: connecting is refused then, and nobody else can take them.
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
    pub(super) fn new(binary: &Binary, name: String, folder: &Path) -> std::io::Result<Self> {
        Ok(Self {
            title: format!("etcd {} {name}", binary.version()),
            data: folder.join(&name),
            client: Port::take()?,
            peer: Port::take()?,
            metrics: Port::take()?,
            program: Program::new(binary.path()),
            child: None,
            paused: false,
            name,
        })
    }

    /// Tells it the flags that all members share.
    pub(super) fn configure(&mut self, scheme: &str, shared: &[String]) {
        let (client, peer, metrics) = (self.client.address(), self.peer.address(), self.metrics.address());
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

    /// Its name in the cluster: `m1`, `m2`, `m3`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where clients reach it: 127.0.0.1 and a port.
    pub fn address(&self) -> SocketAddr {
        self.client.address()
    }

    /// `m1=http://127.0.0.1:4321`, as the cluster's list of members has it.
    pub(super) fn peer(&self) -> String {
        format!("{}=http://{}", self.name, self.peer.address())
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::pid)
    }

    /// Its log so far, since it was last started: one JSON object a line.
    pub fn log(&self) -> Vec<String> {
        self.child.as_ref().map(Child::stdout).unwrap_or_default()
    }

    /// Whether it was started, and neither killed nor paused since.
    pub fn is_up(&self) -> bool {
        self.child.is_some() && !self.paused
    }

    /// Fails the test if it has ended by itself.
    ///
    /// # Panics
    /// It has; the message shows what it said.
    #[track_caller]
    pub fn assert_alive(&mut self) {
        if let Some(child) = &mut self.child {
            child.assert_alive();
        }
    }

    /// Freezes it (SIGSTOP): it accepts connections and is silent.
    ///
    /// # Errors
    /// It is down.
    pub fn pause(&mut self) -> Result<(), Failure> {
        self.running()?.sigstop()?;
        self.paused = true;
        Ok(())
    }

    /// Wakes it again.
    ///
    /// # Errors
    /// It is down.
    pub fn resume(&mut self) -> Result<(), Failure> {
        self.running()?.sigcont()?;
        self.paused = false;
        Ok(())
    }

    /// Kills it (SIGKILL), paused or not; returns when it is gone. Its data stays.
    ///
    /// # Errors
    /// It is down already.
    ///
    /// # Cancel safety
    /// Dropped half-way, it has been killed; call it again.
    pub async fn kill(&mut self) -> Result<(), Failure> {
        let child = self.running()?;
        if child.is_alive() {
            child.sigkill()?;
        }
        child.wait(END).await?;
        (self.child, self.paused) = (None, false);
        Ok(())
    }

    /// Starts it again with the data it had. It serves once a majority of the cluster is up: see [`serving`](Member::serving).
    ///
    /// # Errors
    /// It runs already, or does not start.
    pub fn start(&mut self) -> Result<(), Failure> {
        if self.child.is_some() {
            return Err(Failure::new(format!("{} runs already", self.title)));
        }
        self.child = Some(Child::start(&self.title, &self.program)?);
        Ok(())
    }

    /// Waits until it has joined its cluster and answers clients.
    ///
    /// # Errors
    /// It is down, ended, or did not get there within a minute.
    ///
    /// # Cancel safety
    /// Once it has returned, or was dropped half-way, it is not to be called again before the next start.
    pub async fn serving(&mut self) -> Result<(), Failure> {
        self.running()?.line_where(START, |line| line.contains(SERVING)).await.map(drop)
    }

    /// What it counts, as Prometheus would read it.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn metrics(&self) -> Result<Metrics, Failure> {
        let read = tokio::time::timeout(END, Metrics::read(self.metrics.address())).await;
        let failed = |why: &str| Failure::new(format!("{} tells no metrics: {why}", self.title));
        read.map_err(|_| failed("no answer"))?.map_err(|error| failed(&error.to_string()))
    }

    /// Removes its data.
    pub(super) fn forget(&self) -> std::io::Result<()> {
        if self.data.exists() { std::fs::remove_dir_all(&self.data) } else { Ok(()) }
    }

    /// The id of the cluster it says it joined, in its own log.
    pub(super) fn joined(&self) -> Option<u64> {
        let log = self.log();
        let id = log.iter().rev().find_map(|line| line.split_once("\"cluster-id\":\"")?.1.split_once('"'));
        u64::from_str_radix(id?.0, 16).ok()
    }

    fn running(&mut self) -> Result<&mut Child, Failure> {
        self.child.as_mut().ok_or_else(|| Failure::new(format!("{} is down", self.title)))
    }
}
