//! Hands and feet: connections over HTTP/2, and the sender that runs the attempts of a call.
//!
//! A [`Client`] has one directory and, for each service in use, one task that owns its peers: it connects nodes, notices what happens to
//! their connections and tells the balancers who is ready. A [`Sender`] makes calls: pick, send, judge, maybe again. What an answer means
//! is the [`Protocol`]'s to say; this crate never knows gRPC, and never which registry is behind the directory.

mod call;
mod client;
#[expect(dead_code, unused_imports, reason = "the pool moves to this room next")]
mod conn;
mod connection;
mod error;
mod head;
mod link;
mod meter;
mod peers;
mod protocol;
mod request;
mod response;
#[expect(dead_code, unused_imports, unreachable_pub, reason = "the calls still use waypost_core::attempt")]
mod retry;
mod sender;
pub mod single;
#[cfg(feature = "tls")]
mod tls;

pub use call::RequestError;
pub use client::{Client, Config};
pub use conn::ConnectionConfig;
pub(crate) use conn::connect;
pub use connect::{AddressPolicy, BoxIo, Connect, Connecting, Io, TcpConnect};
pub use error::{BodyError, CallError, FailureKind, Report};
pub use protocol::{BoxError, Protocol, Verdict};
pub use response::{Picked, ResponseBody};
pub use sender::{ChannelConfig, ChannelView, NotReady, Sender};
#[cfg(feature = "tls")]
pub use tls::{TlsConfig, TlsConnect};
