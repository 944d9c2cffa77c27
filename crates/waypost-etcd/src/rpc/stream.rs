//! Two directions of a stream.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

/// Outgoing requests, in order.
pub(crate) struct Requests<T>(mpsc::Receiver<T>);

impl<T> Requests<T> {
    pub(crate) fn new(receiver: mpsc::Receiver<T>) -> Self {
        Self(receiver)
    }
}

impl<T> Stream for Requests<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        self.0.poll_recv(cx)
    }
}

/// Incoming responses.
pub(crate) struct Responses<T>(Streaming<T>);

impl<T> Responses<T> {
    pub(crate) fn new(streaming: Streaming<T>) -> Self {
        Self(streaming)
    }

    /// Waits for the next response; none if the server ended the stream.
    ///
    /// # Cancel safety
    /// No response is lost if it is dropped.
    pub(crate) async fn next(&mut self) -> Result<Option<T>, Status> {
        self.0.message().await
    }
}
