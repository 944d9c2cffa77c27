//! HTTP/2 transport with balanced, retried calls.
//!
//! A [`Client`] has one directory and, for each service in use, one task that owns its peers. The
//! task connects the nodes, follows the events of their connections, and publishes the ready peers
//! to the balancers. A [`ServiceChannel`] makes calls: it picks a node, sends the request,
//! classifies the result, and may retry. The [`Protocol`] defines the meaning of a response; this
//! crate never knows gRPC, nor the registry behind the directory.
//!
//! The modules, each importing only those before it: `retry` (retry policy, budget and decision),
//! `request_error`, `error`, `protocol`, `conn` and `tls` (one connection), `config`, `pool` (a
//! service's peers), `client`, `service` (one channel's membership in a pool), `call` (the attempts
//! of a call), `channel`, `direct` (one connection without balancing).

#![cfg_attr(docsrs, feature(doc_cfg))]

mod call;
mod channel;
mod client;
mod config;
mod conn;
pub mod direct;
mod error;
mod pool;
mod protocol;
mod request_error;
mod retry;
mod service;
#[cfg(feature = "tls")]
mod tls;

pub use call::PickKey;
pub use call::response::{ResponseBody, ServedBy};
pub use channel::{ChannelSnapshot, NotReady, ServiceChannel};
pub use client::Client;
pub use config::{ChannelConfig, ClientConfig, ReconnectConfig, StallConfig};
pub use conn::connect::{AddressPolicy, BoxIo, Connect, Connecting, Io, TcpConnect};
pub use conn::route::{local_addresses, outbound_addresses};
pub use conn::{ConnectionConfig, Silence};
pub use error::{BodyError, CallError, FailureKind, ProtocolMismatch, ServiceReport, StreamError};
pub use protocol::{Protocol, ResponseClass};
pub use request_error::{BoxError, RequestError};
pub use retry::{AttemptHistory, AttemptRecord, BudgetConfig, Policy, Pushback};
#[cfg(feature = "tls")]
pub use tls::{
    AcceptError, Pem, ServerTlsConfig, TlsAcceptor, TlsConfig, TlsConnect, TlsError, TlsIdentity,
    TlsStream,
};
