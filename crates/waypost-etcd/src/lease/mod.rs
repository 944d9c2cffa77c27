//! Leases of a process: one for each ttl, and one more for each further node of the same service,
//! because go-micro's watcher reads only the first event of a batch. This module does not know the
//! content of records.

mod machine;
#[cfg(test)]
mod property;
mod table;
mod task;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::cluster::Cluster;
use crate::error::EtcdError;
use crate::rpc::{Header, LeaseGrantRequest, LeaseRevokeRequest};
use crate::timing::Timing;
pub(crate) use machine::LeaseRenewal;
pub(crate) use table::{LeaseRef, LeaseTable};
pub(crate) use task::LeaseTask;
use task::{LastResponse, LeaseCommand};

/// Capacity of the command queue of the lease task.
const QUEUE: usize = 1_024;

/// Client of etcd's leases: grant, keepalive, revoke. Keepalives go through one task, the
/// [`LeaseTask`].
#[derive(Debug)]
pub(crate) struct Leases {
    cluster: Arc<Cluster>,
    commands: mpsc::Sender<LeaseCommand>,
    last_response: Arc<Mutex<LastResponse>>,
    is_ttl_logged: AtomicBool,
}

impl Leases {
    /// Creates the leases, and the task that must run for keepalives to complete.
    pub(crate) fn new(cluster: Arc<Cluster>, timing: Timing) -> (Self, LeaseTask) {
        let (commands, receiver) = mpsc::channel(QUEUE);
        let last_response = Arc::<Mutex<_>>::default();
        let task = LeaseTask::new(
            Arc::clone(&cluster),
            timing,
            receiver,
            Arc::clone(&last_response),
        );
        (
            Self {
                cluster,
                commands,
                last_response,
                is_ttl_logged: AtomicBool::new(false),
            },
            task,
        )
    }

    /// Grants a lease with this id.
    pub(crate) async fn grant(
        &self,
        id: i64,
        seconds: i64,
        deadline: Instant,
    ) -> Result<(), EtcdError> {
        let request = LeaseGrantRequest { ttl: seconds, id };
        let term = match self.cluster.call(request, deadline).await {
            // An earlier grant whose response came too late. Its raft term is that of the first
            // keepalive: on a slow disk a second grant would come too late again.
            Err(EtcdError::LeaseExists(_)) => None,
            granted => {
                let granted = granted?;
                self.log_long_ttl(seconds, granted.ttl);
                granted.header.map(|header| header.raft_term)
            }
        };
        // A task that has ended keeps no leases; it needs no grant.
        let _ = self.commands.send(LeaseCommand::Granted(id, term)).await;
        Ok(())
    }

    /// Logs, once for a handle, that etcd grants a longer TTL than asked: its minimum is one and a
    /// half election timeouts.
    fn log_long_ttl(&self, asked: i64, granted: i64) {
        if granted > asked && !self.is_ttl_logged.swap(true, Relaxed) {
            tracing::warn!(
                asked_s = asked,
                granted_s = granted,
                "etcd grants longer TTLs than asked, because of its election timeout; a killed node stays registered that long"
            );
        }
    }

    /// Renews a lease, or reports that it is gone. `last` is the time of the caller's previous
    /// renewal: any keepalive sent since then, by any caller, is sufficient.
    ///
    /// # Errors
    /// The state of the lease is unknown; it may still be alive.
    pub(crate) async fn renew(
        &self,
        id: i64,
        last: Option<Instant>,
        deadline: Instant,
    ) -> Result<LeaseRenewal, EtcdError> {
        let started = Instant::now();
        let (sender, result) = oneshot::channel();
        let renewed = async {
            self.commands
                .send(LeaseCommand::Renew(id, last, sender))
                .await
                .map_err(|_| EtcdError::Closed)?;
            result.await.map_err(|_| EtcdError::Closed)?
        };
        match timeout_at(deadline, renewed).await {
            Ok(renewed) => renewed,
            Err(_) => Err(self
                .last_error()
                .unwrap_or(EtcdError::Timeout(started.elapsed()))),
        }
    }

    /// Requests a renewal of a lease without waiting for its result.
    pub(crate) async fn renew_in_background(&self, id: i64) {
        let (sender, _) = oneshot::channel();
        // A task that has ended renews no lease.
        let _ = self
            .commands
            .send(LeaseCommand::Renew(id, None, sender))
            .await;
    }

    /// Moves the stream to the first member, if it is on another.
    pub(crate) async fn rebalance(&self) {
        // A task that has ended has no stream.
        let _ = self.commands.send(LeaseCommand::Rebalance).await;
    }

    /// Stops the keepalives of a lease.
    pub(crate) async fn forget(&self, id: i64) {
        // A task that has ended knows no lease.
        let _ = self.commands.send(LeaseCommand::Forget(id)).await;
    }

    /// Revokes a lease, and with it the records attached to it.
    pub(crate) async fn revoke(&self, id: i64, deadline: Instant) -> Result<(), EtcdError> {
        self.forget(id).await;
        match self.cluster.call(LeaseRevokeRequest { id }, deadline).await {
            Ok(_) | Err(EtcdError::LeaseNotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Returns the header of the last keepalive response; none if the stream has failed since.
    pub(crate) fn last_header(&self) -> Option<Header> {
        self.last_response().header
    }

    fn last_error(&self) -> Option<EtcdError> {
        self.last_response().error.clone()
    }

    fn last_response(&self) -> MutexGuard<'_, LastResponse> {
        self.last_response
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
