//! Listener of a server.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use super::Error;

/// Length of the queue of connections that are not yet accepted, as tokio sets it.
const BACKLOG: i32 = 1024;

/// Opens the listener at `address`, as [`ServerBuilder::bind`](super::ServerBuilder::bind) does, for
/// servers of another kind.
///
/// `host:port` is one interface, `0.0.0.0:port` every interface in IPv4, `[::]:port` and `:port`
/// every interface in IPv6 and IPv4; where this host has no IPv6, `:port` is IPv4 alone. Port 0 is
/// any free one.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let listener = waypost_tonic::server::listen(":0").await?;
/// let port = listener.local_addr()?.port();
/// tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
/// # Ok(()) }
/// ```
///
/// # Errors
/// [`Error::Bind`] if the address is not `host:port` or cannot be listened on.
///
/// # Cancel safety
/// If the future is dropped, nothing is left.
pub async fn listen(address: &str) -> Result<TcpListener, Error> {
    open(address).await.map_err(|source| Error::Bind {
        address: address.to_owned(),
        source,
    })
}

async fn open(address: &str) -> io::Result<TcpListener> {
    let any = address.strip_prefix(':').and_then(|port| port.parse().ok());
    if let Some(port) = any {
        return match dual_stack(port) {
            Err(error) if is_without_ipv6(&error) => {
                TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await
            }
            opened => opened,
        };
    }
    match address.parse() {
        Ok(SocketAddr::V6(v6)) if v6.ip().is_unspecified() => dual_stack(v6.port()),
        _ => TcpListener::bind(address).await,
    }
}

/// Listens on every interface in both families, whatever the system's default for IPv6 sockets.
fn dual_stack(port: u16) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_only_v6(false)?;
    // As tokio does: a restarted server may listen while old connections are in TIME_WAIT.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Returns true unless the error is of the port, so that IPv4 would have it too.
fn is_without_ipv6(error: &io::Error) -> bool {
    !matches!(
        error.kind(),
        io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn reached(listener: &TcpListener, ip: &str) -> bool {
        let port = listener.local_addr().unwrap().port();
        tokio::net::TcpStream::connect((ip, port)).await.is_ok()
    }

    #[tokio::test]
    async fn a_port_alone_and_the_ipv6_wildcard_are_every_interface_of_both_families() {
        for address in [":0", "[::]:0"] {
            let listener = listen(address).await.unwrap();
            assert!(reached(&listener, "127.0.0.1").await, "{address}");
            assert!(reached(&listener, "::1").await, "{address}");
        }
        let listener = listen("0.0.0.0:0").await.unwrap();
        assert!(reached(&listener, "127.0.0.1").await);
        assert!(!reached(&listener, "::1").await);
    }

    #[tokio::test]
    async fn a_port_that_is_taken_or_wrong_is_an_error() {
        let taken = listen("0.0.0.0:0").await.unwrap();
        let port = taken.local_addr().unwrap().port();
        for address in [
            format!(":{port}"),
            ":x".to_owned(),
            ":".to_owned(),
            "x".to_owned(),
        ] {
            let error = listen(&address).await.unwrap_err();
            assert_eq!(error.to_string(), format!("cannot listen on {address}"));
        }
    }
}
