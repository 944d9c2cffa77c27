//! Balanced channel to one service, the base of a generated stub.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use tonic::Status;
use tonic::body::Body;
use tower_service::Service;
use waypost_core::record::ServiceName;
use waypost_http::{CallError, ChannelSnapshot, NotReady, ResponseBody, ServiceChannel};

use crate::status;

/// Balanced channel to one service, for unmodified generated stubs: `GreeterClient::new(channel)`,
/// with interceptors and tower layers.
///
/// `Clone + Send + Sync`, and always ready: a call waits for a peer in `call`, within its own
/// deadline. Responses carry [`ServedBy`](waypost_http::ServedBy) as an extension. Errors are
/// [`tonic::Status`].
#[derive(Clone, Debug)]
pub struct Channel {
    inner: ServiceChannel,
}

/// Error of [`Channel::filtered`]: no filters of this name were prepared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{service}: no filters {name:?}; prepare them with ChannelBuilder::filtered")]
#[non_exhaustive]
pub struct UnknownFilters {
    /// Name of the service.
    pub service: String,
    /// Name that was asked for.
    pub name: String,
}

impl Channel {
    pub(crate) fn new(inner: ServiceChannel) -> Self {
        Self { inner }
    }

    /// Returns the service that the channel calls.
    pub fn service(&self) -> &ServiceName {
        self.inner.service()
    }

    /// Waits until a node is ready, as a gate at start-up.
    ///
    /// # Errors
    /// [`NotReady`] with the known state of the service, once the time is over.
    ///
    /// # Cancel safety
    /// Safe: nothing is lost when it is dropped.
    pub async fn ready(&self, timeout: Duration) -> Result<(), NotReady> {
        self.inner.ready(timeout).await
    }

    /// Returns the channel's current view of its service: every node, picked or excluded, with the
    /// reason.
    pub fn snapshot(&self) -> ChannelSnapshot {
        self.inner.snapshot()
    }

    /// Returns the same channel, restricted to the nodes that pass the filters that
    /// [`ChannelBuilder::filtered`](crate::ChannelBuilder::filtered) prepared under this name. While
    /// no node passes them a call waits, and never falls back to all nodes.
    ///
    /// # Errors
    /// [`UnknownFilters`] if no filters of this name were prepared.
    pub fn filtered(&self, name: &str) -> Result<Self, UnknownFilters> {
        let unknown = || UnknownFilters { service: self.service().to_string(), name: name.to_owned() };
        Ok(Self::new(self.inner.filtered(name).ok_or_else(unknown)?))
    }
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = Status;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> ResponseFuture {
        ResponseFuture(Box::pin(self.inner.call(request)))
    }
}

/// Response future of a [`Channel`]. Dropping it ends the call: nothing stays in flight.
#[must_use = "a call is made only when it is polled"]
pub struct ResponseFuture(Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, CallError>> + Send>>);

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, Status>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx).map(|answer| match answer {
            Ok(response) => Ok(response.map(Body::new)),
            Err(error) => Err(status::of_call(error)),
        })
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResponseFuture")
    }
}

#[cfg(test)]
mod tests {
    use waypost_core::memory::MemoryRegistry;
    use waypost_core::registry::AnyRegistry;

    use super::*;
    use crate::Client;

    /// Maximum size in bytes of a block from the per-thread cache of glibc's allocator. A larger
    /// block costs some percent of a call.
    const CACHED: usize = 1_032;

    #[test]
    fn the_future_of_a_call_fits_into_the_allocator_s_cache() {
        let channel = Client::new(AnyRegistry::new(MemoryRegistry::new())).channel("greeter").unwrap();
        let size = size_of_val(&channel.inner.call(Request::new(Body::empty())));
        assert!(size <= CACHED, "{size} bytes");
    }
}
