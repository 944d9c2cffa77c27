//! Leases of a process: one for each ttl, and one more for each further node of the same service,
//! because go-micro's watcher reads only the first event of a batch. This module does not know the
//! content of records.

mod driver;
#[cfg(test)]
mod property;
mod slots;
mod step;

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::members::Members;
use crate::trouble::Trouble;
use crate::wire::{LeaseGrantRequest, LeaseRevokeRequest};
use driver::Command;
pub(crate) use driver::Driver;
pub(crate) use slots::{Held, Slots};
pub(crate) use step::Fate;

/// Capacity of the command queue of the lease task.
const ROOM: usize = 1_024;

/// Client of etcd's leases: grant, keepalive, revoke. Keepalives go through one task, the
/// [`Driver`].
#[derive(Debug)]
pub(crate) struct Leases {
    members: Arc<Members>,
    commands: mpsc::Sender<Command>,
    /// Last error of the keepalive stream; none since the last response.
    trouble: Arc<Mutex<Option<Trouble>>>,
}

impl Leases {
    /// Creates the leases, and the task that must run for keepalives to complete.
    pub(crate) fn new(members: Arc<Members>) -> (Self, Driver) {
        let (commands, receiver) = mpsc::channel(ROOM);
        let trouble = Arc::<Mutex<_>>::default();
        let driver = Driver::new(Arc::clone(&members), receiver, Arc::clone(&trouble));
        (
            Self {
                members,
                commands,
                trouble,
            },
            driver,
        )
    }

    /// Grants a lease with this id.
    pub(crate) async fn grant(&self, id: i64, seconds: i64, until: Instant) -> Result<(), Trouble> {
        let question = LeaseGrantRequest { ttl: seconds, id };
        let granted = match self.members.ask(question, until).await {
            // An earlier grant whose response was lost. No record is attached to it, and the raft
            // term of its grant is unknown.
            Err(Trouble::LeaseExists(_)) => {
                self.revoke(id, until).await?;
                self.members.ask(question, until).await?
            }
            granted => granted?,
        };
        let term = granted.header.map_or(0, |header| header.raft_term);
        // A task that has ended keeps no leases; it needs no grant.
        let _ = self.commands.send(Command::Granted(id, term)).await;
        Ok(())
    }

    /// Renews a lease, or reports that it is gone. `last` is the time of the caller's previous
    /// renewal: any keepalive sent since then, by any caller, is sufficient.
    ///
    /// # Errors
    /// The state of the lease is unknown; it may still be alive.
    pub(crate) async fn keep(
        &self,
        id: i64,
        last: Option<Instant>,
        until: Instant,
    ) -> Result<Fate, Trouble> {
        let asked = Instant::now();
        let (answer, answered) = oneshot::channel();
        let kept = async {
            self.commands
                .send(Command::Want(id, last, answer))
                .await
                .map_err(|_| Trouble::Closed)?;
            answered.await.map_err(|_| Trouble::Closed)?
        };
        match timeout_at(until, kept).await {
            Ok(kept) => kept,
            Err(_) => Err(self
                .last_trouble()
                .unwrap_or(Trouble::Silent(asked.elapsed()))),
        }
    }

    /// Requests a renewal of a lease without waiting for its result.
    pub(crate) async fn keep_on(&self, id: i64) {
        let (answer, _) = oneshot::channel();
        // A task that has ended renews no lease.
        let _ = self.commands.send(Command::Want(id, None, answer)).await;
    }

    /// Stops the keepalives of a lease.
    pub(crate) async fn forget(&self, id: i64) {
        // A task that has ended knows no lease.
        let _ = self.commands.send(Command::Forget(id)).await;
    }

    /// Revokes a lease, and with it the records attached to it.
    pub(crate) async fn revoke(&self, id: i64, until: Instant) -> Result<(), Trouble> {
        self.forget(id).await;
        match self.members.ask(LeaseRevokeRequest { id }, until).await {
            Ok(_) | Err(Trouble::NoLease(_)) => Ok(()),
            Err(trouble) => Err(trouble),
        }
    }

    fn last_trouble(&self) -> Option<Trouble> {
        self.trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
