//! Channel on which the task of a service publishes its snapshots.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::Snapshot;

/// Last snapshot of a task that ended prematurely. The next task resumes from it.
pub(super) type LastSnapshot = Arc<Mutex<Snapshot>>;

/// Channel on which a task publishes snapshots to its subscriptions.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) sender: watch::Sender<Snapshot>,
    last: LastSnapshot,
    /// Number of subscriptions ever made, so that a short-lived one is noticed.
    subscribed: AtomicU64,
}

/// Subscription to one service's snapshots, which are kept current while it or a clone of it
/// exists.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use std::time::Duration;
/// # use waypost_core::directory::{Config, Directory};
/// # use waypost_core::memory::MemoryRegistry;
/// # use waypost_core::record::{Key, Node, Service};
/// # use waypost_core::registry::{Instance, RegisterOptions, Registry};
/// # let memory = MemoryRegistry::new();
/// # let mut service = Service::new("greeter");
/// # service.nodes.push(Node::with_id("greeter", "a", "127.0.0.1:9001"));
/// # let options = RegisterOptions { ttl: Duration::from_secs(15), instance: Instance::random() };
/// # memory.register(&service, &options).await?;
/// # let directory = Directory::new(memory.open(), Config::default());
/// let mut greeter = directory.subscribe(&"greeter".parse()?)?;
/// let mut seen = greeter.snapshot();
/// while greeter.changed().await {
///     let current = greeter.snapshot();
///     for change in current.changes_since(&seen) {
///         println!("{}: {:?} is now {:?}", change.id(), change.before, change.now);
///     }
///     seen = current;
/// #   if !seen.is_empty() { break }
/// }
/// # assert_eq!(seen.len(), 1);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Subscription(watch::Receiver<Snapshot>);

impl Subscription {
    /// Returns the latest snapshot. Requires no runtime.
    pub fn snapshot(&self) -> Snapshot {
        self.0.borrow().clone()
    }

    /// Waits until the snapshot differs from that of the last call. Returns false if it will never
    /// change again: see [`is_closed`](Self::is_closed).
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn changed(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }

    /// Waits until the registry has delivered the nodes. Returns false if it never will.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn synced(&mut self) -> bool {
        self.0.wait_for(|snapshot| snapshot.synced).await.is_ok()
    }

    /// Returns true if the snapshot is no longer kept current: the directory was closed, or the
    /// task or its runtime has ended. [`Directory::subscribe`](super::Directory::subscribe) starts another task, which resumes
    /// with the nodes of this one.
    pub fn is_closed(&self) -> bool {
        self.0.has_changed().is_err()
    }
}

impl Channel {
    pub(super) fn new(last: LastSnapshot) -> Self {
        let snapshot = lock(&last).clone();
        Self {
            sender: watch::Sender::new(snapshot),
            last,
            subscribed: AtomicU64::new(0),
        }
    }

    pub(super) fn subscribe(&self) -> Subscription {
        self.subscribed.fetch_add(1, Relaxed);
        Subscription(self.sender.subscribe())
    }

    pub(super) fn subscribed(&self) -> u64 {
        self.subscribed.load(Relaxed)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.sender.receiver_count() == 0
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        let last = self.sender.borrow().clone();
        *lock(&self.last) = last;
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
