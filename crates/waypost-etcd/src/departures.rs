//! Removal of many records at once, by a process that leaves.
//!
//! Each record is marked as leaving and then deleted. The records that leave at the same time share
//! transactions, so that a process with a thousand of them leaves within the timeout of a request.
//! A transaction has one record of each service: go-micro's watcher of a service reads only the
//! first event of a response.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Mutex as AsyncMutex, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::cluster::Cluster;
use crate::rpc::{DeleteRangeRequest, Op, PutRequest, TxnRequest};

/// Maximum number of records of one transaction; etcd permits 128 operations.
const MAX_BATCH: usize = 64;

/// Record that leaves, and that is unchanged as far as is known.
#[derive(Debug)]
pub(crate) struct Departure {
    pub(crate) service: String,
    /// Revision of its last change.
    pub(crate) revision: i64,
    /// The record with the mark of leaving.
    pub(crate) marked: PutRequest,
}

#[derive(Debug, Default)]
pub(crate) struct Departures {
    waiting: Mutex<Vec<(Departure, oneshot::Sender<bool>)>>,
    /// Held by the caller that removes the records of all.
    running: AsyncMutex<()>,
}

impl Departures {
    /// Marks and deletes a record, together with others. Returns false if it may not be removed: it
    /// was changed, or etcd does not respond or denies the transaction.
    pub(crate) async fn remove(
        &self,
        cluster: &Cluster,
        departure: Departure,
        deadline: Instant,
    ) -> bool {
        let (sender, mut removed) = oneshot::channel();
        self.lock().push((departure, sender));
        let removal = async {
            loop {
                tokio::select! {
                    biased;
                    // An error: the caller that removed it was dropped.
                    removed = &mut removed => return removed.unwrap_or(false),
                    _running = self.running.lock() => {
                        let (batch, senders): (Vec<_>, Vec<_>) = self.next_batch().into_iter().unzip();
                        let removed = remove_all(cluster, &batch, deadline).await.is_some();
                        for sender in senders {
                            let _ = sender.send(removed);
                        }
                    }
                }
            }
        };
        timeout_at(deadline, removal).await.unwrap_or(false)
    }

    /// Takes the next records, each of another service.
    fn next_batch(&self) -> Vec<(Departure, oneshot::Sender<bool>)> {
        let mut waiting = self.lock();
        let mut services = HashSet::new();
        waiting.retain(|(_, sender)| !sender.is_closed());
        waiting
            .extract_if(.., |(departure, _)| {
                services.len() < MAX_BATCH && services.insert(departure.service.clone())
            })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Departure, oneshot::Sender<bool>)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Marks all records, and then deletes them. Returns none if one was changed, or on an error.
async fn remove_all(cluster: &Cluster, batch: &[Departure], deadline: Instant) -> Option<()> {
    let marks = batch.iter().map(|departure| {
        let put = Op::Put(departure.marked.clone());
        (&*departure.marked.key, departure.revision, put)
    });
    let marked = cluster.call(TxnRequest::all_guarded(marks), deadline).await;
    let revision = marked.ok()?.revision()?;
    let deletions = batch.iter().map(|departure| {
        let key = departure.marked.key.clone();
        let delete = Op::Delete(DeleteRangeRequest { key });
        (&*departure.marked.key, revision, delete)
    });
    let deleted = cluster
        .call(TxnRequest::all_guarded(deletions), deadline)
        .await;
    deleted.ok()?.revision().map(drop)
}
