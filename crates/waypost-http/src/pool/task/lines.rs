//! Logging at INFO of the lines that [`log`](crate::pool::log) reports as due.

use tokio::time::Instant;
use waypost_core::peer::Exclusion;

use super::{PoolTask, lock};
use crate::pool::PeerKey;
use crate::pool::log::{LogLine, Readiness, reasons};

impl PoolTask {
    /// Logs a change of a node's readiness, if a line is due.
    pub(super) fn log(&mut self, key: PeerKey, now: Instant) {
        self.log_left_out(now);
        // The line of the service precedes that of the node that made it ready.
        if self.ready > 0 {
            self.log_service(now);
        }
        let Some(peer) = self.peers.get_mut(&key) else {
            return;
        };
        let (service, node, address) = (
            &*self.service,
            &*peer.entry.node.id,
            &*peer.entry.node.address,
        );
        let readiness = match peer.exclusion {
            None => Readiness::Ready,
            Some(_) if peer.has_failed() => Readiness::Down(now),
            Some(_) => Readiness::Pending,
        };
        if readiness == Readiness::Ready && !std::mem::replace(&mut self.connected_once, true) {
            tracing::info!(service, node, address, "first node connected");
        }
        match peer.log.on_state(now, readiness, &mut self.lines) {
            None => {}
            Some(LogLine::Down { changes }) => {
                let error = peer.pooled.peer.status().last_failure;
                let error = error.as_deref().unwrap_or_default();
                tracing::info!(service, node, address, error, changes, "node unreachable");
            }
            Some(LogLine::Back { after, changes }) => {
                tracing::info!(
                    service,
                    node,
                    address,
                    ?after,
                    changes,
                    "node reachable again"
                );
            }
        }
    }

    /// Logs the number of omitted lines, once it is due.
    pub(super) fn log_left_out(&mut self, now: Instant) {
        if let Some(count) = self.lines.take_left_out(now) {
            tracing::info!(service = %self.service, count, "more nodes changed in the last minute");
        }
    }

    /// Logs a change of the service's readiness, if a line is due.
    pub(super) fn log_service(&mut self, now: Instant) {
        let service = &*self.service;
        let is_ready = self.ready > 0;
        let expected = is_ready || self.snapshot.synced && !self.pool.is_idle();
        match self.service_log.on_state(now, is_ready, expected) {
            None => {}
            Some(LogLine::Down { changes }) => {
                let counts = self
                    .members
                    .iter()
                    .map(|members| lock(&members.registered.counts).clone());
                let counts = counts
                    .max_by_key(|counts| counts.passing)
                    .unwrap_or_default();
                let excluded = counts.by_reason();
                let failed = excluded.contains_key(&Exclusion::NotConnected);
                let last_failure = self.pool.last_failure().filter(|_| failed);
                let (nodes, excluded, last_failure) =
                    (counts.known(), reasons(&excluded), last_failure.as_deref());
                tracing::info!(
                    service,
                    nodes,
                    excluded,
                    last_failure,
                    changes,
                    "no node ready"
                );
            }
            Some(LogLine::Back { after, changes }) => {
                tracing::info!(service, ?after, changes, "a node is ready again");
            }
        }
    }
}
