//! Loopback ports that stay reserved, even while no process listens on them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

const BACKLOG: u32 = 1024;

/// Port of 127.0.0.1 chosen by the system, reserved by a socket that is bound and never listens.
/// The system assigns it to no other process. A program that sets SO_REUSEADDR, as Go's do, can
/// listen on it; while none does, connections are refused.
#[derive(Debug)]
pub struct Port {
    address: SocketAddr,
    _keeper: TcpSocket,
}

impl Port {
    /// Reserves a free port.
    ///
    /// # Errors
    /// The system has no free port.
    pub fn take() -> io::Result<Self> {
        let keeper = bound((Ipv4Addr::LOCALHOST, 0).into())?;
        Ok(Self {
            address: keeper.local_addr()?,
            _keeper: keeper,
        })
    }

    /// Returns the address to listen on or to connect to.
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
