//! Leases: what keeps records alive. One for each ttl of a process, and one more for each further node of the same service, since
//! go-micro's watcher reads only the first event of a batch. This room never knows what a record says.

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

/// How many requests may wait for the task that keeps the leases.
const ROOM: usize = 1_024;

/// Grants, keeps and revokes leases. The beats go through one task, its [`Driver`].
#[derive(Debug)]
pub(crate) struct Leases {
    members: Arc<Members>,
    commands: mpsc::Sender<Command>,
    /// What went wrong last on the stream of beats; none since the last answer.
    trouble: Arc<Mutex<Option<Trouble>>>,
}

impl Leases {
    /// The leases, and the task that must run for beats to be answered.
    pub(crate) fn new(members: Arc<Members>) -> (Self, Driver) {
        let (commands, receiver) = mpsc::channel(ROOM);
        let trouble = Arc::<Mutex<_>>::default();
        let driver = Driver::new(Arc::clone(&members), receiver, Arc::clone(&trouble));
        (Self { members, commands, trouble }, driver)
    }

    /// A new lease of this id.
    pub(crate) async fn grant(&self, id: i64, seconds: i64, until: Instant) -> Result<(), Trouble> {
        let question = LeaseGrantRequest { ttl: seconds, id };
        let granted = match self.members.ask(question, until).await {
            // An earlier grant whose answer was lost. Nothing stands on it, and who reigned then is not known.
            Err(Trouble::LeaseExists(_)) => {
                self.revoke(id, until).await?;
                self.members.ask(question, until).await?
            }
            granted => granted?,
        };
        let term = granted.header.map_or(0, |header| header.raft_term);
        // A keeper that has ended knows no lease, and is asked for none.
        let _ = self.commands.send(Command::Granted(id, term)).await;
        Ok(())
    }

    /// Keeps a lease alive, or tells that it is gone. Who had it kept at `last` is content with what others have asked since.
    ///
    /// # Errors
    /// Nobody can tell; it may live on.
    pub(crate) async fn keep(&self, id: i64, last: Option<Instant>, until: Instant) -> Result<Fate, Trouble> {
        let asked = Instant::now();
        let (answer, answered) = oneshot::channel();
        let kept = async {
            self.commands.send(Command::Want(id, last, answer)).await.map_err(|_| Trouble::Closed)?;
            answered.await.map_err(|_| Trouble::Closed)?
        };
        match timeout_at(until, kept).await {
            Ok(kept) => kept,
            Err(_) => Err(self.last_trouble().unwrap_or(Trouble::Silent(asked.elapsed()))),
        }
    }

    /// Has a lease kept alive, and does not wait for what becomes of it.
    pub(crate) async fn keep_on(&self, id: i64) {
        let (answer, _) = oneshot::channel();
        // A keeper that has ended keeps none.
        let _ = self.commands.send(Command::Want(id, None, answer)).await;
    }

    /// It is kept alive no more.
    pub(crate) async fn forget(&self, id: i64) {
        // A keeper that has ended knows no lease.
        let _ = self.commands.send(Command::Forget(id)).await;
    }

    /// Ends a lease, and with it the records on it.
    pub(crate) async fn revoke(&self, id: i64, until: Instant) -> Result<(), Trouble> {
        self.forget(id).await;
        match self.members.ask(LeaseRevokeRequest { id }, until).await {
            Ok(_) | Err(Trouble::NoLease(_)) => Ok(()),
            Err(trouble) => Err(trouble),
        }
    }

    fn last_trouble(&self) -> Option<Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
