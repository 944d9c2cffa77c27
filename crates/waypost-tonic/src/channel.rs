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
/// [`tonic::Status`]. Where a call got no response, the source of the status is a
/// [`CallError`](waypost_http::CallError), whose report counts the excluded nodes by reason;
/// [`snapshot`](Self::snapshot) has the reason of each node.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/greeter.rs"));
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use waypost_http::ServedBy;
///
/// # let registry = registry();
/// # let server = waypost_tonic::Server::builder("greeter", registry.clone()).id("a");
/// # let _server = serving(server, MyGreeter).await;
/// # let client = waypost_tonic::Client::new(registry);
/// let mut greeter = GreeterClient::new(client.channel("greeter")?);
/// let response = greeter.hello(HelloRequest { name: "Ann".into() }).await?;
///
/// let served_by = response.extensions().get::<ServedBy>().ok_or("no node")?;
/// assert_eq!((served_by.node.id.as_str(), served_by.attempts), ("greeter-a", 1));
/// # Ok(()) }
/// ```
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
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/greeter.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use std::time::Duration;
    /// # let registry = registry();
    /// # let _server = started(waypost_tonic::Server::builder("greeter", registry.clone())).await;
    /// # let client = waypost_tonic::Client::new(registry);
    /// client.channel("greeter")?.ready(Duration::from_secs(5)).await?;
    ///
    /// let error = client.channel("gretter")?.ready(Duration::from_millis(100)).await.unwrap_err();
    /// assert_eq!(error.report.known, 0);
    /// assert!(error.to_string().contains("the registry knows no node of it"));
    /// # Ok(()) }
    /// ```
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
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/greeter.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use std::time::Duration;
    /// # let registry = registry();
    /// # let _server = started(waypost_tonic::Server::builder("greeter", registry.clone()).id("a")).await;
    /// # let client = waypost_tonic::Client::new(registry);
    /// use waypost_core::balance::Decision;
    ///
    /// let channel = client.channel("greeter")?;
    /// channel.ready(Duration::from_secs(5)).await?;
    ///
    /// let node = &channel.snapshot().nodes[0];
    /// assert_eq!((node.id.as_str(), node.decision, node.in_flight), ("greeter-a", Decision::Picked, 0));
    /// # Ok(()) }
    /// ```
    pub fn snapshot(&self) -> ChannelSnapshot {
        self.inner.snapshot()
    }

    /// Returns the same channel, restricted to the nodes that pass the filters that
    /// [`ChannelBuilder::filtered`](crate::ChannelBuilder::filtered) prepared under this name. While
    /// no node passes them a call waits, and never falls back to all nodes.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/greeter.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use std::time::Duration;
    /// # use waypost_core::balance::{Filter, Filters};
    /// # let registry = registry();
    /// # let _server = started(waypost_tonic::Server::builder("greeter", registry.clone())).await;
    /// # let client = waypost_tonic::Client::new(registry);
    /// # let canaries = Filters::default().and(Filter::Label("track".to_owned(), "canary".to_owned()));
    /// let channel = client.channel_builder("greeter").filtered("canary", canaries).build()?;
    /// channel.ready(Duration::from_secs(5)).await?;
    ///
    /// // No node is a canary.
    /// let canary = channel.filtered("canary")?;
    /// assert!(canary.ready(Duration::from_millis(100)).await.is_err());
    /// assert!(channel.filtered("beta").is_err());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`UnknownFilters`] if no filters of this name were prepared.
    pub fn filtered(&self, name: &str) -> Result<Self, UnknownFilters> {
        let unknown = || UnknownFilters {
            service: self.service().to_string(),
            name: name.to_owned(),
        };
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
pub struct ResponseFuture(
    Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, CallError>> + Send>>,
);

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, Status>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx).map(|answer| match answer {
            Ok(response) => Ok(response.map(Body::new)),
            Err(error) => Err(status::from_call_error(error)),
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
        let channel = Client::new(AnyRegistry::new(MemoryRegistry::new()))
            .channel("greeter")
            .unwrap();
        let size = size_of_val(&channel.inner.call(Request::new(Body::empty())));
        assert!(size <= CACHED, "{size} bytes");
    }
}
