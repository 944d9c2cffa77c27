//! Leases: what keeps records alive. One for each ttl of a process, and one more for each further node of the same service, since
//! go-micro's watcher reads only the first event of a batch. This room never knows what a record says.

mod driver;
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

    /// A new lease. Its id is ours, so that a grant whose answer was lost is known when asked for again.
    pub(crate) async fn grant(&self, seconds: i64, until: Instant) -> Result<i64, Trouble> {
        let id = fastrand::i64(1..);
        match self.members.ask(LeaseGrantRequest { ttl: seconds, id }, until).await {
            Ok(_) | Err(Trouble::LeaseExists(_)) => {}
            Err(trouble) => return Err(trouble),
        }
        // A keeper that has ended knows no lease, and is asked for none.
        let _ = self.commands.send(Command::Granted(id)).await;
        Ok(id)
    }

    /// Keeps a lease alive.
    ///
    /// # Errors
    /// [`Trouble::NoLease`] if it is gone; else it may live on.
    pub(crate) async fn keep(&self, id: i64, until: Instant) -> Result<(), Trouble> {
        let asked = Instant::now();
        let (answer, answered) = oneshot::channel();
        let kept = async {
            self.commands.send(Command::Want(id, answer)).await.map_err(|_| Trouble::Closed)?;
            answered.await.map_err(|_| Trouble::Closed)
        };
        match timeout_at(until, kept).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err(Trouble::NoLease("the lease is gone".to_owned())),
            Ok(Err(closed)) => Err(closed),
            Err(_) => Err(self.last_trouble().unwrap_or(Trouble::Silent(asked.elapsed()))),
        }
    }

    /// Ends a lease, and with it the records on it.
    pub(crate) async fn revoke(&self, id: i64, until: Instant) -> Result<(), Trouble> {
        let _ = self.commands.send(Command::Forget(id)).await;
        match self.members.ask(LeaseRevokeRequest { id }, until).await {
            Ok(_) | Err(Trouble::NoLease(_)) => Ok(()),
            Err(trouble) => Err(trouble),
        }
    }

    fn last_trouble(&self) -> Option<Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
