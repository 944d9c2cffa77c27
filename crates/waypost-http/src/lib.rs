//! HTTP/2 transport with balanced, retried calls.
//!
//! A [`Client`] has one directory and, for each service in use, one task that owns its peers: it connects nodes, follows their connections,
//! and publishes to the balancers which are ready. A [`ServiceChannel`] makes calls: pick, send, classify, maybe again. What a response means
//! is the [`Protocol`]'s to say; this crate never knows gRPC, and never which registry is behind the directory.
//!
//! The rooms, each importing only those before it: `config`, `retry` (what may be tried again), `conn` (one connection), `pool` (a service's
//! peers), `client`, `channel`, `call` (the attempts of a call).

mod call;
mod channel;
mod client;
mod config;
mod conn;
mod error;
mod pool;
mod protocol;
mod retry;
pub mod single;
#[cfg(feature = "tls")]
mod tls;

pub use call::response::{ResponseBody, ServedBy};
pub use call::{PickKey, RequestError};
pub use channel::{ChannelSnapshot, NotReady, ServiceChannel};
pub use client::Client;
pub use config::{ChannelConfig, Config, ReconnectConfig};
pub use conn::ConnectionConfig;
pub use conn::connect::{AddressPolicy, BoxIo, Connect, Connecting, Io, TcpConnect};
pub use error::{BodyError, CallError, FailureKind, Report};
pub use protocol::{BoxError, Protocol, ResponseClass};
pub use retry::{AttemptHistory, AttemptRecord, BudgetConfig, Policy, Pushback};
#[cfg(feature = "tls")]
pub use tls::{TlsConfig, TlsConnect};
