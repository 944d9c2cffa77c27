//! Task that sends a request body which is not complete at once.
//!
//! The call is always notified of the task's end. If the body fails or panics, or the task is
//! aborted, the stream is reset, so that the response ends with an error, and the reason is stored
//! here.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{Reason, SendStream};
use http_body::Body;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinHandle, coop};

use super::replay::ReplayBody;
use crate::conn::{CancelledStream, Connection};
use crate::protocol::BoxError;
use crate::request_error::RequestError;

/// Task that sends one body on one stream. When dropped, the task ends.
pub(crate) struct BodyTask<B> {
    task: JoinHandle<ReplayBody<B>>,
    guard: Box<BodyGuard>,
    /// Completes when the body has failed, or with the task.
    failed: Option<oneshot::Receiver<Infallible>>,
}

/// Guard of a [`BodyTask`] whose body will not be sent again. When dropped, the task ends.
pub(crate) struct BodyGuard {
    /// Stop signal: when dropped, the task stops and returns the body.
    stop: Option<oneshot::Sender<Infallible>>,
    abort: AbortHandle,
    progress: Arc<Progress>,
}

/// State that the task shares with its call.
#[derive(Debug, Default)]
struct Progress {
    finished: AtomicBool,
    released: AtomicBool,
    error: Mutex<Option<RequestError>>,
}

impl<B> BodyTask<B>
where
    B: Body + Unpin + Send + 'static,
    B::Data: Buf,
    B::Error: Into<BoxError>,
{
    /// Spawns the task on the caller's runtime. It sends the body from its start.
    pub(crate) fn spawn(body: ReplayBody<B>, stream: SendStream<Bytes>) -> Self {
        Self::spawn_on(body, stream, None)
    }

    /// Spawns the task as [`spawn`](Self::spawn) does. If the body fails, its stream is reset as
    /// soon as the server can take that.
    pub(crate) fn spawn_paced(
        body: ReplayBody<B>,
        stream: SendStream<Bytes>,
        connection: Arc<Connection>,
    ) -> Self {
        Self::spawn_on(body, stream, Some(connection))
    }

    fn spawn_on(
        body: ReplayBody<B>,
        stream: SendStream<Bytes>,
        connection: Option<Arc<Connection>>,
    ) -> Self {
        let (stop, stopped) = oneshot::channel();
        let progress = Arc::new(Progress::default());
        let (failing, failed) = oneshot::channel();
        let sending = Sending {
            stream,
            connection,
            progress: Arc::clone(&progress),
            failing: Some(failing),
            ended: false,
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "the call owns it: dropped with the call, it is aborted"
        )]
        let task = tokio::spawn(sending.run(body, stopped));
        let guard = Box::new(BodyGuard {
            stop: Some(stop),
            abort: task.abort_handle(),
            progress,
        });
        Self {
            task,
            guard,
            failed: Some(failed),
        }
    }
}

impl<B> BodyTask<B> {
    /// Returns true once the whole body was passed to h2, or the stream accepts no more of it.
    pub(crate) fn is_finished(&self) -> bool {
        self.guard.progress.finished.load(Relaxed)
    }

    /// Polls until the body has failed, which may be long before its stream is reset.
    pub(crate) fn poll_failed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(failed) = &mut self.failed else {
            return Poll::Pending;
        };
        let _ended = ready!(Pin::new(failed).poll(cx));
        self.failed = None;
        let error = self
            .guard
            .progress
            .error
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if error.is_some() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// Takes the error of the body, if it ended with one.
    pub(crate) fn take_error(&self) -> Option<RequestError> {
        self.guard.take_error()
    }

    /// Stops sending and takes the body back, at any time of the attempt. Returns none if the task
    /// was aborted.
    ///
    /// # Errors
    /// The body has failed, and its error was not taken yet.
    ///
    /// # Cancel safety
    /// If dropped, the task ends and the body is lost.
    pub(crate) async fn take_back(self) -> Result<Option<ReplayBody<B>>, RequestError> {
        let Self {
            task,
            mut guard,
            failed: _,
        } = self;
        drop(guard.stop.take());
        let body = task.await.ok();
        guard.take_error().map_or(Ok(body), Err)
    }

