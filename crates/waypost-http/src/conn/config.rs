//! Settings of one connection.

use std::time::Duration;

/// Schedule of the PINGs that are sent while calls are in flight and the peer is silent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Silence {
    /// After 5, 15 and 45 s without response headers or data, and three PINGs at most until headers
    /// or data are read: within the limits of a default grpc-go server.
    #[default]
    Sparse,
    /// After each such period without any byte read. A gRPC server closes connections with PINGs
    /// that are more frequent than it allows: every 5 s for etcd.
    Every(Duration),
}

/// Settings of the connections to nodes: dialling, windows and keep-alive.
///
/// Every duration may be [`Duration::MAX`], which means never.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionConfig {
    /// Time from the start of a dial to the server's SETTINGS, all addresses of a name included.
    /// Default 2 s.
    pub connect_timeout: Duration,
    /// Maximum time that a dial may hold one of the dial slots. A dial that has not completed by
    /// then continues without one, so that frozen nodes do not delay others. Default 100 ms.
    pub slot_timeout: Duration,
    /// Time without any byte read after which a connection is verified by a PING at its next use.
    /// Default 10 s, less than the idle timeout of every known firewall and load balancer.
    pub idle_timeout: Duration,
    /// Timeout of the PING that verifies an idle connection, or 8 times the last round trip if that
    /// is longer. Default 500 ms.
    pub proof_timeout: Duration,
    /// Timeout of a PING, after which the connection is unresponsive. Default 2 s.
    pub ping_timeout: Duration,
    /// Timeout of a PING, after which the connection is closed with all its calls. Default 8 s, so
    /// that a call on a frozen server ends within 10 s.
    pub close_timeout: Duration,
    /// Schedule of PINGs while the peer is silent. Default [`Silence::Sparse`].
    pub silence: Silence,
}

impl Default for ConnectionConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(2),
            slot_timeout: Duration::from_millis(100),
            idle_timeout: Duration::from_secs(10),
            proof_timeout: Duration::from_millis(500),
            ping_timeout: Duration::from_secs(2),
            close_timeout: Duration::from_secs(8),
            silence: Silence::Sparse,
        }
    }
}
