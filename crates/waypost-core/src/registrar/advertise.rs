//! Address that a server registers: the given one, the one that its listener is bound to, or this
//! host's address on the route to the registry.
//!
//! The choice is a pure function of these; the registry reports the routes. This module does not
//! know sockets.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::panics::contain_future;
use crate::record::{Address, NameError};
use crate::registry::{AnyRegistry, Error};

/// Setters, flags and variables that give an address.
const GIVE: &str = ".advertise(\"host:port\"), --server-advertise or WAYPOST_SERVER_ADVERTISE \
                    (waypost register: --address)";
/// Setters, flags and variables that choose the listener.
const LISTEN: &str = ".bind(..), --server-address or WAYPOST_SERVER_ADDRESS";

/// Maximum time for a registry to report its routes. Without an answer there are none.
const ROUTES_TIMEOUT: Duration = Duration::from_secs(2);

/// Choice of the address that a server registers, so that clients can reach it.
///
/// In this order:
///
/// 1. the given [`address`](Advertise::address);
/// 2. the address of the [`listener`](Advertise::listener), if it is bound to one interface;
/// 3. for a listener on every interface, this host's address on the route to the registry
///    ([`Registry::local_addresses`](crate::registry::Registry::local_addresses)): the network in
///    which the registry is reached is the one that its readers are in;
/// 4. loopback, if all readers of the registry are on this host;
/// 5. the [`fallback`](Advertise::fallback) addresses;
/// 6. loopback, if it is [allowed](Advertise::allow_loopback).
///
/// A listener on `[::]` is taken to accept IPv4 too, as on Linux. An address that is derived from
/// the listener is logged at INFO. If a registry is reached through loopback, which may be a tunnel
/// or a forwarder to another host, a loopback address is logged as a warning.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use waypost_core::memory::MemoryRegistry;
/// use waypost_core::registrar::Advertise;
/// use waypost_core::registry::AnyRegistry;
///
/// let registry = AnyRegistry::new(MemoryRegistry::new());
/// let bound = "0.0.0.0:8080".parse()?; // such as listener.local_addr()?
///
/// // All readers of a registry in memory are on this host.
/// let address = Advertise::default().listener(bound).resolve(&registry).await?;
/// assert_eq!(address.to_string(), "127.0.0.1:8080");
///
/// let given = Advertise::default().listener(bound).address("web-0.web.default.svc");
/// assert_eq!(given.resolve(&registry).await?.to_string(), "web-0.web.default.svc:8080");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Advertise {
    address: Option<String>,
    listener: Option<SocketAddr>,
    allow_loopback: bool,
    fallback: Vec<IpAddr>,
}

/// Error of a server that clients could not reach. The text names the setters, flags and variables
/// that change the address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {}", self.what(), self.why())]
#[non_exhaustive]
pub enum AdvertiseError {
    /// Neither an address nor a listener.
    Missing,
    /// Text that is not `host:port`.
    Malformed {
        /// Given text.
        address: String,
        /// Reason, and the fix.
        why: &'static str,
    },
    /// Address of every interface, which no client can dial.
    EveryInterface {
        /// Given address.
        address: String,
    },
    /// Loopback address in a registry that other hosts read.
    Loopback {
        /// Given address, or the one of the listener.
        address: String,
    },
    /// Listener on every interface of a host without a usable route to the registry.
    NoRoute {
        /// Address of the listener.
        listener: SocketAddr,
        /// Name of the registry's backend.
        registry: &'static str,
        /// Addresses of this host on the routes to the registry, none of which can be used.
        routes: Vec<IpAddr>,
    },
}

