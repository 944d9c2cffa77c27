//! The peers of one service: their connections, this client's subset of the nodes, and the queue of
//! calls that wait for them.
//!
//! Calls use [`ServicePool`]. One task ([`task`]) owns the peers: it connects them, follows the
//! events of their connections, and publishes the ready ones to the balancers. The cost of an
//! iteration is proportional to the changes in it. This module never knows what a request means, or
//! if a call may be sent again.

mod balancers;
mod entry;
mod handover;
mod log;
mod machine;
mod members;
mod peer;
mod subscription;
mod subset;
mod surplus;
mod sync;
mod task;
mod timers;
mod wait_queue;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;
use waypost_core::balance::{self, Decision, NodeView};
use waypost_core::directory::{Directory, Snapshot};
use waypost_core::peer::{Exclusion, LoadTable, Membership};
use waypost_core::record::{Entry, ServiceName};
use waypost_core::registry::Error;

use crate::retry::Budget;

use balancers::Balancers;
pub(crate) use balancers::Joined;
pub(crate) use peer::{Permit, PooledPeer};
use subscription::ServiceSubscription;
pub(crate) use task::{PoolShared, PoolTask};
pub(crate) use wait_queue::{GivesPermits, Limits, PeerKey, QueueFull, WaitQueue, Wanted};

/// Picked peer of the pool with a permit.
pub(crate) type Picking = wait_queue::Picking<PooledPeer>;

/// Peers of one service, as channels and calls use them.
#[derive(Debug)]
pub(crate) struct ServicePool {
    subscription: ServiceSubscription,
    pub(crate) budget: Budget,
    pub(crate) queue: Arc<WaitQueue<PooledPeer>>,
    loads: LoadTable,
    balancers: Mutex<Balancers>,
    /// Peer of each node in use, by node id; written by the task only.
    peers: Mutex<HashMap<Box<str>, Used>>,
    last_failure: Mutex<Option<Arc<str>>>,
}

/// Peer in use, as snapshots of a channel read it.
#[derive(Debug)]
struct Used {
    peer: Arc<PooledPeer>,
    exclusion: Option<Exclusion>,
}

impl ServicePool {
    /// Creates the pool of `service`, without a task yet.
    ///
    /// # Errors
    /// Those of [`Directory::subscribe`].
    pub(crate) fn new(
        directory: &Directory,
        service: &ServiceName,
        budget: Budget,
        limits: Limits,
    ) -> Result<Self, Error> {
        Ok(Self {
            subscription: ServiceSubscription::new(directory, service)?,
            budget,
            queue: Arc::new(WaitQueue::new(limits)),
            loads: LoadTable::default(),
            balancers: Mutex::default(),
            peers: Mutex::default(),
            last_failure: Mutex::default(),
        })
    }

    /// Returns the directory's latest snapshot of the service.
    pub(crate) fn snapshot(&self) -> Snapshot {
        self.subscription.snapshot()
    }

    /// Joins the balancer of a channel that picks by `config`. The task publishes the ready peers
    /// to it from now on.
    pub(crate) fn join(&self, config: &balance::Config) -> Joined {
        let (joined, new) = lock(&self.balancers).join(config, &self.loads);
        if new {
            self.queue.signal.notify_one();
        }
        joined
    }

    /// Notifies the task that a channel has released its balancers.
    pub(crate) fn left(&self) {
        self.queue.signal.notify_one();
    }

    /// Returns true if no channel uses the service.
    pub(crate) fn is_idle(&self) -> bool {
        lock(&self.balancers).is_unused()
    }

    /// Returns the last failure of a connection to any node.
    pub(crate) fn last_failure(&self) -> Option<Arc<str>> {
        lock(&self.last_failure).clone()
    }

    /// Returns every node of `snapshot` as a channel with this balancer uses it, ordered by id.
    pub(crate) fn nodes(
        &self,
        joined: &Joined,
        snapshot: &Snapshot,
        now: Instant,
    ) -> Vec<NodeView> {
        let ready: HashMap<_, _> = joined
            .balancer
            .ready()
            .into_iter()
            .map(|peer| (peer.key, peer))
            .collect();
        let peers = lock(&self.peers);
        let view = |entry: &Entry, membership| {
            if let Err(exclusion) = joined.balancer.config().filters.check(entry) {
                return NodeView::unused(entry, membership, exclusion);
            }
            let Some(used) = peers.get(&*entry.node.id) else {
                return NodeView::unused(entry, membership, Exclusion::OutsideSubset);
            };
            let decision = match used.exclusion {
                Some(exclusion) => Decision::Excluded(exclusion),
                None if ready.contains_key(&used.peer.key) => Decision::Picked,
                None => Decision::Excluded(Exclusion::OutsideSubset),
            };
            NodeView::used(&used.peer.peer, decision, now)
        };
        let mut nodes: Vec<_> = snapshot
            .confirmed()
            .map(|entry| view(entry, Membership::Confirmed))
            .collect();
        nodes.extend(
            snapshot
                .suspects()
                .map(|suspect| view(&suspect.entry, Membership::Suspect)),
        );
        nodes.sort_by(|a, b| a.id.cmp(&b.id));
        nodes
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
