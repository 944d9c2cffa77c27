//! Handling of connection events, and execution of the actions that follow.

use std::sync::Arc;

use super::{PoolTask, lock, now};
use crate::conn::{Connection, ConnectionEvent, Dialer, EventSender, Liveness};
use crate::pool::PeerKey;
use crate::pool::machine::{Action, ConnectionId, Event};

impl PoolTask {
    pub(super) fn on_connection_event(
        &mut self,
        key: PeerKey,
        id: ConnectionId,
        event: ConnectionEvent,
    ) {
        let Some(peer) = self.peers.get_mut(&key) else {
            return;
        };
        let (now, spreading) = (now(), self.serve_all_at.is_some());
        let failures = peer.machine.failures();
        let mut in_order = matches!(event, ConnectionEvent::GoAway(_));
        let event = match event {
            ConnectionEvent::Ready(connection) => {
                if !peer.machine.is_ready() {
                    self.capacity_added = self.capacity_added.max(1);
                } else {
                    add_capacity(&mut self.capacity_added, spreading);
                }
                Event::Ready(id, connection)
            }
            ConnectionEvent::Slow => Event::Slow(id),
            ConnectionEvent::GoAway(go_away) => {
                if go_away.calm {
                    peer.calm.raise(now);
                }
                Event::GoAway(id)
            }
            ConnectionEvent::Liveness(change) => match change.take() {
                Liveness::Alive => {
                    add_capacity(&mut self.capacity_added, spreading);
                    Event::Liveness(id, Liveness::Alive)
                }
                liveness => {
                    if liveness == Liveness::Unresponsive {
                        self.prove_all();
                    }
                    Event::Liveness(id, liveness)
                }
            },
            ConnectionEvent::Capacity(change) => {
                change.take();
                add_capacity(&mut self.capacity_added, spreading);
                Event::Tick
            }
            ConnectionEvent::Ended(result) => {
                let aborted = peer.dials.remove(&id).is_none();
                match result {
                    Ok(()) => in_order = true,
                    Err(_) if aborted => {}
                    Err(why) => self.record_failure(key, why),
                }
                Event::Ended(id)
            }
        };
        self.step(key, event);
        self.record_early_close(key, failures, in_order);
        self.mark(key);
    }

    fn record_failure(&self, key: PeerKey, why: Arc<str>) {
        let Some(peer) = self.peers.get(&key) else {
            return;
        };
        tracing::debug!(service = %self.service, node = %peer.entry.node.id, error = %why, "connection ended");
        peer.pooled.peer.record_failure(Arc::clone(&why));
        *lock(&self.pool.last_failure) = Some(why);
    }

    /// Records the reason of a failure that the machine has counted beyond `failures`, if the
    /// connection ended in order and has no reason of its own.
    fn record_early_close(&mut self, key: PeerKey, failures: u32, in_order: bool) {
        let settled_after = self.shared.config.reconnect.settled_after;
        let Some(peer) = self
            .peers
            .get_mut(&key)
            .filter(|peer| peer.machine.failures() > failures)
        else {
            return;
        };
        peer.closed_early = in_order;
        if in_order {
            let why = format!(
                "connection to {}: closed by the server within {settled_after:?}",
                peer.entry.node.address
            );
            self.record_failure(key, why.into());
        }
    }

    pub(super) fn step(&mut self, key: PeerKey, event: Event<Arc<Connection>>) {
        let Some(peer) = self.peers.get_mut(&key) else {
            return;
        };
        for action in peer.machine.step(now(), event) {
            self.act(key, action);
        }
    }

    fn act(&mut self, key: PeerKey, action: Action<Arc<Connection>>) {
        let Some(peer) = self.peers.get_mut(&key) else {
            return;
        };
        match action {
            Action::Connect(id) => {
                let Ok(address) = peer.address.clone() else {
                    return;
                };
                let dialer = Dialer {
                    service: Arc::clone(&self.service),
                    address,
                    policy: self.shared.policy,
                    connect: Arc::clone(&self.shared.connect),
                    config: Arc::clone(&self.shared.connection),
                    calm: peer.share_calm(now()),
                };
                let reports = self.reports.clone();
                // A closed channel means that the pool has ended, and its connections with it.
                let events = EventSender::new(move |event| _ = reports.send((key, id, event)));
                let task = self
                    .connections
                    .spawn(dialer.run(events, self.shared.slots.clone()));
                peer.dials.insert(id, task);
            }
            Action::Drain(connection) => connection.drain(),
            Action::Abort(id) => {
                if let Some(dial) = peer.dials.remove(&id) {
                    dial.abort();
                }
            }
        }
    }
}

/// Lets the capacity that an already ready node has added serve all waiting calls. While waiting
/// calls are spread over nodes that become ready, such a node has its part already and is given no
/// more of them.
fn add_capacity(capacity_added: &mut usize, spreading: bool) {
    if !spreading {
        *capacity_added = usize::MAX;
    }
}
