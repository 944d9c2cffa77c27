//! Advertised address of a server: one that clients can reach, or a clear error.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use super::Error;

/// Returns the address to register for a server that listens on `bound`: `given` if there is one,
/// else `bound` with an unspecified host replaced by loopback or by `outbound`.
///
/// # Errors
/// [`Error::Advertise`] if clients could not reach it. `loopback` allows an address that only this
/// host reaches.
pub(super) fn advertised(
    given: Option<&str>,
    bound: SocketAddr,
    loopback: bool,
    outbound: impl Fn(IpAddr) -> Option<IpAddr>,
) -> Result<String, Error> {
    let address = match given {
        Some(given) => complete(given, bound.port())?,
        None => specific(bound, loopback, outbound)?.to_string(),
    };
    let refuse = |why| {
        Err(Error::Advertise {
            address: address.clone(),
            why,
        })
    };
    match split(&address, 0).map_or("", |(host, _)| host) {
        host if is_unspecified(host) => {
            refuse("it names no host; give one that clients reach with .advertise(\"host:port\")")
        }
        host if is_loopback(host) && !loopback => refuse(
            "clients of this registry may be on other hosts; bind an address they reach, give it with .advertise(\"host:port\"), or allow it with .allow_loopback(true)",
        ),
        _ => Ok(address),
    }
}

/// Returns the address of the outbound interface, of the same family as `bound`. A UDP socket is
/// connected to an address reserved for documentation, which only looks up the route: nothing is
/// sent.
pub(super) fn outbound(bound: IpAddr) -> Option<IpAddr> {
    let (from, to): (IpAddr, IpAddr) = match bound {
        IpAddr::V4(_) => (
            Ipv4Addr::UNSPECIFIED.into(),
            Ipv4Addr::new(192, 0, 2, 1).into(),
        ),
        IpAddr::V6(_) => (
            Ipv6Addr::UNSPECIFIED.into(),
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
        ),
    };
    let socket = UdpSocket::bind((from, 0)).ok()?;
    socket.connect((to, 9)).ok()?;
    socket
        .local_addr()
        .ok()
        .map(|address| address.ip())
        .filter(|ip| !ip.is_unspecified())
}

fn specific(
    bound: SocketAddr,
    loopback: bool,
    outbound: impl Fn(IpAddr) -> Option<IpAddr>,
) -> Result<SocketAddr, Error> {
    if !bound.ip().is_unspecified() {
        return Ok(bound);
    }
    let near = match bound {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    let ip = if loopback {
        Some(near)
    } else {
        outbound(bound.ip())
    };
    let why = "no interface leads out of this host; give an address that clients reach with .advertise(\"host:port\")";
    ip.map(|ip| SocketAddr::new(ip, bound.port()))
        .ok_or_else(|| Error::Advertise {
            address: bound.to_string(),
            why,
        })
}

/// Completes a given address with the bound port if it has none or 0, and with brackets for IPv6.
fn complete(given: &str, bound: u16) -> Result<String, Error> {
    if let Ok(ip) = given.trim_matches(['[', ']']).parse() {
        return Ok(SocketAddr::new(ip, bound).to_string());
    }
    let wrong = || Error::Advertise {
        address: given.to_owned(),
        why: "it is no host:port; write IPv6 as [::1]:8080",
    };
    let (host, port) = split(given, bound)
        .filter(|(host, _)| !host.is_empty())
        .ok_or_else(wrong)?;
    let port = if port == 0 { bound } else { port };
    Ok(if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    })
}

/// Splits an address into the host, without brackets, and the port, `default` if there is none.
fn split(address: &str, default: u16) -> Option<(&str, u16)> {
    match address.rsplit_once(':') {
        Some((host, port)) => Some((host.trim_matches(['[', ']']), port.parse().ok()?)),
        None => Some((address, default)),
    }
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<IpAddr>()
            .is_ok_and(|ip| ip.to_canonical().is_loopback())
}

fn is_unspecified(host: &str) -> bool {
    host.is_empty()
        || host
            .parse::<IpAddr>()
            .is_ok_and(|ip| ip.to_canonical().is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUT: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));

    fn remote(given: Option<&str>, bound: &str) -> Result<String, String> {
        advertised(given, bound.parse().unwrap(), false, |_| Some(OUT))
            .map_err(|error| error.to_string())
    }

    fn near(given: Option<&str>, bound: &str) -> Result<String, String> {
        advertised(given, bound.parse().unwrap(), true, |_| Some(OUT))
            .map_err(|error| error.to_string())
    }

    fn ok(address: &str) -> Result<String, String> {
        Ok(address.to_owned())
    }

    #[test]
    fn what_is_bound_is_made_specific() {
        assert_eq!(remote(None, "198.51.100.9:80"), ok("198.51.100.9:80"));
        assert_eq!(remote(None, "0.0.0.0:80"), ok("198.51.100.7:80"));
        assert_eq!(near(None, "0.0.0.0:80"), ok("127.0.0.1:80"));
        assert_eq!(near(None, "[::]:80"), ok("[::1]:80"));
        assert_eq!(near(None, "127.0.0.1:80"), ok("127.0.0.1:80"));
    }

    #[test]
    fn what_is_given_gets_the_bound_port_if_it_has_none() {
        for (given, expected) in [
            ("greeter.example", "greeter.example:80"),
            ("greeter.example:0", "greeter.example:80"),
            ("greeter.example:443", "greeter.example:443"),
            ("198.51.100.9", "198.51.100.9:80"),
            ("2001:db8::7", "[2001:db8::7]:80"),
            ("[2001:db8::7]", "[2001:db8::7]:80"),
            ("[2001:db8::7]:9", "[2001:db8::7]:9"),
        ] {
            assert_eq!(remote(Some(given), "0.0.0.0:80"), ok(expected), "{given}");
        }
    }

    #[test]
    fn what_clients_could_not_call_is_refused_with_what_to_do() {
        let error = |result: Result<String, String>| result.unwrap_err();
        insta::assert_snapshot!(error(remote(None, "127.0.0.1:80")), @r#"cannot advertise 127.0.0.1:80: clients of this registry may be on other hosts; bind an address they reach, give it with .advertise("host:port"), or allow it with .allow_loopback(true)"#);
        assert_eq!(
            error(remote(Some("localhost:80"), "0.0.0.0:80"))
                .split(':')
                .next(),
            Some("cannot advertise localhost")
        );
        assert!(remote(Some("[::ffff:127.0.0.1]:80"), "0.0.0.0:80").is_err());
        insta::assert_snapshot!(error(near(Some("0.0.0.0:80"), "0.0.0.0:80")), @r#"cannot advertise 0.0.0.0:80: it names no host; give one that clients reach with .advertise("host:port")"#);
        insta::assert_snapshot!(error(near(Some("a:b"), "0.0.0.0:80")), @"cannot advertise a:b: it is no host:port; write IPv6 as [::1]:8080");
        assert!(near(Some(":80"), "0.0.0.0:80").is_err());
        let nowhere = advertised(None, "0.0.0.0:80".parse().unwrap(), false, |_| None);
        insta::assert_snapshot!(nowhere.unwrap_err(), @r#"cannot advertise 0.0.0.0:80: no interface leads out of this host; give an address that clients reach with .advertise("host:port")"#);
    }
}
