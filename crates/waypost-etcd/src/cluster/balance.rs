//! Even spread of the handles of a fleet over the members: return to the first member after a
//! failure, and the end of connections that are no longer used.

use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;

use tokio::time::Instant;

use super::{Cluster, now};

/// Rebalance interval against the time after which a connection that nothing uses is closed: a
/// minute by default.
const REBALANCE_PER_IDLE: u32 = 5;

impl Cluster {
    /// Schedules the return to the first member, since another is now current.
    pub(super) fn schedule_return(&self, current: usize) {
        let delay = self.timing.rebalance_in(&mut fastrand::Rng::new());
        self.set_return((current > 0).then(|| now() + delay));
    }

    fn set_return(&self, at: Option<Instant>) {
        *self
            .return_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = at;
    }

    /// Makes the first member current again, if that is due and it can be reached. Returns true if
    /// it did: the streams should move there.
    pub(crate) async fn rebalance(&self) -> bool {
        let return_at = *self
            .return_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if return_at.is_none_or(|at| now() < at) {
            return false;
        }
        let deadline = now() + self.timing.request_timeout;
        let is_connected = self.connect_member(0, true, deadline).await.is_some();
        match is_connected {
            true => {
                self.current.store(0, Relaxed);
                self.set_return(None);
                tracing::debug!(member = %self.members[0].address, "returning to etcd member");
            }
            false => self.schedule_return(self.current.load(Relaxed)),
        }
        is_connected
    }

    /// Closes the connections to other members than the current one that nothing has used for
    /// some time.
    pub(crate) fn close_idle(&self) {
        let current = self.current.load(Relaxed);
        let timeout = self.timing.rebalance_interval / REBALANCE_PER_IDLE;
        for (index, member) in self.members.iter().enumerate() {
            member.state().close_idle(now(), index == current, timeout);
        }
    }
}
