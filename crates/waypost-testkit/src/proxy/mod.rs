//! A TCP proxy on loopback that fails in every way a network does, on demand.

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

/// What passed through.
#[derive(Debug, Default)]
struct Counters {
    accepted: AtomicU64,
    to_target: AtomicU64,
    to_client: AtomicU64,
}

/// A TCP proxy between clients and one target, on a port of 127.0.0.1 chosen by the system and kept as long as the proxy lives.
///
/// It begins as a faithful pipe: bytes, half-closes and resets pass. Each method below breaks it in one way, at once and for all
/// connections; they may be combined. Dropped, it closes everything; no task is left.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    status: watch::Receiver<Status>,
    counters: Arc<Counters>,
    tasks: JoinSet<()>,
}

/// What the serving task says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Status {
    /// Connections that clients hold now.
    open: usize,
    listening: bool,
}

impl Proxy {
    /// Starts a proxy to `target`, which is dialled anew for each connection.
    ///
    /// # Errors
    /// No port of loopback can be had.
    ///
    /// # Cancel safety
    /// Dropped half-way, nothing is left.
    pub async fn start(target: SocketAddr) -> io::Result<Self> {
        let port = Port::take()?;
        let (address, counters) = (port.address(), Arc::<Counters>::default());
        let (mode, mode_seen) = watch::channel(Mode::new(target));
        let (status_sender, status) = watch::channel(Status::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(serve::serve(port, mode_seen, status_sender, Arc::clone(&counters)));
        let mut proxy = Self { address, mode, status, counters, tasks };
        proxy.settled(true).await?;
        Ok(proxy)
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends new connections to another target; those there are keep theirs.
    pub fn retarget(&self, target: SocketAddr) {
        self.mode.send_modify(|mode| mode.target = target);
    }

    /// Every byte read from now on is handed on `delay` later, in each direction; order is kept. Zero is no delay, the default. At most
    /// 1 MiB is under way in each direction of a connection. Connecting is not delayed, but nothing is read on a new connection for as long
    /// as it would have taken.
    pub fn delay(&self, delay: Duration) {
        self.mode.send_modify(|mode| mode.delay = delay);
    }

    /// Resets all connections there are, on both sides; new ones are served.
    pub fn cut(&self) {
        self.mode.send_modify(|mode| mode.cuts += 1);
    }

    /// Refuses new connections, or takes them again; returns when it is so. Connections there are go on.
    ///
    /// # Errors
    /// The port, which is kept meanwhile, cannot be listened on again.
    ///
    /// # Cancel safety
    /// Dropped half-way, the switch is made all the same, a moment later.
    pub async fn refuse(&mut self, refuse: bool) -> io::Result<()> {
        self.mode.send_modify(|mode| mode.refuse = refuse);
        self.settled(!refuse).await
    }

    /// Closes the target's side of all connections there are; the client's side stays open and silent, and what clients send is thrown
    /// away, until [`cut`](Proxy::cut). As when a machine vanishes behind a router. New connections are served.
    pub fn half_open(&self) {
        self.mode.send_modify(|mode| mode.half_opens += 1);
    }

    /// Reads and throws away everything, in both directions; a connection accepted meanwhile reaches no target. When it ends, a connection
    /// that lost something, or was accepted meanwhile, is reset: TCP never goes on after a hole. See [`freeze`](Proxy::freeze) to hold
    /// bytes back instead.
    pub fn swallow(&self, swallow: bool) {
        self.mode.send_modify(|mode| (mode.swallow_to_target, mode.swallow_to_client) = (swallow, swallow));
    }

    /// Throws away only what the target answers: requests arrive, answers vanish. When it ends, who missed an answer is reset.
    pub fn swallow_answers(&self, swallow: bool) {
        self.mode.send_modify(|mode| mode.swallow_to_client = swallow);
    }

    /// Stops reading, writing and accepting, as a stopped process does: clients still connect (to the system's backlog), and what is
    /// sent waits. Ended, all of it is delivered.
    pub fn freeze(&self, freeze: bool) {
        self.mode.send_modify(|mode| mode.frozen = freeze);
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> u64 {
        self.counters.accepted.load(Ordering::Relaxed)
    }

    /// Connections that clients hold now.
    pub fn open(&self) -> usize {
        self.status.borrow().open
    }

    /// Bytes handed to the target so far.
    pub fn bytes_to_target(&self) -> u64 {
        self.counters.to_target.load(Ordering::Relaxed)
    }

    /// Bytes handed to clients so far.
    pub fn bytes_to_client(&self) -> u64 {
        self.counters.to_client.load(Ordering::Relaxed)
    }

    /// Waits until exactly `count` connections are open.
    ///
    /// # Errors
    /// There was another number after `within`.
    ///
    /// # Cancel safety
    /// It only looks.
    pub async fn wait_open(&self, count: usize, within: Duration) -> Result<(), Failure> {
        let mut status = self.status.clone();
        match timeout(within, status.wait_for(|status| status.open == count)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Failure::new(format!("the proxy has {} open connections after {within:?}, not {count}", self.open()))),
        }
    }

    /// Closes all connections, stops, and joins all tasks.
    ///
    /// # Cancel safety
    /// Dropped half-way, the tasks are aborted all the same.
    pub async fn close(mut self) {
        self.tasks.shutdown().await;
    }

    async fn settled(&mut self, listening: bool) -> io::Result<()> {
        let seen = self.status.wait_for(|status| status.listening == listening).await;
        seen.map(drop).map_err(|_| io::Error::other(format!("the proxy cannot listen on {}", self.address)))
    }
}
