//! Addresses of this host on its routes to others. A UDP socket is connected, which only looks up
//! the route: nothing is sent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use waypost_core::record::Address;

/// Maximum time for all names to be resolved. Later answers are not waited for.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(1);

/// Port of the lookups (discard). No packet is sent to it.
const DISCARD: u16 = 9;

/// Returns the addresses of this host from which it reaches `targets`, in their order and without
/// repetition. A target without a route, or whose name is not resolved within 1 s, has none.
///
/// # Cancel safety
/// Safe: nothing is changed.
pub async fn local_addresses(targets: &[Address]) -> Vec<IpAddr> {
    let mut local = Vec::new();
    for target in resolve(targets).await {
        if let Some(ip) = local_address(target)
            && !local.contains(&ip)
        {
            local.push(ip);
        }
    }
    local
}

/// Returns the addresses of this host on its default routes, IPv4 first; none of a family without
/// such a route. The lookups are for addresses that are reserved for documentation.
///
/// ```
/// // The address depends on the host; it is never that of every interface.
/// let local = waypost_http::outbound_addresses();
/// assert!(local.iter().all(|ip| !ip.is_unspecified()));
/// ```
pub fn outbound_addresses() -> Vec<IpAddr> {
    let documentation: [IpAddr; 2] = [
        Ipv4Addr::new(192, 0, 2, 1).into(),
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    ];
    let targets = documentation.map(|ip| SocketAddr::new(ip, DISCARD));
    targets.into_iter().filter_map(local_address).collect()
}

/// Returns the address of this host from which it reaches `target`.
fn local_address(target: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = match target {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(target).ok()?;
    let local = socket.local_addr().ok()?.ip().to_canonical();
    (!local.is_unspecified()).then_some(local)
}

/// Returns the socket addresses of the targets, in their order.
async fn resolve(targets: &[Address]) -> Vec<SocketAddr> {
    let deadline = Instant::now() + RESOLVE_TIMEOUT;
    let mut lookups = JoinSet::new();
    for (index, Address { host, port }) in targets.iter().cloned().enumerate() {
        lookups.spawn(async move {
            let resolved = tokio::net::lookup_host((host, port)).await;
            (index, resolved.map(Iterator::collect).unwrap_or_default())
        });
    }
    let mut resolved: Vec<(usize, Vec<SocketAddr>)> = Vec::new();
    while let Ok(Some(lookup)) = timeout_at(deadline, lookups.join_next()).await {
        resolved.extend(lookup);
    }
    resolved.sort_by_key(|(index, _)| *index);
    resolved.into_iter().flat_map(|(_, all)| all).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<Address> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[tokio::test]
    async fn loopback_is_reached_from_loopback_and_each_address_is_reported_once() {
        let targets = addresses(&["127.0.0.1:2379", "127.0.0.1:2380", "localhost:1"]);
        let local = local_addresses(&targets).await;
        assert_eq!(local[0], IpAddr::V4(Ipv4Addr::LOCALHOST));
        assert!(local.iter().all(IpAddr::is_loopback), "{local:?}");
        let again = local.iter().filter(|ip| **ip == local[0]).count();
        assert_eq!(again, 1, "{local:?}");
        assert_eq!(local_addresses(&[]).await, [] as [IpAddr; 0]);
    }
}
