//! Types of names and addresses. They are checked on registration, not on reads.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// Error of an invalid name or address: the reason, and the fix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} {why}", self.what())]
pub struct NameError {
    what: &'static str,
    given: String,
    why: &'static str,
}

impl NameError {
    /// Returns the rejected text, such as `service name "a/b"`, truncated to 64 characters.
    pub fn what(&self) -> String {
        format!("{} {:?}", self.what, excerpt(&self.given))
    }

    /// Returns the reason and the fix.
    pub fn why(&self) -> &'static str {
        self.why
    }
}

fn excerpt(given: &str) -> String {
    const LONGEST: usize = 64;
    match given.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &given[..end]),
        None => given.to_owned(),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $longest:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// Maximum length in bytes.
            pub const LONGEST: usize = $longest;

            /// Returns the name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(given: &str) -> Result<Self, NameError> {
                let too_long = concat!("is too long: use at most ", $longest, " characters");
                let checked = if given.len() > Self::LONGEST { Err(too_long) } else { check(given) };
                checked.map_err(|why| NameError { what: $what, given: given.to_owned(), why })?;
                Ok(Self(given.to_owned()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// Name of a service: `[a-zA-Z0-9][a-zA-Z0-9._-]{0,127}` without `..`, so that it is one level
    /// of a registry's tree.
    ///
    /// ```
    /// use waypost_core::record::ServiceName;
    ///
    /// let name: ServiceName = "shop.greeter".parse()?;
    /// assert_eq!(name.as_str(), "shop.greeter");
    ///
    /// let error = "shop/greeter".parse::<ServiceName>().unwrap_err();
    /// assert_eq!(error.what(), "service name \"shop/greeter\"");
    /// # Ok::<(), waypost_core::record::NameError>(())
    /// ```
    ServiceName, "service name", 128
}
name! {
    /// Id of a node. The rule is that of a [`ServiceName`], but with up to 255 bytes, since the id
    /// begins with the service's name.
    NodeId, "node id", 255
}

fn check(given: &str) -> Result<(), &'static str> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if given.is_empty() {
        Err("is empty: give it letters, digits, '.', '_' and '-'")
    } else if !given.bytes().all(allowed) {
        Err("has a character that is not allowed: use only a-z, A-Z, 0-9, '.', '_' and '-'")
    } else if !given.as_bytes()[0].is_ascii_alphanumeric() {
        Err("does not begin with a letter or digit: put one in front")
    } else if given.contains("..") {
        Err("has two dots in a row: use one")
    } else {
        Ok(())
    }
}

/// Address that can be dialled, as `host:port`.
///
/// ```
/// use waypost_core::record::Address;
///
/// let address: Address = "[::1]:9001".parse()?;
/// assert_eq!((address.host.as_str(), address.port), ("::1", 9001));
/// assert!(address.is_loopback());
///
/// let error = "http://10.0.0.7:9001".parse::<Address>().unwrap_err();
/// assert_eq!(error.why(), "is a URL: give host:port without the scheme");
/// # Ok::<(), waypost_core::record::NameError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// Host name or IP address, without brackets. An IPv6 address may have a zone, as in
    /// `fe80::1%eth0`.
    pub host: String,
    /// Port; never 0.
    pub port: u16,
}

impl Address {
    /// Returns true for the address of every interface, `0.0.0.0` or `[::]`, which no client can
    /// dial.
    pub fn is_unspecified(&self) -> bool {
        self.ip().is_some_and(|ip| ip.is_unspecified())
    }

    /// Returns true for an address of this host only: `127.0.0.0/8`, `[::1]`, `localhost`.
    pub fn is_loopback(&self) -> bool {
        self.host.eq_ignore_ascii_case("localhost") || self.ip().is_some_and(|ip| ip.is_loopback())
    }

    /// Parses `host[:port]`. `port` stands in for a missing port and for port 0; without a port,
    /// the brackets of an IPv6 address may be missing too.
    ///
    /// ```
    /// use waypost_core::record::Address;
    ///
    /// assert_eq!(Address::with_default_port("users.example", 80)?.to_string(), "users.example:80");
    /// assert_eq!(Address::with_default_port("2001:db8::7", 80)?.to_string(), "[2001:db8::7]:80");
    /// # Ok::<(), waypost_core::record::NameError>(())
    /// ```
    ///
    /// # Errors
    /// [`NameError`] with the reason and the fix, as for `host:port`.
    pub fn with_default_port(given: &str, port: u16) -> Result<Self, NameError> {
        let completed = match given.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, port).to_string(),
            Err(_) => match given.rsplit_once(':') {
                None => format!("{given}:{port}"),
                Some((host, "0")) => format!("{host}:{port}"),
                Some(_) => given.to_owned(),
            },
        };
        parse(&completed).map_err(|why| NameError {
            what: "address",
            given: given.to_owned(),
            why,
        })
    }

    fn ip(&self) -> Option<IpAddr> {
        self.host.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
    }
}

impl FromStr for Address {
    type Err = NameError;

    fn from_str(given: &str) -> Result<Self, NameError> {
        parse(given).map_err(|why| NameError {
            what: "address",
            given: given.to_owned(),
            why,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

fn parse(given: &str) -> Result<Address, &'static str> {
    if given.contains("://") {
        return Err("is a URL: give host:port without the scheme");
    }
    let (host, port) = match given.strip_prefix('[') {
        Some(bracketed) => bracketed
            .rsplit_once(']')
            .and_then(|(host, rest)| Some((host, rest.strip_prefix(':')?))),
        None => given.rsplit_once(':'),
    }
    .ok_or("has no port: give host:port, such as 10.0.0.7:8080 or [::1]:8080")?;
    let check = if given.starts_with('[') {
        check_ipv6
    } else {
        check_host
    };
    check(host)?;
    Ok(Address {
        host: host.to_owned(),
        port: parse_port(port)?,
    })
}

fn check_ipv6(host: &str) -> Result<(), &'static str> {
    let (address, zone) = host.split_once('%').unwrap_or((host, "-"));
    let is_zone = !zone.is_empty() && zone.bytes().all(is_host_byte);
    if is_zone && address.parse::<Ipv6Addr>().is_ok() {
        Ok(())
    } else {
        Err(
            "has no IPv6 address in its brackets: give [address]:port, such as [::1]:8080 or [fe80::1%eth0]:8080",
        )
    }
}

fn check_host(host: &str) -> Result<(), &'static str> {
    const LONGEST: usize = 253;
    if host.is_empty() {
        Err("has no host: give host:port, such as 10.0.0.7:8080")
    } else if host.contains(':') {
        Err(
            "has more than one colon: give host:port, and an IPv6 address in brackets, such as [::1]:8080",
        )
    } else if host.len() > LONGEST {
        Err("has too long a host: use at most 253 characters")
    } else if !host.bytes().all(is_host_byte) {
        Err(
            "has a host that is neither a name nor an IP address: give host:port without user, path or spaces",
        )
    } else {
        Ok(())
    }
}

fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

fn parse_port(port: &str) -> Result<u16, &'static str> {
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse() {
        Ok(0) => Err("has port 0: give the port that the server really listens on"),
        Ok(port) if digits => Ok(port),
        _ => Err("has a bad port: give a number from 1 to 65535"),
    }
}
