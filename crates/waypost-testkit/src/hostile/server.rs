//! Server whose connections each misbehave in a way of their own, until it is healed.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::behavior::{Behavior, Script};
use super::connection::Connection;
use super::counters::Counters;
use crate::Port;

/// Pause after a failed accept.
const REST: Duration = Duration::from_millis(10);

/// TCP server on a port of 127.0.0.1 that implements HTTP/2 itself and misbehaves on purpose. A
/// successful response is an empty gRPC message. When dropped, it closes everything.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    healed: watch::Sender<bool>,
    down: watch::Sender<bool>,
    stop: watch::Sender<bool>,
    counters: Arc<Counters>,
    tasks: JoinSet<()>,
}

impl Server {
    /// Starts a server on a port chosen by the system; `seed` determines all random choices.
    ///
    /// # Errors
    /// No port of loopback is available.
    pub async fn start(script: Script, seed: u64) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        Self::serve(listener, script, seed)
    }

    /// Starts a server on a port that was reserved before and refused connections until now.
    ///
    /// # Errors
    /// Listening on the port fails.
    pub fn start_on(port: &Port, script: Script, seed: u64) -> io::Result<Self> {
        Self::serve(port.listen()?, script, seed)
    }

    fn serve(listener: TcpListener, script: Script, seed: u64) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let [healed, down, stop] = std::array::from_fn(|_| watch::Sender::new(false));
        let counters = Arc::<Counters>::default();
        let acceptor = Acceptor {
            script,
            rng: fastrand::Rng::with_seed(seed),
            healed: healed.subscribe(),
            down: down.subscribe(),
            counters: Arc::clone(&counters),
            connections: JoinSet::new(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(acceptor.run(listener, stop.subscribe()));
        Ok(Self {
            address,
            healed,
            down,
            stop,
            counters,
            tasks,
        })
    }

    /// Returns the address of the server.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends the hostility: new connections are well. Slow, frozen and limited connections become
    /// well; the others end by RST, as those of a restarted process do.
    pub fn heal(&self) {
        self.healed.send_replace(true);
    }

    /// Takes the server down or up. While it is down, all connections are closed, and every new one
    /// at once.
    pub fn set_down(&self, down: bool) {
        self.down.send_replace(down);
    }

    /// Returns the number of connections accepted so far.
    pub fn accepted(&self) -> u64 {
        self.counters.accepted.load(Relaxed)
    }

    /// Returns the number of requests received in full so far.
    pub fn requests(&self) -> u64 {
        self.counters.requests.load(Relaxed)
    }

    /// Returns the number of requests with a complete response so far.
    pub fn answered(&self) -> u64 {
        self.counters.answered.load(Relaxed)
    }

    /// Closes all connections, stops, and joins all tasks.
    ///
    /// # Cancel safety
    /// If the future is dropped, the tasks are aborted.
    pub async fn close(mut self) {
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
    }
}

struct Acceptor {
    script: Script,
    rng: fastrand::Rng,
    healed: watch::Receiver<bool>,
    down: watch::Receiver<bool>,
    counters: Arc<Counters>,
    connections: JoinSet<()>,
}

impl Acceptor {
    async fn run(mut self, listener: TcpListener, mut stop: watch::Receiver<bool>) {
        loop {
            let accepted = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                Ok(()) = self.down.changed() => {
                    if *self.down.borrow_and_update() {
                        self.connections.abort_all();
                    }
                    continue;
                }
                accepted = listener.accept() => accepted,
                Some(_) = self.connections.join_next() => continue,
            };
            match accepted {
                Ok(_) if *self.down.borrow() => {}
                Ok((io, _)) => self.accept(io),
                // The process is out of file descriptors; freeing one takes time.
                Err(_) => sleep(REST).await,
            }
        }
        drop(listener);
        self.connections.shutdown().await;
    }

    fn accept(&mut self, io: TcpStream) {
        let number = self.counters.accepted.fetch_add(1, Relaxed);
        let drawn = self.script.behavior(number, &mut self.rng);
        let behavior = if *self.healed.borrow() {
            Behavior::Well
        } else {
            drawn
        };
        let _ = io.set_nodelay(true);
        let connection = Connection::new(
            io,
            behavior,
            self.rng.fork(),
            self.healed.clone(),
            Arc::clone(&self.counters),
        );
        self.connections.spawn(connection.run());
    }
}
