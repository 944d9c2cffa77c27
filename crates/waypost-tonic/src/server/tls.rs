//! Accepted connections over TLS. Each handshake is a task of its own, so that a slow client delays
//! no other; a failed one is logged, and ends nothing but its connection.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tonic::codegen::tokio_stream::Stream;
use waypost_http::{AcceptError, TlsAcceptor, TlsStream};

use super::accept_log::AcceptLog;
use super::connection::{Connection, Incoming};

/// Handshake that has ended.
struct Ended {
    peer: Option<SocketAddr>,
    result: Result<TlsStream<Connection>, AcceptError>,
}

/// Stream of the connections whose handshake is complete. It never ends; dropping it aborts the
/// handshakes in progress.
pub(super) struct TlsIncoming {
    incoming: Incoming,
    acceptor: TlsAcceptor,
    /// The number of file descriptors bounds it, as it bounds the connections of a plain server.
    handshakes: JoinSet<Ended>,
    log: HandshakeLog,
}

impl TlsIncoming {
    pub(super) fn new(incoming: Incoming, acceptor: TlsAcceptor) -> Self {
        Self {
            incoming,
            acceptor,
            handshakes: JoinSet::new(),
            log: HandshakeLog::default(),
        }
    }

    fn start(&mut self, connection: Connection) {
        let acceptor = self.acceptor.clone();
        let peer = connection.peer();
        self.handshakes.spawn(async move {
            let result = acceptor.accept(connection).await;
            Ended { peer, result }
        });
    }

    fn on_ended(&mut self, ended: Result<Ended, JoinError>) -> Option<TlsStream<Connection>> {
        match ended {
            Ok(Ended { peer, result }) => match result {
                Ok(stream) => return Some(stream),
                Err(error) => self.log.on_failure(peer, &error),
            },
            Err(error) => tracing::error!(%error, "TLS handshake panicked"),
        }
        None
    }
}

impl Stream for TlsIncoming {
    type Item = io::Result<TlsStream<Connection>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            while let Poll::Ready(Some(ended)) = this.handshakes.poll_join_next(cx) {
                if let Some(stream) = this.on_ended(ended) {
                    return Poll::Ready(Some(Ok(stream)));
                }
            }
            match Pin::new(&mut this.incoming).poll_next(cx) {
                Poll::Ready(Some(Ok(connection))) => this.start(connection),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

/// Log lines for failed handshakes, one a minute of each kind with a count.
#[derive(Default)]
struct HandshakeLog {
    plaintext: AcceptLog,
    failed: AcceptLog,
}

impl HandshakeLog {
    fn on_failure(&mut self, peer: Option<SocketAddr>, error: &AcceptError) {
        let now = Instant::now();
        match error {
            // Port probes and cancelled connects do this all the time.
            AcceptError::Closed => tracing::debug!(?peer, "TLS handshake ended by the client"),
            AcceptError::Plaintext => {
                if let Some(failures) = self.plaintext.on_failure(now) {
                    tracing::warn!(?peer, failures, "client does not speak TLS");
                }
            }
            error => {
                if let Some(failures) = self.failed.on_failure(now) {
                    tracing::warn!(?peer, failures, %error, "TLS handshake failed");
                }
            }
        }
    }
}
