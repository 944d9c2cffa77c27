//! Hosts on one machine: network namespaces joined by a bridge, for tests of traffic that crosses a
//! network. Needs Linux, root and iproute2; elsewhere [`Net::start`] returns the reason.

use std::fmt;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::Program;

/// Reason why there can be no network namespaces here; a test prints it and ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skip(String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "skipped: no network namespaces here (root and iproute2 are needed): {}",
            self.0
        )
    }
}

impl std::error::Error for Skip {}

/// Hosts at 10.77.0.1, 10.77.0.2 … that reach each other and nothing else: neither this machine's
/// loopback nor its network. When dropped, the namespaces are deleted; programs in them should have
/// ended before.
#[derive(Debug)]
pub struct Net {
    /// Namespace of the bridge.
    hub: Namespace,
    hosts: Vec<Host>,
}

/// Host of a [`Net`].
#[derive(Debug)]
pub struct Host {
    namespace: Namespace,
    address: Ipv4Addr,
    /// Bridge's end of the host's cable (veth).
    port: String,
}

impl Host {
    /// Returns the address of the host.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Runs one command of `ip` on the host, such as `address add 10.78.0.1/24 dev eth0`, to give it
    /// other addresses, links or routes. Its own link is `eth0`.
    ///
    /// # Errors
    /// The system refuses.
    pub fn ip(&self, command: &str) -> Result<(), Skip> {
        self.namespace.ip(command)
    }

    /// Returns the same program, started on this host; it keeps the process id that it is started
    /// with.
    pub fn program(&self, program: Program) -> Program {
        program.under("ip", ["netns", "exec", &self.namespace.0])
    }
}

impl Net {
    /// Creates this many hosts, up to 250.
    ///
    /// # Errors
    /// This machine does not allow it; the [`Skip`] names the cause.
    pub fn start(hosts: u8) -> Result<Self, Skip> {
        static NETS: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "waypost-{}-{}",
            std::process::id(),
            NETS.fetch_add(1, Ordering::Relaxed)
        );
        let hub = Namespace::new(format!("{name}-hub"))?;
        hub.ip("link add bridge type bridge")?;
        hub.ip("link set bridge up")?;
        let mut net = Self {
            hub,
            hosts: Vec::new(),
        };
        for number in 1..=hosts.min(250) {
            let host = net.host_numbered(&name, number)?;
            net.hosts.push(host);
        }
        Ok(net)
    }

    /// Returns the host at `index`, counted from 0.
    ///
    /// # Panics
    /// There are fewer hosts.
    #[track_caller]
    pub fn host(&self, index: usize) -> &Host {
        &self.hosts[index]
    }

    /// Disconnects a host: all packets from it and to it are lost, without notice.
    ///
    /// # Errors
    /// The system refuses.
    pub fn cut(&self, index: usize) -> Result<(), Skip> {
        self.hub
            .ip(&format!("link set {} nomaster", self.host(index).port))
    }

    /// Connects the host again.
    ///
    /// # Errors
    /// The system refuses.
    pub fn join(&self, index: usize) -> Result<(), Skip> {
        self.hub
            .ip(&format!("link set {} master bridge", self.host(index).port))
    }

    fn host_numbered(&self, name: &str, number: u8) -> Result<Host, Skip> {
        let (namespace, port) = (
            Namespace::new(format!("{name}-{number}"))?,
            format!("port{number}"),
        );
        let address = Ipv4Addr::new(10, 77, 0, number);
        self.hub.ip(&format!(
            "link add {port} type veth peer name eth0 netns {}",
            namespace.0
        ))?;
        self.hub.ip(&format!("link set {port} master bridge up"))?;
        namespace.ip(&format!("address add {address}/24 dev eth0"))?;
        namespace.ip("link set eth0 up")?;
        namespace.ip("link set lo up")?;
        Ok(Host {
            namespace,
            address,
            port,
        })
    }
}

/// Network namespace that is deleted when dropped.
#[derive(Debug)]
struct Namespace(String);

impl Namespace {
    fn new(name: String) -> Result<Self, Skip> {
        ip(["netns", "add", &name])?;
        Ok(Self(name))
    }

    /// Runs one command of `ip` in the namespace.
    fn ip(&self, command: &str) -> Result<(), Skip> {
        ip(["-netns", &self.0].into_iter().chain(command.split(' ')))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = ip(["netns", "delete", &self.0]);
    }
}

fn ip<'a>(args: impl IntoIterator<Item = &'a str>) -> Result<(), Skip> {
    let mut command = Command::new("ip");
    command.args(args).stdin(Stdio::null());
    let output = command
        .output()
        .map_err(|error| Skip(format!("ip does not start: {error}")))?;
    let failure = || {
        Skip(format!(
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ))
    };
    if output.status.success() {
        Ok(())
    } else {
        Err(failure())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_states_what_is_needed_with_the_output() {
        let skip = ip(["netns", "delete", "waypost-none"])
            .unwrap_err()
            .to_string();
        assert!(
            skip.starts_with(
                "skipped: no network namespaces here (root and iproute2 are needed): "
            ),
            "{skip}"
        );
        assert!(
            skip.contains("waypost-none") || skip.contains("ip does not start"),
            "{skip}"
        );
    }
}
