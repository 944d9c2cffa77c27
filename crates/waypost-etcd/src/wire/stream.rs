//! Two directions of a stream.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

/// Outgoing requests, in order.
pub(crate) struct Requests<Q>(mpsc::Receiver<Q>);

impl<Q> Requests<Q> {
    pub(crate) fn new(receiver: mpsc::Receiver<Q>) -> Self {
        Self(receiver)
    }
}

impl<Q> Stream for Requests<Q> {
    type Item = Q;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Q>> {
        self.0.poll_recv(cx)
    }
}

/// Incoming responses.
pub(crate) struct Responses<A>(Streaming<A>);

impl<A> Responses<A> {
    pub(crate) fn new(streaming: Streaming<A>) -> Self {
        Self(streaming)
    }

    /// Waits for the next response; none if the server ended the stream.
    ///
    /// # Cancel safety
    /// No response is lost if it is dropped.
    pub(crate) async fn next(&mut self) -> Result<Option<A>, Status> {
        self.0.message().await
    }
}
