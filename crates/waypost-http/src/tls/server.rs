//! Handshakes of a server.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use super::config::ServerTlsConfig;
use super::explain::{is_end, is_plaintext, server_text};
use super::pem::TlsError;
use super::reload::Reloading;

/// Byte stream of a client whose handshake is complete.
pub type TlsStream<Io> = tokio_rustls::server::TlsStream<Io>;

/// Maximum time for a refused client to read the reason and to close.
const LINGER: Duration = Duration::from_secs(1);

/// Maximum number of bytes that are read from a refused client.
const LINGER_BYTES: u64 = 64 * 1024;

/// Acceptor of TLS connections. Clones share the certificates.
#[derive(Clone, Debug)]
pub struct TlsAcceptor {
    tls: Arc<Reloading<ServerTlsConfig>>,
}

/// Error of a handshake on the server. The connection is closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AcceptError {
    /// The client's first bytes are not TLS.
    #[error("the client does not speak TLS")]
    Plaintext,
    /// The client closed the connection, as port probes and cancelled connects do.
    #[error("the client closed the connection during the TLS handshake")]
    Closed,
    /// The client did not complete the handshake in time.
    #[error("no TLS handshake within {0:?}")]
    Timeout(Duration),
    /// The client or its certificate was refused, or the client refused the server's.
    #[error("{0}")]
    Refused(String),
}

impl TlsAcceptor {
    /// Reads the certificates.
    ///
    /// # Errors
    /// [`TlsError`] names the part that cannot be used.
    pub fn new(config: ServerTlsConfig) -> Result<Self, TlsError> {
        Ok(Self {
            tls: Arc::new(Reloading::new(config)?),
        })
    }

    /// Completes the handshake of an accepted connection, within
    /// [`handshake_timeout`](ServerTlsConfig::handshake_timeout).
    ///
    /// # Errors
    /// [`AcceptError`] if there is none; the connection is closed, and the client is told the reason
    /// if it speaks TLS.
    ///
    /// # Cancel safety
    /// If dropped, the connection is closed.
    pub async fn accept<Io>(&self, io: Io) -> Result<TlsStream<Io>, AcceptError>
    where
        Io: AsyncRead + AsyncWrite + Unpin,
    {
        let limit = self.tls.config().handshake_timeout;
        let acceptor = tokio_rustls::TlsAcceptor::from(self.tls.current(Instant::now()));
        let accepted = timeout(limit, acceptor.accept(io).into_fallible()).await;
        let (error, io) = match accepted {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(refused)) => refused,
            Err(_) => return Err(AcceptError::Timeout(limit)),
        };
        if is_end(error.kind()) {
            return Err(AcceptError::Closed);
        }
        linger(io).await;
        Err(if is_plaintext(&error) {
            AcceptError::Plaintext
        } else {
            AcceptError::Refused(server_text(&error))
        })
    }
}

/// Closes a connection so that the client can read the alert that was sent. If a socket is closed
/// with unread bytes, the system resets the connection, and the client may lose the alert.
async fn linger(mut io: impl AsyncRead + AsyncWrite + Unpin) {
    let close = async {
        io.shutdown().await?;
        let mut rest = io.take(LINGER_BYTES);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
        io::Result::Ok(())
    };
    // The connection is closed in any case.
    let _ = timeout(LINGER, close).await;
}
