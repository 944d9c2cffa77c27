//! Ports of loopback that a cluster keeps for its whole life, also while its members are down.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpSocket;

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
        let keeper = TcpSocket::new_v4()?;
        keeper.set_reuseaddr(true)?;
        keeper.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        Ok(Self { address: keeper.local_addr()?, _keeper: keeper })
    }

    /// Where to listen, or to connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
