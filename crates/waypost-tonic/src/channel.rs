//! A balanced channel to one service: what a generated stub is built on.

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

/// A balanced channel to one service, for unchanged generated stubs: `GreeterClient::new(channel)`, with interceptors and tower layers.
///
/// `Clone + Send + Sync`, and always ready: a call waits for a peer in `call`, under its own deadline. Responses carry
/// [`ServedBy`](waypost_http::ServedBy) as an extension. Errors are [`tonic::Status`].
#[derive(Clone, Debug)]
pub struct Channel {
    inner: ServiceChannel,
}

impl Channel {
    pub(crate) fn new(inner: ServiceChannel) -> Self {
        Self { inner }
    }

    /// The service it calls.
    pub fn service(&self) -> &ServiceName {
        self.inner.service()
    }

    /// Waits until a node is ready: the gate at start-up.
    ///
    /// # Errors
    /// [`NotReady`] with what is known, once the time is over.
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub async fn ready(&self, timeout: Duration) -> Result<(), NotReady> {
        self.inner.ready(timeout).await
    }

    /// What it knows of its service now: every node, picked or not, and why.
    pub fn snapshot(&self) -> ChannelSnapshot {
        self.inner.snapshot()
    }

    /// The same channel, confined to a subset that the builder prepared by this name. A subset without nodes waits, and never falls
    /// back to the whole.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if no subset of this name was prepared.
    pub fn subset(&self, name: &str) -> Result<Self, Status> {
        let unknown = || {
            let service = self.service();
            Status::invalid_argument(format!("{service}: no subset {name:?}; prepare it with ChannelBuilder::subset"))
        };
        Ok(Self::new(self.inner.subset(name).ok_or_else(unknown)?))
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

/// A call on a [`Channel`]. Dropped, it ends the call: nothing stays in flight.
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

    /// Blocks up to this size come from the per-thread cache of glibc's allocator; larger ones cost some percent of a call.
    const CACHED: usize = 1_032;

    #[test]
    fn the_future_of_a_call_fits_into_the_allocator_s_cache() {
        let channel = Client::new(AnyRegistry::new(MemoryRegistry::new())).channel("greeter").unwrap();
        let size = size_of_val(&channel.inner.call(Request::new(Body::empty())));
        assert!(size <= CACHED, "{size} bytes");
    }
}