impl Advertise {
    /// Sets the `host:port` to advertise. Without a port, the listener's port is used.
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.address = Some(address.into());
        self
    }

    /// Sets the address that the server's listener is bound to, with the actual port.
    pub fn listener(mut self, bound: SocketAddr) -> Self {
        self.listener = Some(bound);
        self
    }

    /// Allows a loopback address in a registry that other hosts read. Default false. A registry on
    /// this host always allows one.
    pub fn allow_loopback(mut self, allow: bool) -> Self {
        self.allow_loopback = allow;
        self
    }

    /// Sets the addresses of this host to use if none on a route to the registry can be, best
    /// first, such as that of the default route. Default none.
    pub fn fallback(mut self, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        self.fallback = addresses.into_iter().collect();
        self
    }

    /// Returns the address to register in `registry`, and logs the choice.
    ///
    /// # Errors
    /// [`AdvertiseError`] if clients could not reach the server, or no address can be determined.
    ///
    /// # Cancel safety
    /// Safe: the future only reads.
    pub async fn resolve(&self, registry: &AnyRegistry) -> Result<Address, AdvertiseError> {
        let routes = if self.needs_route() {
            routes(registry).await
        } else {
            Vec::new()
        };
        let choice = self.choose(registry, &routes)?;
        self.log(&choice, registry.name(), &routes);
        Ok(choice.address)
    }

    /// Returns the address to register if the registry is reached by these routes.
    pub(super) fn choose(
        &self,
        registry: &AnyRegistry,
        routes: &[IpAddr],
    ) -> Result<Choice, AdvertiseError> {
        let choice = match (&self.address, self.listener) {
            (Some(given), listener) => Choice::new(complete(given, listener)?, Basis::Given),
            (None, Some(bound)) if bound.ip().to_canonical().is_unspecified() => {
                return self.on_every_interface(bound, registry, routes);
            }
            (None, Some(bound)) => Choice::at(bound.ip(), bound.port(), Basis::Listener),
            (None, None) => return Err(AdvertiseError::Missing),
        };
        let address = &choice.address;
        if address.is_unspecified() {
            return Err(AdvertiseError::EveryInterface {
                address: address.to_string(),
            });
        }
        if address.is_loopback() && !self.allow_loopback && !registry.options().on_this_host {
            return Err(AdvertiseError::Loopback {
                address: address.to_string(),
            });
        }
        Ok(choice)
    }

    fn on_every_interface(
        &self,
        bound: SocketAddr,
        registry: &AnyRegistry,
        routes: &[IpAddr],
    ) -> Result<Choice, AdvertiseError> {
        let usable = |ip: &IpAddr| accepts(bound, *ip) && is_reachable(*ip);
        let first = |ips: &[IpAddr]| ips.iter().copied().find(usable);
        // A listener on every interface accepts connections to it, in either family.
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let (ip, basis) = if let Some(ip) = first(routes) {
            (ip, Basis::Route)
        } else if registry.options().on_this_host {
            let is_routed = routes.iter().any(|ip| is_loopback(*ip));
            let basis = if is_routed {
                Basis::LoopbackRoute
            } else {
                Basis::Loopback
            };
            (loopback, basis)
        } else if let Some(ip) = first(&self.fallback) {
            (ip, Basis::Fallback)
        } else if self.allow_loopback {
            (loopback, Basis::Loopback)
        } else {
            return Err(AdvertiseError::NoRoute {
                listener: bound,
                registry: registry.name(),
                routes: routes.to_vec(),
            });
        };
        Ok(Choice::at(ip, bound.port(), basis))
    }

    fn needs_route(&self) -> bool {
        self.address.is_none()
            && self
                .listener
                .is_some_and(|bound| bound.ip().to_canonical().is_unspecified())
    }

    pub(super) fn log(&self, choice: &Choice, registry: &'static str, routes: &[IpAddr]) {
        let (address, listener) = (&choice.address, self.listener.map(tracing::field::display));
        match choice.basis {
            Basis::Given => tracing::info!(%address, listener, "advertising the given address"),
            Basis::Listener => tracing::info!(%address, "advertising the address of the listener"),
            Basis::Route => tracing::info!(
                %address, listener, registry, ?routes, choose_another = GIVE,
                "advertising this host's address on the route to the registry"
            ),
            Basis::Fallback => tracing::info!(
                %address, listener, registry, ?routes, choose_another = GIVE,
                "no usable route to the registry; advertising the address of the default route"
            ),
            Basis::Loopback => tracing::info!(
                %address, listener, registry, choose_another = GIVE,
                "advertising loopback, which clients on this host reach"
            ),
            Basis::LoopbackRoute => tracing::warn!(
                %address, listener, registry, choose_another = GIVE,
                "registry is reached through loopback; advertising loopback, which clients on other hosts cannot reach"
            ),
        }
    }
}

/// Address to register, and the reason.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) address: Address,
    basis: Basis,
}

/// Reason for the choice of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Basis {
    Given,
    Listener,
    Route,
    Fallback,
    /// Loopback: all readers are on this host, or it is allowed.
    Loopback,
    /// Loopback, on the route to the registry, which may end on another host.
    LoopbackRoute,
}

