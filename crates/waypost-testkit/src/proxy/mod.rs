//! TCP proxy on loopback that fails on demand, in every way a network does.

mod mode;
mod relay;
mod serve;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::{Failure, Port};
use mode::Mode;

/// Counters of connections and bytes.
#[derive(Debug, Default)]
struct Counters {
    accepted: AtomicU64,
    to_target: AtomicU64,
    to_client: AtomicU64,
}

/// TCP proxy between clients and one target, on a port of 127.0.0.1 that the system chooses and
/// that stays reserved as long as the proxy lives.
///
/// It starts as a transparent pipe: bytes, half-closes and resets pass. Each method below injects
/// one fault, at once and for all connections; faults may be combined. When dropped, it closes
/// everything; no task is left.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    status: watch::Receiver<Status>,
    counters: Arc<Counters>,
    tasks: JoinSet<()>,
}

/// Status that the serving task publishes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Status {
    /// Number of connections that clients hold now.
    open: usize,
    listening: bool,
}

impl Proxy {
    /// Starts a proxy to `target`, which is dialed for each connection.
    ///
    /// # Errors
    /// No port of loopback is available.
    ///
    /// # Cancel safety
    /// If the future is dropped, nothing is left.
    pub async fn start(target: SocketAddr) -> io::Result<Self> {
        let port = Port::take()?;
        let (address, counters) = (port.address(), Arc::<Counters>::default());
        let (mode, mode_seen) = watch::channel(Mode::new(target));
        let (status_sender, status) = watch::channel(Status::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(serve::serve(
            port,
            mode_seen,
            status_sender,
            Arc::clone(&counters),
        ));
        let mut proxy = Self {
            address,
            mode,
            status,
            counters,
            tasks,
        };
        proxy.settled(true).await?;
        Ok(proxy)
    }

    /// Returns the address that clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends new connections to another target; existing connections keep theirs.
    pub fn retarget(&self, target: SocketAddr) {
        self.mode.send_modify(|mode| mode.target = target);
    }

    /// Delays every byte that is read from now on by `delay`, in each direction; order is kept.
    /// Zero, the default, is no delay. At most 1 MiB is in transit in each direction of a
    /// connection. Connecting is not delayed, but nothing is read on a new connection for as long
    /// as the delayed handshake would have taken.
    pub fn delay(&self, delay: Duration) {
        self.mode.send_modify(|mode| mode.delay = delay);
    }

    /// Resets all existing connections, on both sides; new ones are served.
    pub fn cut(&self) {
        self.mode.send_modify(|mode| mode.cuts += 1);
    }

    /// Refuses new connections, or accepts them again; returns once the switch has taken effect.
    /// Existing connections continue.
    ///
    /// # Errors
    /// Listening on the port, which stays reserved meanwhile, fails.
    ///
    /// # Cancel safety
    /// If the future is dropped, the switch still takes effect a moment later.
    pub async fn refuse(&mut self, refuse: bool) -> io::Result<()> {
        self.mode.send_modify(|mode| mode.refuse = refuse);
        self.settled(!refuse).await
    }

    /// Closes the target's side of all existing connections. The client's side stays open and
    /// silent, and what clients send is discarded, until [`cut`](Proxy::cut), as when a machine
    /// vanishes behind a router. New connections are served.
    pub fn half_open(&self) {
        self.mode.send_modify(|mode| mode.half_opens += 1);
    }

    /// Reads and discards everything, in both directions; a connection accepted meanwhile reaches
    /// no target. When the fault ends, a connection that lost bytes or was accepted meanwhile is
    /// reset, since TCP never continues after a gap. See [`freeze`](Proxy::freeze) to hold bytes
    /// back instead.
    pub fn swallow(&self, swallow: bool) {
        self.mode.send_modify(|mode| {
            (mode.swallow_to_target, mode.swallow_to_client) = (swallow, swallow);
        });
    }

    /// Discards only what the target sends: requests arrive, responses vanish. When the fault ends,
    /// connections that missed a response are reset.
    pub fn swallow_answers(&self, swallow: bool) {
        self.mode
            .send_modify(|mode| mode.swallow_to_client = swallow);
    }

    /// Stops reading, writing and accepting, as a stopped process does: clients still connect (to
    /// the system's backlog), and what is sent waits. When the fault ends, all of it is delivered.
    pub fn freeze(&self, freeze: bool) {
        self.mode.send_modify(|mode| mode.frozen = freeze);
    }

    /// Returns the number of connections accepted so far.
    pub fn accepted(&self) -> u64 {
        self.counters.accepted.load(Ordering::Relaxed)
    }

    /// Returns the number of connections that clients hold now.
    pub fn open(&self) -> usize {
        self.status.borrow().open
    }

    /// Returns the number of bytes forwarded to the target so far.
    pub fn bytes_to_target(&self) -> u64 {
        self.counters.to_target.load(Ordering::Relaxed)
    }

    /// Returns the number of bytes forwarded to clients so far.
    pub fn bytes_to_client(&self) -> u64 {
        self.counters.to_client.load(Ordering::Relaxed)
    }

    /// Waits until exactly `count` connections are open.
    ///
    /// # Errors
    /// Another number was open after `within`.
    ///
    /// # Cancel safety
    /// The call only reads.
    pub async fn wait_open(&self, count: usize, within: Duration) -> Result<(), Failure> {
        let mut status = self.status.clone();
        match timeout(within, status.wait_for(|status| status.open == count)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Failure::new(format!(
                "the proxy has {} open connections after {within:?}, not {count}",
                self.open()
            ))),
        }
    }

    /// Closes all connections, stops, and joins all tasks.
    ///
    /// # Cancel safety
    /// If the future is dropped, the tasks are aborted.
    pub async fn close(mut self) {
        self.tasks.shutdown().await;
    }

    async fn settled(&mut self, listening: bool) -> io::Result<()> {
        let seen = self
            .status
            .wait_for(|status| status.listening == listening)
            .await;
        seen.map(drop)
            .map_err(|_| io::Error::other(format!("the proxy cannot listen on {}", self.address)))
    }
}
