//! Connectors, and the policy of addresses that may be dialled.

use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::time::Duration;

use http::uri::Scheme;
use socket2::TcpKeepalive;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use waypost_core::balance::Filter;
use waypost_core::record::Address;

use super::eyeballs::{interleave, race};

/// Bidirectional byte stream.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// Boxed [`Io`].
pub type BoxIo = Box<dyn Io>;

/// Future of a connection attempt.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<BoxIo>> + Send + 'a>>;

/// Connector: the interface for TLS, simulated networks and custom sockets. Called from many tasks
/// concurrently, under a deadline.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/plain.rs"));
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use waypost_core::record::Address;
/// use waypost_http::{AddressPolicy, BoxIo, Client, ClientConfig, Connect, Connecting};
///
/// /// Server in the same process, without a socket.
/// #[derive(Debug)]
/// struct InProcess;
///
/// impl Connect for InProcess {
///     fn connect<'a>(&'a self, _: &'a Address, _: &'a AddressPolicy) -> Connecting<'a> {
///         Box::pin(async {
///             let (client, server) = tokio::io::duplex(64 * 1024);
///             tokio::spawn(serve_connection(server, 200));
///             Ok(Box::new(client) as BoxIo)
///         })
///     }
/// }
///
/// # let registry = nodes(["users.test:80".parse()?]);
/// let client = Client::with_connect(registry, ClientConfig::default(), InProcess);
/// # let users = channel(&client, ChannelConfig::default());
/// users.ready(Duration::from_secs(5)).await?;
/// # Ok(()) }
/// ```
pub trait Connect: Debug + Send + Sync + 'static {
    /// Connects to `address`, which `policy` allows. A name must be checked again once it is
    /// resolved.
    fn connect<'a>(&'a self, address: &'a Address, policy: &'a AddressPolicy) -> Connecting<'a>;

    /// Returns the scheme of requests: `http` unless the connection is encrypted.
    fn scheme(&self) -> Scheme {
        Scheme::HTTP
    }

    /// Connects to a node of the service called `service`, which is registered at `address`. The
    /// pools of a client call this. Default: [`connect`](Self::connect), whatever the service.
    ///
    /// A connector that wraps one for TLS passes this call on, since the name
    /// that the node must prove depends on the service.
    fn connect_node<'a>(
        &'a self,
        service: &'a str,
        address: &'a Address,
        policy: &'a AddressPolicy,
    ) -> Connecting<'a> {
        let _ = service;
        self.connect(address, policy)
    }

    /// Returns the filter of the nodes that this connector can reach; the others are excluded
    /// without a dial. Default none: every node can be tried.
    fn filter(&self) -> Option<Filter> {
        None
    }
}

/// Policy of addresses that may be dialled. Unspecified, multicast and link-local addresses never
/// may be (cloud metadata services are link-local).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressPolicy {
    /// True if loopback addresses may be dialled. Set only if the registry is on this host: a
    /// loopback address in a record from another host does not mean this host.
    pub loopback: bool,
}

impl AddressPolicy {
    /// Returns true if this address may be dialled.
    pub fn allows(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        let link_local = match ip {
            IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        !ip.is_unspecified()
            && !ip.is_multicast()
            && !link_local
            && (self.loopback || !ip.is_loopback())
    }

    /// Returns true if this host may be dialled, as far as is known before a name is resolved.
    pub(crate) fn allows_host(&self, host: &str) -> bool {
        host.parse::<IpAddr>().map_or(true, |ip| self.allows(ip))
    }
}

/// Connector for plain TCP with `TCP_NODELAY`. All addresses of a name are tried as in RFC 8305.
/// TCP keep-alive after 15 s without data keeps the connection in the tables of firewalls. On
/// Linux, data that is not acknowledged for 20 s ends it. Nodes that require TLS are excluded.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpConnect;

const UNACKNOWLEDGED: Duration = Duration::from_secs(20);
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;

impl Connect for TcpConnect {
    fn connect<'a>(&'a self, address: &'a Address, policy: &'a AddressPolicy) -> Connecting<'a> {
        Box::pin(async move { Ok(Box::new(dial(address, policy).await?) as BoxIo) })
    }

    fn filter(&self) -> Option<Filter> {
        Some(Filter::Plaintext)
    }
}

/// Connects to the first address of the host that answers, among those that may be dialled. The
/// name is resolved again for each dial.
pub(crate) async fn dial(address: &Address, policy: &AddressPolicy) -> io::Result<TcpStream> {
    if let Ok(ip) = address.host.parse()
        && policy.allows(ip)
    {
        return connect_and_prepare(SocketAddr::new(ip, address.port)).await;
    }
    let resolved: Vec<SocketAddr> = tokio::net::lookup_host((address.host.as_str(), address.port))
        .await?
        .collect();
    dial_any(&resolved, policy).await
}

pub(super) async fn dial_any(
    resolved: &[SocketAddr],
    policy: &AddressPolicy,
) -> io::Result<TcpStream> {
    let allowed = interleave(
        resolved
            .iter()
            .copied()
            .filter(|address| policy.allows(address.ip())),
    );
    if allowed.is_empty() {
        return Err(not_allowed(resolved));
    }
    race(&allowed, connect_and_prepare).await
}

fn not_allowed(resolved: &[SocketAddr]) -> io::Error {
    let Some(first) = resolved.first() else {
        return io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    };
    let others = resolved.len() - 1;
    let text = format!(
        "the name has no address that may be dialled: {} and {others} others are refused by the address policy",
        first.ip()
    );
    io::Error::new(io::ErrorKind::PermissionDenied, text)
}

async fn connect_and_prepare(target: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(target).await?;
    prepare(&stream)?;
    Ok(stream)
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = socket2::SockRef::from(stream);
    socket.set_tcp_keepalive(&keepalive())?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    Ok(())
}

fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_dialled() {
        let table = [
            ("10.0.0.1", true, true),
            ("127.0.0.1", true, false),
            ("::1", true, false),
            ("::ffff:127.0.0.1", true, false),
            ("0.0.0.0", false, false),
            ("::", false, false),
            ("169.254.169.254", false, false),
            ("fe80::1", false, false),
            ("224.0.0.251", false, false),
            ("255.255.255.255", false, false),
        ];
        for (ip, near, far) in table {
            let ip = ip.parse().unwrap();
            let verdict = (
                AddressPolicy { loopback: true }.allows(ip),
                AddressPolicy { loopback: false }.allows(ip),
            );
            assert_eq!(verdict, (near, far), "{ip}");
        }
    }
}
