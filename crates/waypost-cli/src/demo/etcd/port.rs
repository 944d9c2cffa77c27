//! Loopback ports that are chosen before a server listens on them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpSocket;

/// Port of 127.0.0.1 chosen by the system, held by a socket that is bound and never listens. The
/// system assigns it to no other socket, but a program that sets SO_REUSEADDR, as Go's do, can
/// listen on it.
pub(super) struct ReservedPort {
    pub(super) address: SocketAddr,
    _keeper: TcpSocket,
}

impl ReservedPort {
    pub(super) fn take() -> io::Result<Self> {
        let keeper = TcpSocket::new_v4()?;
        keeper.set_reuseaddr(true)?;
        keeper.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        Ok(Self {
            address: keeper.local_addr()?,
            _keeper: keeper,
        })
    }
}