    /// Lets the task continue without returning the body: the response is returned to the caller,
    /// and the body is not sent again.
    pub(crate) fn into_guard(self) -> Box<BodyGuard> {
        self.guard
    }
}

impl BodyGuard {
    /// Takes the error of the body, if it ended with one.
    pub(crate) fn take_error(&self) -> Option<RequestError> {
        self.progress
            .error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

impl Drop for BodyGuard {
    fn drop(&mut self) {
        self.progress.released.store(true, Relaxed);
        self.abort.abort();
    }
}

/// Stream on which a body is sent. Dropped before its end, and not by the call, it resets the
/// stream.
struct Sending {
    stream: SendStream<Bytes>,
    connection: Option<Arc<Connection>>,
    progress: Arc<Progress>,
    failing: Option<oneshot::Sender<Infallible>>,
    ended: bool,
}

impl Sending {
    async fn run<B>(
        mut self,
        mut body: ReplayBody<B>,
        mut stopped: oneshot::Receiver<Infallible>,
    ) -> ReplayBody<B>
    where
        B: Body + Unpin,
        B::Error: Into<BoxError>,
    {
        let error = tokio::select! {
            biased;
            _ = &mut stopped => None,
            // An error of the stream is reported by its response.
            _ = send_all(&mut self.stream, &mut body) => {
                let error = body.take_error();
                self.progress.finished.store(error.is_none(), Relaxed);
                error
            }
        };
        if let Some(error) = error {
            self.leave(error);
            tokio::select! {
                biased;
                _ = &mut stopped => {}
                () = self.may_reset() => self.stream.send_reset(Reason::CANCEL),
            }
        }
        self.ended = true;
        body
    }

    /// Stores the error, and then wakes the call that waits for it.
    fn leave(&mut self, error: RequestError) {
        *self
            .progress
            .error
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(error);
        self.failing = None;
    }

    /// Waits until the stream may be reset, paced with the abandoned calls of the connection: many
    /// resets at once would end it.
    async fn may_reset(&self) {
        let Some(connection) = &self.connection else {
            return;
        };
        let (waiting, released) = oneshot::channel::<Infallible>();
        connection.cancel(CancelledStream::new(self.stream.stream_id(), waiting));
        // Completes when the sender is dropped.
        let _ = released.await;
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if !self.ended && !self.progress.released.load(Relaxed) {
            self.leave(RequestError::BodyAborted);
            self.stream.send_reset(Reason::CANCEL);
        }
    }
}

async fn send_all<B>(
    stream: &mut SendStream<Bytes>,
    body: &mut ReplayBody<B>,
) -> Result<(), h2::Error>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    let mut index = 0;
    while let Some(data) = body.piece(index) {
        send_piece(stream, data).await?;
        index += 1;
    }
    while let Some(data) = poll_fn(|cx| body.poll_next(cx)).await {
        body.forget_above_limit();
        send_piece(stream, data).await?;
        // A body that always has more data must not starve the other tasks.
        coop::consume_budget().await;
    }
    match body.trailers() {
        _ if body.has_failed() => Ok(()),
        Some(trailers) => stream.send_trailers(trailers.clone()),
        None => stream.send_data(Bytes::new(), true),
    }
}

/// Sends one chunk as the peer's windows allow. If the stream is closed early, the rest of the
/// chunk is dropped.
async fn send_piece(stream: &mut SendStream<Bytes>, mut data: Bytes) -> Result<(), h2::Error> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        while stream.capacity() == 0 {
            match poll_fn(|cx| stream.poll_capacity(cx)).await {
                Some(capacity) => capacity?,
                None => return Ok(()),
            };
        }
        let room = stream.capacity().min(data.len());
        stream.send_data(data.split_to(room), false)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
