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

/// When a lost connection is opened again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReconnectConfig {
    /// Delay between two attempts to connect one node. Default 50 ms to 5 s.
    pub backoff: BackoffConfig,
    /// Age from which a connection ends all back-off and, when lost, is replaced at once. Default 1 s.
    pub settled_after: Duration,
}

impl Default for ReconnectConfig {
    fn default() -> Self {
        Self {
            backoff: BackoffConfig { initial: Duration::from_millis(50), max: Duration::from_secs(5) },
            settled_after: Duration::from_secs(1),
        }
    }
}

/// What the channels of a client share. Every duration may be [`Duration::MAX`], which means never.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// How the snapshots of each service are kept.
    pub directory: directory::Config,
    /// Dialling, windows and keep-alive of each connection.
    pub connection: ConnectionConfig,
    /// When lost connections are opened again.
    pub reconnect: ReconnectConfig,
    /// Retries that a service may cost. Default 20 % of its calls and ten a second.
    pub budget: BudgetConfig,
    /// Addresses that may be dialled. Default: loopback only where the registry is on this host.
    pub addresses: Option<AddressPolicy>,
    /// Number of calls of one service that may wait for a node; one more fails at once. Default 100 000.
    pub waiting_calls: usize,
    /// Bytes of kept requests of one service that may wait for a node; one more fails at once. Default 64 MiB.
    pub waiting_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            directory: directory::Config::default(),
            connection: ConnectionConfig::default(),
            reconnect: ReconnectConfig::default(),
            budget: BudgetConfig::default(),
            addresses: None,
            waiting_calls: 100_000,
            waiting_bytes: 64 << 20,
        }
    }
}

/// How one channel makes its calls. Every duration may be [`Duration::MAX`], which means never.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ChannelConfig {
    /// Nodes that may be picked, and how.
    pub balance: balance::Config,
    /// Subsets prepared by name: the channel's filters and these.
    pub subsets: HashMap<String, Filters>,
    /// Methods that may be sent twice, and how often.
    pub policy: Arc<Policy>,
    /// Methods that the client knows, by full path, beside those of the nodes' records.
    pub methods: HashMap<String, Method>,
    /// How long a call waits for a ready node, within its deadline. Default none: until its deadline while nodes are known, and 3 s where
    /// none is.
    pub ready_wait: Option<Duration>,
    /// Deadline of calls that set none, streams apart. Default none: 30 s for methods known to be unary, no deadline for unknown ones. One
    /// that is given holds for unknown methods too.
    pub default_timeout: Option<Duration>,
    /// Bytes of a request's body that are kept to be sent again. Default 64 KiB; a body in one piece is kept whole.
    pub replay_limit: usize,
}

impl Default for ChannelConfig {
    fn default() -> Self {
        Self {
            balance: balance::Config::default(),
            subsets: HashMap::new(),
            policy: Arc::default(),
            methods: HashMap::new(),
            ready_wait: None,
            default_timeout: None,
            replay_limit: 64 * 1024,
        }
    }
}
