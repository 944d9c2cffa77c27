//! Watches: one watch stream for all services that are watched, and for the records of this
//! process. This module does not know registrations.

mod driver;
mod line;
mod own;
#[cfg(test)]
mod property;
mod step;
#[cfg(test)]
mod tests;
mod track;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use waypost_core::record::Key;
use waypost_core::registry::{Broadcaster, Error, Result, WatchOptions, Watcher};

use driver::Command;
pub(crate) use driver::Driver;
pub(crate) use own::Own;
pub(crate) use step::Scope;

use crate::members::Members;
use crate::records::Records;

/// Capacity of the command queue of the watch task.
const ROOM: usize = 1_024;

/// Timeout of a barrier; after it, the record itself is read. It suffices for a busy machine, since
/// many records wait for one barrier.
const BARRIER: Duration = Duration::from_secs(1);

/// Callback for events of the records of this process.
pub(crate) type Listener = Box<dyn Fn(OwnNews) + Send + Sync>;

/// Event of the watches on own records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OwnNews {
    /// Event of one record.
    Of(Key, Own),
    /// No own record is watched now.
    NoneWatched,
}

/// Handle on the watch task, its [`Driver`].
#[derive(Debug)]
pub(crate) struct Hub {
    commands: mpsc::Sender<Command>,
    broadcasters: Arc<Mutex<Broadcasters>>,
}

/// Broadcasters in use. They are added by subscribers and removed by the task, both under this lock.
#[derive(Debug, Default)]
struct Broadcasters {
    by_scope: HashMap<Scope, Broadcaster>,
    closed: bool,
    /// Number of changes that lists have found and the watch had not delivered.
    missed: usize,
}

impl Hub {
    /// Creates the hub, and the task that must run for watchers to get events. `timeout` is that of
    /// one request.
    pub(crate) fn new(
        members: Arc<Members>,
        records: Arc<Records>,
        timeout: Duration,
        owner: Listener,
    ) -> (Self, Driver) {
        let (commands, receiver) = mpsc::channel(ROOM);
        let broadcasters = Arc::<Mutex<Broadcasters>>::default();
        let driver = Driver::new(
            members,
            records,
            timeout,
            owner,
            receiver,
            Arc::clone(&broadcasters),
        );
        (
            Self {
                commands,
                broadcasters,
            },
            driver,
        )
    }

    pub(crate) async fn follow(&self, options: &WatchOptions) -> Result<Watcher> {
        let (broadcaster, watcher) = self.subscribe(options)?;
        let scope = options.service.clone();
        self.commands
            .send(Command::Follow(scope, broadcaster))
            .await
            .map_err(|_| Error::Closed)?;
        Ok(watcher)
    }

    fn subscribe(&self, options: &WatchOptions) -> Result<(Broadcaster, Watcher)> {
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
    pub(crate) async fn own(&self, key: &Key, revision: i64) {
        // A task that has ended watches nothing, and emits no events.
        let _ = self
            .commands
            .send(Command::Own(key.clone(), revision))
            .await;
    }

    pub(crate) async fn disown(&self, key: &Key) {
        let _ = self.commands.send(Command::Disown(key.clone())).await;
    }

    /// Waits until every change to own records that was made before the call has been received.
    /// Returns false if that cannot be confirmed.
    pub(crate) async fn barrier(&self) -> bool {
        let (passed, waits) = oneshot::channel();
        let asked = async {
            self.commands.send(Command::Barrier(passed)).await.ok()?;
            waits.await.ok()
        };
        matches!(timeout(BARRIER, asked).await, Ok(Some(())))
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
