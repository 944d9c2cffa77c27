//! Servers on a thread of their own, so that their CPU time is not counted as the client's.

use std::net::SocketAddr;
use std::thread::JoinHandle;

use tokio::sync::oneshot;
use waypost_testkit::hostile::{Behavior, Script, Server};
use waypost_testkit::report::{Result, one_thread};

/// One real server; any number of nodes may have its address. When dropped, it ends.
#[derive(Debug)]
pub(crate) struct Peers {
    pub(crate) address: SocketAddr,
    _stop: oneshot::Sender<()>,
    _thread: JoinHandle<()>,
}

impl Peers {
    pub(crate) fn start() -> Result<Self> {
        let (sender, address) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let serve = async {
                let server = Server::start(Script::First(Vec::<Behavior>::new()), 1).await?;
                sender.send(server.address())?;
                let _ = stopped.await;
                Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
            };
            // Without an address, the other side reports the failure.
            let _ = one_thread().and_then(|runtime| runtime.block_on(serve));
        });
        let address = address.recv().map_err(|_| "the server did not start")?;
        Ok(Self {
            address,
            _stop: stop,
            _thread: thread,
        })
    }
}
