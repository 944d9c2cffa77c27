//! Ports of loopback that are kept, also while nobody listens on them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

const BACKLOG: u32 = 1024;

/// A port of 127.0.0.1 chosen by the system, held by a socket that is bound and never listens. The system gives it to nobody else, but a
/// program that sets SO_REUSEADDR, as Go's do, can listen on it; while none does, connecting is refused.
#[derive(Debug)]
pub struct Port {
    address: SocketAddr,
    _keeper: TcpSocket,
}

impl Port {
    /// A port that nobody has.
    ///
    /// # Errors
    /// The system has none left.
    pub fn take() -> io::Result<Self> {
        let keeper = bound((Ipv4Addr::LOCALHOST, 0).into())?;
        Ok(Self { address: keeper.local_addr()?, _keeper: keeper })
    }

    /// Where to listen, or to connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn listen(&self) -> io::Result<TcpListener> {
        bound(self.address)?.listen(BACKLOG)
    }
}

fn bound(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}
