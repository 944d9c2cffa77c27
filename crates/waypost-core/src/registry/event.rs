//! What a watcher tells.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;

use super::Result;
use crate::record::{Entry, Key};

/// One piece of news about nodes. Trouble with the registry is never an event: it is the `Err` of a [`Watcher`]'s item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Everything there is, now: the first item, and the first after any gap.
    Reset(Vec<Entry>),
    /// A node that was not there.
    Created(Entry),
    /// A node that was there and now says something else; `leaving` is never merged away.
    Updated(Entry),
    /// A node that is gone: after `Updated(leaving)` it left, else it was lost.
    Deleted(Key),
}

/// The ordered, gap-free events of a registry: a `Stream`, and [`next`](Watcher::next) for those without stream extensions.
///
/// The first item is [`Event::Reset`]; then changes in order; after any gap another `Reset`. Passing states of one node may be merged;
/// the last state is never lost and nothing is told twice; `Updated(leaving)` precedes `Deleted`, and only a `Reset` may hide it.
/// `Err` means trouble with the registry: keep what you have, the watcher goes on by itself. It ends only when dropped, or when its
/// registry is closed. Dropping it stops what it holds in the registry.
pub struct Watcher(Pin<Box<dyn Stream<Item = Result<Event>> + Send>>);

impl Watcher {
    /// A watcher over any stream that keeps the promise above.
    pub fn new(stream: impl Stream<Item = Result<Event>> + Send + 'static) -> Self {
        Self(Box::pin(stream))
    }

    /// Calls `hook` whenever a poll of this watcher is pending, with the context of that poll. A registry restarts there tasks that ended
    /// with the runtime that they ran on.
    pub fn on_pending(self, hook: impl FnMut(&mut Context<'_>) + Send + 'static) -> Self {
        Self::new(OnPending { watcher: self, hook: Box::new(hook) })
    }

    /// The next event; none when the registry was closed.
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub async fn next(&mut self) -> Option<Result<Event>> {
        std::future::poll_fn(|cx| self.0.as_mut().poll_next(cx)).await
    }
}

impl Stream for Watcher {
    type Item = Result<Event>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watcher")
    }
}

struct OnPending {
    watcher: Watcher,
    hook: Box<dyn FnMut(&mut Context<'_>) + Send>,
}

impl Stream for OnPending {
    type Item = Result<Event>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = Pin::new(&mut self.watcher).poll_next(cx);
        if polled.is_pending() {
            (self.hook)(cx);
        }
        polled
    }
}
