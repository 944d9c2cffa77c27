//! One connection to one address, for clients of a server rather than of a service, such as a
//! registry.
//!
//! [`DirectConnection`] sends requests; [`ConnectionDriver`] is the task that must run meanwhile.
//! Requests are neither retried nor balanced here: the owner knows their meaning, and where else
//! they could be sent.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::RecvStream;
use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri, Version};
use http_body::{Body, Frame};
use tokio::time::Instant;
use waypost_core::record::Address;

use crate::call::response::poll_received;
use crate::call::{BodyGuard, BodyTask, ReplayBody};
use crate::conn::connect::{AddressPolicy, Connect};
use crate::conn::{
    Connection, ConnectionConfig, Driver, EnhanceYourCalm, EventSender, FrameCounts, handshake,
};
use crate::error::StreamError;
use crate::request_error::BoxError;

/// Maximum number of bytes of a request's body that are sent without a task.
const WHOLE: usize = 64 * 1024;

/// Connection to one server. Clones share it; it closes when the last is dropped and no stream is
/// open.
#[derive(Clone)]
pub struct DirectConnection {
    shared: Arc<Shared>,
}

struct Shared {
    connection: Arc<Connection>,
    counts: Arc<FrameCounts>,
    scheme: Scheme,
    authority: Authority,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.connection.drain();
    }
}

impl fmt::Debug for DirectConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared {
            authority,
            connection,
            ..
        } = &*self.shared;
        f.debug_struct("DirectConnection")
            .field("authority", authority)
            .field("connection", connection)
            .finish()
    }
}

impl DirectConnection {
    /// Connects and waits for the server's SETTINGS. No further data is read or written until its
    /// [`ConnectionDriver`] runs.
    ///
    /// # Errors
    /// The address cannot be dialled, the peer is not an HTTP/2 server, or the policy forbids the
    /// address.
    ///
    /// # Cancel safety
    /// If dropped, nothing is left. There is no deadline: the config's `connect_timeout` is the
    /// caller's to apply.
    pub async fn connect(
        connect: &dyn Connect,
        address: &Address,
        policy: &AddressPolicy,
        config: &ConnectionConfig,
    ) -> io::Result<(Self, ConnectionDriver)> {
        let authority: Authority = address.to_string().parse().map_err(io::Error::other)?;
        let begun = Instant::now();
        let io = connect.connect(address, policy).await?;
        let handshake = handshake(io).await.map_err(io::Error::other)?;
        let counts = Arc::clone(&handshake.counts);
        let (driver, connection) =
            Driver::new(handshake, config, EnhanceYourCalm::default(), begun);
        let shared = Arc::new(Shared {
            connection,
            counts,
            scheme: connect.scheme(),
            authority,
        });
        Ok((Self { shared }, ConnectionDriver(driver)))
    }

    /// Returns true if the connection had not ended when it was last driven.
    pub fn is_open(&self) -> bool {
        self.shared.connection.end_reason().is_none()
    }

    /// Returns the number of bytes read so far, for all responses together.
    pub fn read_bytes(&self) -> u64 {
        self.shared.counts.totals().bytes
    }

    /// Sends one request; the response's body is read from [`DirectBody`].
    ///
    /// # Errors
    /// The connection is lost or closing, or the server reset the stream. The request may or may
    /// not have been received.
    ///
    /// # Cancel safety
    /// If dropped, the stream is reset.
    pub async fn send<B>(&self, request: Request<B>) -> Result<Response<DirectBody>, StreamError>
    where
        B: Body + Unpin + Send + 'static,
        B::Data: Buf + Send,
        B::Error: Into<BoxError>,
    {
        let (parts, body) = request.into_parts();
        let mut head = Request::new(());
        *head.method_mut() = parts.method;
        *head.version_mut() = Version::HTTP_2;
        *head.uri_mut() = self.target(parts.uri);
        *head.headers_mut() = parts.headers;
        let stream = OpenStream::new(Arc::clone(&self.shared));
        let opened = self.shared.connection.open_when_ready(head).await;
        let (response, mut send) = opened.map_err(StreamError::new)?;
        let mut body = ReplayBody::new(body, WHOLE);
        poll_fn(|cx| {
            body.fill(cx);
            Poll::Ready(())
        })
        .await;
        let task = if body.is_complete() {
            body.send_whole(&mut send).map_err(StreamError::new)?;
            None
        } else {
            Some(BodyTask::spawn(body, send).into_guard())
        };
        let response = response.await.map_err(StreamError::new)?;
        Ok(response.map(|recv| DirectBody {
            recv,
            done: false,
            _body: task,
            _stream: stream,
        }))
    }

    fn target(&self, uri: Uri) -> Uri {
        let mut parts = uri.into_parts();
        parts.scheme = Some(self.shared.scheme.clone());
        parts.authority = Some(self.shared.authority.clone());
        Uri::from_parts(parts).unwrap_or_default()
    }
}

/// Guard that counts an open stream until dropped, and keeps the connection open.
struct OpenStream(Arc<Shared>);

impl OpenStream {
    fn new(shared: Arc<Shared>) -> Self {
        shared.connection.begin_stream();
        Self(shared)
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.connection.release();
    }
}

/// Body of a response. Dropped early, it resets the stream. The request's body is sent for as long
/// as this lives.
pub struct DirectBody {
    recv: RecvStream,
    done: bool,
    _body: Option<Box<BodyGuard>>,
    _stream: OpenStream,
}

impl fmt::Debug for DirectBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirectBody")
            .field("done", &self.done)
            .finish_non_exhaustive()
    }
}

impl Body for DirectBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.done {
            return Poll::Ready(None);
        }
        let next = ready!(poll_received(&mut self.recv, cx));
        let is_data = matches!(&next, Some(Ok(frame)) if frame.is_data());
        self.done = !is_data;
        Poll::Ready(next.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.done || self.recv.is_end_stream()
    }
}

/// Driver of a connection. The caller runs it in a task; if dropped, the connection is closed.
#[derive(Debug)]
pub struct ConnectionDriver(Driver);

impl ConnectionDriver {
    /// Drives the connection until it ends.
    ///
    /// # Errors
    /// The reason of the end, unless its handles closed it.
    ///
    /// # Cancel safety
    /// If it is dropped, the connection is closed, and its calls fail.
    pub async fn run(self) -> Result<(), BoxError> {
        // The owner learns of the end from this future, and asks the handle for the rest.
        let mut events = EventSender::new(|_| {});
        Ok(self.0.run(&mut events).await?)
    }
}
