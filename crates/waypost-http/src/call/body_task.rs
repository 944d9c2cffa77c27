//! The task that sends a request body which is not complete at once.
//!
//! However the task ends, its call learns of it: a body that fails or panics, and a task that is aborted, reset the stream, so that the
//! response ends with an error, and leave the reason here.

use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, Bytes};
use h2::{Reason, SendStream};
use http_body::Body;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinHandle, coop};

use super::RequestError;
use super::replay::ReplayBody;
use crate::protocol::BoxError;

/// The task that sends one body on one stream. Dropped, it ends.
pub(crate) struct BodyTask<B> {
    task: JoinHandle<ReplayBody<B>>,
    guard: BodyGuard,
}

/// A [`BodyTask`] whose body will not be sent again. Dropped, it ends the task.
pub(crate) struct BodyGuard {
    /// Dropped, it stops the task, which returns the body.
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
        let (stop, stopped) = oneshot::channel();
        let progress = Arc::new(Progress::default());
        let sending = Sending { stream, progress: Arc::clone(&progress), ended: false };
        #[expect(clippy::disallowed_methods, reason = "the call owns it: dropped with the call, it is aborted")]
        let task = tokio::spawn(sending.run(body, stopped));
        let guard = BodyGuard { stop: Some(stop), abort: task.abort_handle(), progress };
        Self { task, guard }
    }
}

impl<B> BodyTask<B> {
    /// Returns true once the whole body was handed over, or the stream takes no more of it.
    pub(crate) fn is_finished(&self) -> bool {
        self.guard.progress.finished.load(Relaxed)
    }

    /// Takes the error of the body, if it ended with one.
    pub(crate) fn take_error(&self) -> Option<RequestError> {
        self.guard.take_error()
    }

    /// Stops sending and takes the body back, at any time of the attempt. None if the task was aborted.
    ///
    /// # Cancel safety
    /// Dropped, it ends the task; the body is lost.
    pub(crate) async fn take_back(self) -> Option<ReplayBody<B>> {
        let Self { task, mut guard } = self;
        drop(guard.stop.take());
        task.await.ok()
    }

    /// Lets the task go on without a way back: the response goes to the caller, and the body is not sent again.
    pub(crate) fn into_guard(self) -> BodyGuard {
        self.guard
    }
}

impl BodyGuard {
    /// Takes the error of the body, if it ended with one.
    pub(crate) fn take_error(&self) -> Option<RequestError> {
        self.progress.error.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for BodyGuard {
    fn drop(&mut self) {
        self.progress.released.store(true, Relaxed);
        self.abort.abort();
    }
}

/// The stream while a body is sent. Dropped before its end, and not by the call, it resets the stream.
struct Sending {
    stream: SendStream<Bytes>,
    progress: Arc<Progress>,
    ended: bool,
}

impl Sending {
    async fn run<B>(mut self, mut body: ReplayBody<B>, stopped: oneshot::Receiver<Infallible>) -> ReplayBody<B>
    where
        B: Body + Unpin,
        B::Error: Into<BoxError>,
    {
        tokio::select! {
            biased;
            _ = stopped => {}
            // What the stream refuses, the response explains.
            _ = send_all(&mut self.stream, &mut body) => match body.take_error() {
                Some(error) => self.fail(error),
                None => self.progress.finished.store(true, Relaxed),
            }
        }
        self.ended = true;
        body
    }

    /// Leaves the error first: the reset wakes the call, which then looks for it.
    fn fail(&mut self, error: RequestError) {
        *self.progress.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        self.stream.send_reset(Reason::CANCEL);
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if !self.ended && !self.progress.released.load(Relaxed) {
            self.fail(RequestError::BodyAborted);
        }
    }
}

async fn send_all<B>(stream: &mut SendStream<Bytes>, body: &mut ReplayBody<B>) -> Result<(), h2::Error>
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
        // A body that always has more must not starve the other tasks.
        coop::consume_budget().await;
    }
    match body.trailers() {
        _ if body.has_failed() => Ok(()),
        Some(trailers) => stream.send_trailers(trailers.clone()),
        None => stream.send_data(Bytes::new(), true),
    }
}

/// Sends one piece as the peer's windows allow. What is left of it when the stream was closed early is dropped.
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
