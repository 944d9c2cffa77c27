// Plain HTTP servers of the documentation's examples, and their protocol. Each example includes this file.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::Empty;
use tokio::net::TcpListener;
use waypost_core::record::Address;
use waypost_core::static_list::StaticRegistry;
use waypost_http::{BodyError, BoxError, ChannelConfig, Client, ClientConfig};
use waypost_http::{Protocol, Pushback, ResponseClass, ServiceChannel};

/// Protocol of plain HTTP.
#[derive(Debug)]
struct PlainHttp;

impl Protocol for PlainHttp {
    fn timeout(&self, _: &HeaderMap) -> Option<Duration> {
        None
    }

    fn prepare(&self, _: &mut HeaderMap, _: u32, _: Option<Duration>) {}

    fn classify_head(&self, status: StatusCode, _: &HeaderMap) -> ResponseClass {
        match status.as_u16() {
            503 => ResponseClass::Unavailable(Pushback::None),
            500..=599 => ResponseClass::NodeFailed,
            _ => ResponseClass::Success,
        }
    }

    fn classify_trailers(&self, _: &HeaderMap) -> ResponseClass {
        ResponseClass::Success
    }

    fn body_error(&self, error: BodyError) -> BoxError {
        error.into()
    }
}

/// Serves one connection: each request gets this status and no body.
async fn serve_connection(io: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin, status: u16) {
    let mut connection = h2::server::handshake(io).await.unwrap();
    while let Some(Ok((_, mut respond))) = connection.accept().await {
        let response = Response::builder().status(status).body(()).unwrap();
        respond.send_response(response, true).unwrap();
    }
}

/// Starts a server whose responses have this status.
async fn serve(status: u16) -> Address {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            tokio::spawn(serve_connection(io, status));
        }
    });
    address.to_string().parse().unwrap()
}

/// Starts a server that freezes once a connection is open.
async fn serve_frozen() -> Address {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut frozen = Vec::new();
        while let Ok((io, _)) = listener.accept().await {
            frozen.push(h2::server::handshake(io).await);
        }
    });
    address.to_string().parse().unwrap()
}

/// Returns a client of a service with one node.
fn client_of(node: Address) -> Client {
    Client::new(nodes([node]), ClientConfig::default())
}

/// Returns a channel to the service.
fn channel(client: &Client, config: ChannelConfig) -> ServiceChannel {
    client.channel("users".parse().unwrap(), config, Arc::new(PlainHttp))
}

/// Returns a registry with these nodes.
fn nodes(addresses: impl IntoIterator<Item = Address>) -> StaticRegistry {
    StaticRegistry::new(addresses, "http")
}
