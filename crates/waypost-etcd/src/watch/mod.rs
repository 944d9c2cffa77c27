//! Watches: one watch stream for all services that are watched, and for the records of this
//! process. This module does not know registrations.

mod machine;
mod own_keys;
#[cfg(test)]
mod property;
mod scope;
mod stream;
mod task;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use waypost_core::record::Key;
use waypost_core::registry::{Broadcaster, Error, Result, WatchOptions, Watcher};

pub(crate) use machine::Scope;
pub(crate) use own_keys::OwnKeyEvent;
use task::WatchCommand;
pub(crate) use task::WatchTask;

use crate::cluster::Cluster;
use crate::records::Records;
use crate::rpc::Header;
use crate::timing::Timing;

/// Capacity of the command queue of the watch task.
const QUEUE: usize = 1_024;

/// Timeout of a barrier; after it, the record itself is read. It suffices for a busy machine, since
/// many records wait for one barrier.
const BARRIER_TIMEOUT: Duration = Duration::from_secs(1);

/// Callback for events of the records of this process.
pub(crate) type OwnKeyListener = Box<dyn Fn(OwnKeysEvent) + Send + Sync>;

/// Event of the watches on own records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OwnKeysEvent {
    /// Event of one record.
    Key(Key, OwnKeyEvent),
    /// No own record is watched now.
    AllUnwatched,
}

/// Handle on the watch task, its [`WatchTask`].
#[derive(Debug)]
pub(crate) struct Watches {
    commands: mpsc::Sender<WatchCommand>,
    broadcasters: Arc<Mutex<Broadcasters>>,
}

/// Broadcasters in use. They are added by subscribers and removed by the task, both under this
/// lock.
#[derive(Debug, Default)]
struct Broadcasters {
    by_scope: HashMap<Scope, Broadcaster>,
    closed: bool,
    /// Number of changes that lists have found and the watch had not delivered.
    missed: usize,
}

impl Watches {
    /// Creates the handle, and the task that must run for watchers to get events.
    pub(crate) fn new(
        cluster: Arc<Cluster>,
        records: Arc<Records>,
        timing: Timing,
        listener: OwnKeyListener,
    ) -> (Self, WatchTask) {
        let (commands, receiver) = mpsc::channel(QUEUE);
        let broadcasters = Arc::<Mutex<Broadcasters>>::default();
        let task = WatchTask::new(
            cluster,
            records,
            timing,
            listener,
            receiver,
            Arc::clone(&broadcasters),
        );
        (
            Self {
                commands,
                broadcasters,
            },
            task,
        )
    }

    pub(crate) async fn subscribe(&self, options: &WatchOptions) -> Result<Watcher> {
        let (broadcaster, watcher) = self.add_subscriber(options)?;
        let scope = options.service.clone();
        self.commands
            .send(WatchCommand::Subscribe(scope, broadcaster))
            .await
            .map_err(|_| Error::Closed)?;
        Ok(watcher)
    }

    fn add_subscriber(&self, options: &WatchOptions) -> Result<(Broadcaster, Watcher)> {
        let mut broadcasters = lock(&self.broadcasters);
        if broadcasters.closed {
            return Err(Error::Closed);
        }
        let broadcaster = broadcasters
            .by_scope
            .entry(options.service.clone())
            .or_default();
        Ok((broadcaster.clone(), broadcaster.subscribe_to_fresh(options)))
    }

    /// Watches an own record, as written at `revision`.
    pub(crate) async fn add_own_key(&self, key: &Key, revision: i64) {
        // A task that has ended watches nothing, and emits no events.
        let _ = self
            .commands
            .send(WatchCommand::AddOwnKey(key.clone(), revision))
            .await;
    }

    pub(crate) async fn remove_own_key(&self, key: &Key) {
        let _ = self
            .commands
            .send(WatchCommand::RemoveOwnKey(key.clone()))
            .await;
    }

    /// Waits until every change to own records up to the revision in `header`, a response to another
    /// request, has been received. Returns false if that cannot be confirmed.
    pub(crate) async fn barrier(&self, header: Header) -> bool {
        let (waiter, passed) = oneshot::channel();
        let barrier = async {
            self.commands
                .send(WatchCommand::Barrier(header, waiter))
                .await
                .ok()?;
            passed.await.ok()
        };
        matches!(timeout(BARRIER_TIMEOUT, barrier).await, Ok(Some(())))
    }

    /// Moves the stream to the first member, if it is on another.
    pub(crate) async fn rebalance(&self) {
        // A task that has ended has no stream.
        let _ = self.commands.send(WatchCommand::Rebalance).await;
    }

    /// Returns the number of changes that lists have found and the watch had not delivered.
    pub(crate) fn missed(&self) -> usize {
        lock(&self.broadcasters).missed
    }

    /// Ends every watcher.
    pub(crate) fn close(&self) {
        let mut broadcasters = lock(&self.broadcasters);
        broadcasters.closed = true;
        broadcasters
            .by_scope
            .drain()
            .for_each(|(_, broadcaster)| broadcaster.close());
    }
}

fn lock(broadcasters: &Mutex<Broadcasters>) -> MutexGuard<'_, Broadcasters> {
    broadcasters.lock().unwrap_or_else(PoisonError::into_inner)
}
