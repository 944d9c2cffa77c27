//! Events of a registry, and the watcher that delivers them.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;

use super::Result;
use crate::record::{Entry, Key};

/// Event about nodes. An error of the registry is never an event: it is an `Err` item of the
/// [`Watcher`].
///
/// A node that deregisters causes two events; a node that is lost causes `Deleted` alone.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use std::time::Duration;
/// # use waypost_core::memory::MemoryRegistry;
/// # use waypost_core::record::{Node, Service};
/// use waypost_core::registry::{DeregisterOptions, Event, Registry, WatchOptions};
/// # use waypost_core::registry::{Instance, RegisterOptions};
/// # let registry = MemoryRegistry::new();
/// # let mut service = Service::new("greeter");
/// # service.nodes.push(Node::with_id("greeter", "a", "127.0.0.1:9001"));
/// # let options = RegisterOptions { ttl: Duration::from_secs(15), instance: Instance::random() };
///
/// let mut watcher = registry.watch(&WatchOptions::service("greeter")).await?;
/// assert_eq!(watcher.next().await.ok_or("closed")??, Event::Reset(Vec::new()));
///
/// registry.register(&service, &options).await?;
/// assert!(matches!(watcher.next().await, Some(Ok(Event::Created(_)))));
///
/// registry.deregister(&service, &DeregisterOptions::ours(options.instance)).await?;
/// assert!(matches!(watcher.next().await, Some(Ok(Event::Updated(entry))) if entry.node.is_leaving()));
/// assert!(matches!(watcher.next().await, Some(Ok(Event::Deleted(_)))));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Complete set of entries: the first item, and the first after any gap.
    Reset(Vec<Entry>),
    /// A node that was added.
    Created(Entry),
    /// A node whose record changed. An update to `leaving` is never merged away.
    Updated(Entry),
    /// A node that was removed. After `Updated(leaving)` it left; otherwise it was lost.
    Deleted(Key),
}

/// Ordered, gap-free events of a registry. The watcher is a `Stream`; [`next`](Watcher::next)
/// serves callers without stream extensions.
///
/// The first item is [`Event::Reset`]. Changes follow in order; after any gap comes another
/// `Reset`. Intermediate states of one node may be merged, but the last state is never lost and no
/// event is emitted twice. `Updated(leaving)` precedes `Deleted`; only a `Reset` may hide it. `Err`
/// is an error of the registry: keep the current nodes, the watcher recovers by itself. The stream
/// ends only when its registry is closed. Dropping the watcher releases its resources in the
/// registry.
///
/// A [`NodeSet`](super::NodeSet) to which all events are applied holds the current nodes:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use std::time::Duration;
/// # use waypost_core::memory::MemoryRegistry;
/// # use waypost_core::record::{Node, Service};
/// # use waypost_core::registry::{Instance, RegisterOptions};
/// use waypost_core::registry::{NodeSet, Registry, WatchOptions};
/// # let registry = MemoryRegistry::new();
/// # let mut service = Service::new("greeter");
/// # service.nodes.push(Node::with_id("greeter", "a", "127.0.0.1:9001"));
/// # let options = RegisterOptions { ttl: Duration::from_secs(15), instance: Instance::random() };
/// # registry.register(&service, &options).await?;
///
/// let mut watcher = registry.watch(&WatchOptions::service("greeter")).await?;
/// let mut nodes = NodeSet::default();
/// while let Some(item) = watcher.next().await {
///     match item {
///         Ok(event) => nodes.apply(event),
///         Err(error) => eprintln!("nodes may be stale: {}", error.chain()),
///     }
/// #   if !nodes.is_empty() { break }
/// }
/// # assert_eq!(nodes.len(), 1);
/// # Ok(()) }
/// ```
pub struct Watcher(Pin<Box<dyn Stream<Item = Result<Event>> + Send>>);

impl Watcher {
    /// Creates a watcher from a stream that keeps the contract of [`Watcher`].
    pub fn new(stream: impl Stream<Item = Result<Event>> + Send + 'static) -> Self {
        Self(Box::pin(stream))
    }

    /// Calls `hook` whenever a poll of this watcher is pending, with the context of that poll. A
    /// registry uses the hook to restart tasks that ended with the runtime on which they ran.
    pub fn on_pending(self, hook: impl FnMut(&mut Context<'_>) + Send + 'static) -> Self {
        Self::new(OnPending {
            watcher: self,
            hook: Box::new(hook),
        })
    }

    /// Returns the next event, or none after the registry was closed.
    ///
    /// # Cancel safety
    /// Dropping the future loses no event.
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
