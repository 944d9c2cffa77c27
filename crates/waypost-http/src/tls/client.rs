//! Connector for TCP with TLS.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::uri::Scheme;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use waypost_core::balance::Filter;
use waypost_core::record::Address;

use super::config::TlsConfig;
use super::explain::client_error;
use super::pem::TlsError;
use super::reload::Reloading;
use crate::conn::connect::{AddressPolicy, BoxIo, Connect, Connecting, dial};

/// Placeholder of the service's name in a server name.
const SERVICE: &str = "{service}";

/// Connector for TCP with TLS 1.2 or 1.3. The server's certificate is verified against its name;
/// the client presents a certificate if an identity is configured.
#[derive(Clone)]
pub struct TlsConnect {
    tls: Arc<Reloading<TlsConfig>>,
    default_name: DefaultName,
}

/// Name that a server must prove if none is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DefaultName {
    Service,
    Host,
}

impl fmt::Debug for TlsConnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConnect")
            .field("config", &self.tls)
            .field("default_name", &self.default_name)
            .finish()
    }
}

impl TlsConnect {
    /// Creates the connector for nodes of services. Reads the certificates, without dialling.
    ///
    /// # Errors
    /// [`TlsError`] names the part that cannot be used.
    pub fn new(config: TlsConfig) -> Result<Self, TlsError> {
        Self::with_default(config, DefaultName::Service)
    }

    /// Creates the connector for addresses that are configuration themselves, such as the members of
    /// a registry: without a configured name, the server must prove the host that is dialled.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn to_hosts(config: TlsConfig) -> Result<Self, TlsError> {
        Self::with_default(config, DefaultName::Host)
    }

    fn with_default(config: TlsConfig, default_name: DefaultName) -> Result<Self, TlsError> {
        if let Some(name) = &config.server_name {
            server_name(&name.replace(SERVICE, "service"))?;
        }
        Ok(Self {
            tls: Arc::new(Reloading::new(config)?),
            default_name,
        })
    }

    /// Returns the settings.
    pub fn config(&self) -> &TlsConfig {
        self.tls.config()
    }

    /// Returns the name that a server must prove.
    fn expected_name(
        &self,
        service: Option<&str>,
        address: &Address,
    ) -> Result<ServerName<'static>, TlsError> {
        let configured = self.config().server_name.as_deref();
        match (configured, self.default_name, service) {
            (None, DefaultName::Host, _) => server_name(&address.host),
            (_, _, Some(service)) => {
                server_name(&configured.unwrap_or(SERVICE).replace(SERVICE, service))
            }
            (Some(name), _, None) => server_name(name),
            (None, DefaultName::Service, None) => Err(TlsError(
                "no server name is configured, and the service is not known to the connector"
                    .to_owned(),
            )),
        }
    }

    async fn dial(
        &self,
        service: Option<&str>,
        address: &Address,
        policy: &AddressPolicy,
    ) -> io::Result<TlsStream<TcpStream>> {
        let name = self
            .expected_name(service, address)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let stream = dial(address, policy).await?;
        let config = self.tls.current(Instant::now());
        TlsConnector::from(config)
            .connect(name, stream)
            .await
            .map_err(|error| self.explained(error))
    }

    /// Returns the error of a handshake in the terms of a service's client. The caller of
    /// [`to_hosts`](Self::to_hosts) has settings of its own to name.
    fn explained(&self, error: io::Error) -> io::Error {
        match self.default_name {
            DefaultName::Service => client_error(error, self.config().identity.is_some()),
            DefaultName::Host => error,
        }
    }
}

impl Connect for TlsConnect {
    fn connect<'a>(&'a self, address: &'a Address, policy: &'a AddressPolicy) -> Connecting<'a> {
        Box::pin(async move { Ok(Box::new(self.dial(None, address, policy).await?) as BoxIo) })
    }

    fn connect_node<'a>(
        &'a self,
        service: &'a str,
        address: &'a Address,
        policy: &'a AddressPolicy,
    ) -> Connecting<'a> {
        Box::pin(async move {
            let stream = self.dial(Some(service), address, policy).await?;
            let connect = self.clone();
            Ok(Box::new(NodeStream { stream, connect }) as BoxIo)
        })
    }

    fn scheme(&self) -> Scheme {
        Scheme::HTTPS
    }

    fn filter(&self) -> Option<Filter> {
        Some(Filter::Tls {
            assume: self.config().assume_tls,
        })
    }
}

fn server_name(name: &str) -> Result<ServerName<'static>, TlsError> {
    let wrong = |_| {
        TlsError(format!(
            "the server name {name:?} is neither a DNS name nor an IP address; {SERVICE} in it is replaced by the service's name"
        ))
    };
    ServerName::try_from(name.to_owned()).map_err(wrong)
}

/// Connection to a node. In TLS 1.3 the server's verdict on the client's certificate arrives after
/// the client's handshake is complete, with the first read.
struct NodeStream {
    stream: TlsStream<TcpStream>,
    connect: TlsConnect,
}

impl AsyncRead for NodeStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        read.map(|read| match read {
            // A process that is killed sends no close_notify. The frames of HTTP/2 show if anything
            // is missing, so that this is the end of the stream, as it is without TLS.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Err(self.connect.explained(error))
            }
            read => read,
        })
    }
}

impl AsyncWrite for NodeStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
