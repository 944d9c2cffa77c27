//! Settings of one connection.

use std::time::Duration;

/// Schedule of the PINGs that are sent while calls are in flight and the peer is silent.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/plain.rs"));
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use waypost_http::{Client, ClientConfig, FailureKind, Silence};
///
/// let mut config = ClientConfig::default();
/// config.connection.silence = Silence::Every(Duration::from_millis(100));
/// config.connection.close_timeout = Duration::from_millis(200);
///
/// // The only node freezes once it is connected: it acknowledges no PING.
/// # let registry = nodes([serve_frozen().await]);
/// let client = Client::new(registry, config);
/// # let users = channel(&client, ChannelConfig::default());
/// let error = users.call(Request::get("/users").body(Empty::<Bytes>::new())?).await.unwrap_err();
/// assert_eq!(error.kind, FailureKind::NoAnswer);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Silence {
    /// After each of these periods without response headers or data, and three PINGs at most until
    /// headers or data are read: within the limits of a default grpc-go server, which closes the
    /// connection at the fourth. The periods must not decrease.
    Sparse([Duration; 3]),
    /// After each such period without any byte read; less than 10 ms counts as 10 ms. A gRPC server closes connections with PINGs
    /// that are more frequent than it allows: every 5 s for etcd.
    Every(Duration),
}

impl Default for Silence {
    fn default() -> Self {
        Self::Sparse([5, 15, 45].map(Duration::from_secs))
    }
}

/// Settings of the connections to nodes: dialling, windows and keep-alive.
///
/// Every duration may be [`Duration::MAX`], which means never.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/plain.rs"));
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use waypost_http::{Client, ClientConfig};
///
/// let mut config = ClientConfig::default();
/// config.connection.connect_timeout = Duration::from_millis(100);
///
/// // The only node accepts the connection, but never sends SETTINGS.
/// # let silent = TcpListener::bind("127.0.0.1:0").await?;
/// # let registry = nodes([silent.local_addr()?.to_string().parse()?]);
/// let client = Client::new(registry, config);
/// # let users = channel(&client, ChannelConfig::default());
/// let error = users.ready(Duration::from_secs(1)).await.unwrap_err();
/// assert!(error.report.last_failure.is_some_and(|failure| failure.contains("no SETTINGS within 100ms")));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionConfig {
    /// Time from the start of a dial to the server's SETTINGS, all addresses of a name included.
    /// Default 2 s.
    pub connect_timeout: Duration,
    /// Maximum time that a dial may hold one of the dial slots. A dial that has not completed by
    /// then continues without one, so that frozen nodes do not delay others. Default 100 ms.
    pub dial_slot_timeout: Duration,
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
    /// Schedule of PINGs while the peer is silent. Default [`Silence::Sparse`] after 5, 15
    /// and 45 s.
    pub silence: Silence,
}

impl Default for ConnectionConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(2),
            dial_slot_timeout: Duration::from_millis(100),
            idle_timeout: Duration::from_secs(10),
            proof_timeout: Duration::from_millis(500),
            ping_timeout: Duration::from_secs(2),
            close_timeout: Duration::from_secs(8),
            silence: Silence::default(),
        }
    }
}
