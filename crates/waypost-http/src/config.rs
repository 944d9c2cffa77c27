//! Settings of a client and of its channels.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use waypost_core::backoff::BackoffConfig;
use waypost_core::balance::{self, Filters};
use waypost_core::directory;
use waypost_core::record::Method;

use crate::conn::ConnectionConfig;
use crate::conn::connect::AddressPolicy;
use crate::retry::{BudgetConfig, Policy};

/// Settings for reopening lost connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReconnectConfig {
    /// Delay between two attempts to connect one node. Default 50 ms to 5 s.
    pub backoff: BackoffConfig,
    /// Minimum age of a settled connection. A settled connection resets the backoff and, when lost,
    /// is replaced at once. Default 1 s.
    pub settled_after: Duration,
}

impl Default for ReconnectConfig {
    fn default() -> Self {
        Self {
            backoff: BackoffConfig {
                initial: Duration::from_millis(50),
                max: Duration::from_secs(5),
            },
            settled_after: Duration::from_secs(1),
        }
    }
}

/// Settings shared by all channels of a client. Every duration may be [`Duration::MAX`], which
/// means never.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientConfig {
    /// Settings of the client's directory, which keeps the snapshots of the services.
    pub directory: directory::Config,
    /// Dialling, windows and keep-alive of each connection.
    pub connection: ConnectionConfig,
    /// Settings for reopening lost connections.
    pub reconnect: ReconnectConfig,
    /// Retry budget of each service. Default 20 % of its calls and ten retries a second.
    pub budget: BudgetConfig,
    /// Addresses that may be dialled. Default: loopback only where the registry is on this host.
    pub addresses: Option<AddressPolicy>,
    /// Maximum number of nodes that are dialled at the same time. Default 16. Dials that take longer
    /// than [`dial_slot_timeout`](ConnectionConfig::dial_slot_timeout) are not counted; at most 512 of them
    /// are in progress. 0 counts as 1.
    pub max_dials: usize,
    /// Maximum number of calls of one service that may wait for a node; one more fails at once.
    /// Default 100 000.
    pub waiting_calls: usize,
    /// Maximum number of request bytes that the waiting calls of one service may buffer; one more
    /// call fails at once. Default 64 MiB.
    pub waiting_bytes: usize,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            directory: directory::Config::default(),
            connection: ConnectionConfig::default(),
            reconnect: ReconnectConfig::default(),
            budget: BudgetConfig::default(),
            addresses: None,
            max_dials: 16,
            waiting_calls: 100_000,
            waiting_bytes: 64 << 20,
        }
    }
}

/// Times after which a waiting call makes its peer stalled. When a call whose request was sent in
/// full has waited for response headers for longer than both `after` and `p50s` × the peer's median,
/// the peer is probed by a PING and is out of the ready set until anything is read from it.
///
/// ```
/// use std::time::Duration;
/// use waypost_http::ChannelConfig;
///
/// // A service whose fastest answers take seconds.
/// let mut config = ChannelConfig::default();
/// config.stall.after = Duration::from_secs(10);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StallConfig {
    /// Minimum wait. Default 1 s. A peer that asked for calm (ENHANCE_YOUR_CALM) has up to four
    /// times as long.
    pub after: Duration,
    /// Minimum wait, in medians of the peer's response times; they count from its 32nd response.
    /// Default 8.
    pub p50s: u32,
}

impl Default for StallConfig {
    fn default() -> Self {
        Self {
            after: Duration::from_secs(1),
            p50s: 8,
        }
    }
}

/// Settings of the calls of one channel. Every duration may be [`Duration::MAX`], which means
/// never.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ChannelConfig {
    /// Filters and strategy by which nodes are picked.
    pub balance: balance::Config,
    /// Named filters: the nodes of each pass the channel's filters and these.
    pub filtered: HashMap<String, Filters>,
    /// Retry policy: the methods that may be sent twice, and the maximum number of attempts.
    pub policy: Arc<Policy>,
    /// Methods known to the client, by full path, in addition to those in the nodes' records.
    pub methods: HashMap<String, Method>,
    /// Maximum time that a call waits for a ready node, within its deadline. Default none: until
    /// its deadline while any node is known, and for [`wait_for_node`](Self::wait_for_node) while
    /// none is.
    pub wait_for_ready: Option<Duration>,
    /// Maximum time that a call waits while the registry knows no node of the service, unless
    /// [`wait_for_ready`](Self::wait_for_ready) is set. Default 3 s.
    pub wait_for_node: Duration,
    /// Conditions under which a peer that does not respond is probed and excluded as stalled.
    pub stall: StallConfig,
    /// Deadline of calls that set none, except streams. Default none: 30 s for methods known to be
    /// unary, no deadline for unknown ones. A configured timeout applies to unknown methods too.
    pub default_timeout: Option<Duration>,
    /// Maximum number of bytes of a request's body that are buffered for a retry. Default 64 KiB. A
    /// body of a single chunk is always buffered whole.
    pub replay_limit: usize,
}

impl Default for ChannelConfig {
    fn default() -> Self {
        Self {
            balance: balance::Config::default(),
            filtered: HashMap::new(),
            policy: Arc::default(),
            methods: HashMap::new(),
            wait_for_ready: None,
            wait_for_node: Duration::from_secs(3),
            stall: StallConfig::default(),
            default_timeout: None,
            replay_limit: 64 * 1024,
        }
    }
}