impl Choice {
    fn new(address: Address, basis: Basis) -> Self {
        Self { address, basis }
    }

    fn at(ip: IpAddr, port: u16, basis: Basis) -> Self {
        let host = ip.to_string();
        Self::new(Address { host, port }, basis)
    }
}

impl AdvertiseError {
    fn what(&self) -> String {
        match self {
            Self::Missing => "cannot advertise the server".to_owned(),
            Self::Malformed { address, .. }
            | Self::EveryInterface { address }
            | Self::Loopback { address } => format!("cannot advertise {address}"),
            Self::NoRoute { listener, .. } => format!("cannot advertise {listener}"),
        }
    }

    fn why(&self) -> String {
        match self {
            Self::Missing => format!(
                "it has no address; give one that clients reach with {GIVE}, or the listener's with \
                 start_on(listener.local_addr()?)"
            ),
            Self::Malformed { why, .. } => format!("the address {why}; it is set with {GIVE}"),
            Self::EveryInterface { .. } => format!(
                "it is every interface, which no client can dial; give an address that clients reach with {GIVE}, or \
                 only the listener's, with .bind(..) or start_on(listener.local_addr()?): then the route to the \
                 registry decides"
            ),
            Self::Loopback { .. } => format!(
                "it is loopback, and clients of this registry may be on other hosts; listen where they reach it, such \
                 as 0.0.0.0:0, with {LISTEN}, give an address with {GIVE}, or allow loopback with \
                 .allow_loopback(true) (--server-config allow-loopback=true, waypost register: --allow-loopback)"
            ),
            Self::NoRoute {
                listener,
                registry,
                routes,
            } => no_route(*listener, registry, routes),
        }
    }
}

fn no_route(listener: SocketAddr, registry: &str, routes: &[IpAddr]) -> String {
    let port = listener.port();
    match routes.iter().copied().find(|ip| is_reachable(*ip)) {
        Some(ip) => format!(
            "it accepts IPv4 only, and this host reaches the {registry} registry from {ip}; listen on [::]:{port} with \
             {LISTEN}, or give an address that clients reach with {GIVE}"
        ),
        None if routes.is_empty() => format!(
            "this host has no known route to the {registry} registry; give an address that clients reach with {GIVE}"
        ),
        None => format!(
            "this host reaches the {registry} registry from {}, which clients on other hosts cannot dial; give an \
             address that they reach with {GIVE}",
            routes[0]
        ),
    }
}

impl From<AdvertiseError> for Error {
    fn from(error: AdvertiseError) -> Self {
        Self::invalid(error.what(), error.why())
    }
}

/// Parses the given address; the listener's port stands in for a missing one.
fn complete(given: &str, listener: Option<SocketAddr>) -> Result<Address, AdvertiseError> {
    let parsed = match listener {
        Some(bound) => Address::with_default_port(given, bound.port()),
        None => given.parse(),
    };
    parsed.map_err(|error: NameError| AdvertiseError::Malformed {
        address: given.to_owned(),
        why: error.why(),
    })
}

/// Returns true if a listener on every interface accepts connections to `ip`.
fn accepts(bound: SocketAddr, ip: IpAddr) -> bool {
    bound.is_ipv6() || ip.to_canonical().is_ipv4()
}

/// Returns true if clients on other hosts may dial the address.
fn is_reachable(ip: IpAddr) -> bool {
    let link_local = match ip.to_canonical() {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(link_local || is_loopback(ip) || ip.is_unspecified() || ip.is_multicast())
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

/// Returns the routes that the registry reports, or none if it does not answer in time or panics.
async fn routes(registry: &AnyRegistry) -> Vec<IpAddr> {
    let asked = contain_future(registry.local_addresses());
    match tokio::time::timeout(ROUTES_TIMEOUT, asked).await {
        Ok(Ok(routes)) => routes,
        Ok(Err(error)) => {
            tracing::warn!(registry = registry.name(), %error, "registry panicked in local_addresses");
            Vec::new()
        }
        Err(_) => {
            let limit = ROUTES_TIMEOUT;
            tracing::warn!(
                registry = registry.name(),
                ?limit,
                "registry reports no route in time"
            );
            Vec::new()
        }
    }
}
