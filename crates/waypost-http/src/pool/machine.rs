//! State machine of a peer's connections: it decides when a node is connected and released. It is
//! the only owner of a peer's connections, and pure.
//!
//! ```text
//!   connect ─▶ connecting ─▶ ready ─▶ draining ─▶ (ended)
//!      ▲           │           │
//!      └─ backoff ◀┴───────────┘ lost
//! ```
//!
//! Only `ready` connections are offered to calls. A failed connect is never ready and never
//! forgotten. Only a settled connection resets the backoff, so that a node that completes the
//! handshake and then closes is not dialled in a loop.

use std::time::Duration;

use tokio::time::Instant;
use waypost_core::backoff::BackoffConfig;
use waypost_core::peer::ConnectivityState;

use crate::config::ReconnectConfig;
use crate::conn::Liveness;

/// Id of one connection of a peer; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ConnectionId(pub(crate) u64);

/// The client's intent for a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Desired {
    /// The node is to be connected, and reconnected when lost.
    Connected,
    /// Existing connections are kept, and no new ones are opened (a suspect).
    Kept,
    /// Connections are drained: calls in flight finish, then they close.
    Dropped,
}

/// Event of a peer or of one of its connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event<C> {
    /// The client's intent changed.
    Desired(Desired),
    /// The registry announced the node again: the backoff ends.
    Announced,
    /// The target number of ready connections changed.
    Target(usize),
    /// The server's SETTINGS were read.
    Ready(ConnectionId, C),
    /// The dial has not completed quickly, and continues.
    Slow(ConnectionId),
    /// The connection accepts no new calls.
    GoAway(ConnectionId),
    /// The liveness of a ready connection changed.
    Liveness(ConnectionId, Liveness),
    /// A ready connection is surplus; the last one is kept.
    Surplus(ConnectionId),
    /// The connection is closed, or was never established.
    Ended(ConnectionId),
    /// Time has passed.
    Tick,
}

/// Action to be executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action<C> {
    /// Open this connection.
    Connect(ConnectionId),
    /// Give this ready connection no new calls, and close it when it has none.
    Drain(C),
    /// Stop dialling this connection.
    Abort(ConnectionId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase<C> {
    Connecting {
        slow: bool,
    },
    Ready {
        handle: C,
        since: Instant,
        liveness: Liveness,
    },
    Draining,
}

/// State machine of the connections of one peer.
#[derive(Debug)]
pub(crate) struct Reconnect<C> {
    config: ReconnectConfig,
    rng: fastrand::Rng,
    desired: Desired,
    target: usize,
    failures: u32,
    retry_at: Option<Instant>,
    backoff_floor: Duration,
    connections: Vec<(ConnectionId, Phase<C>)>,
    next: u64,
}

impl<C: Clone> Reconnect<C> {
    /// Creates a machine with no connection and none desired; `rng` draws its jitter.
    pub(crate) fn new(config: ReconnectConfig, rng: fastrand::Rng) -> Self {
        Self {
            config,
            rng,
            desired: Desired::Dropped,
            target: 1,
            failures: 0,
            retry_at: None,
            backoff_floor: Duration::ZERO,
            connections: Vec::new(),
            next: 0,
        }
    }

    /// Handles an event and returns the actions that follow.
    pub(crate) fn step(&mut self, now: Instant, event: Event<C>) -> Vec<Action<C>> {
        match event {
            Event::Desired(desired) => self.desired = desired,
            Event::Announced => self.forget_failures(),
            Event::Target(target) => self.target = target.max(1),
            Event::Ready(id, handle) => self.set(
                id,
                Phase::Ready {
                    handle,
                    since: now,
                    liveness: Liveness::Alive,
                },
            ),
            Event::Slow(id) => self.set_slow(id),
            Event::GoAway(id) => {
                self.record_end(now, id);
                self.set(id, Phase::Draining);
            }
            Event::Liveness(id, liveness) => self.set_liveness(id, liveness),
            Event::Surplus(id) => return self.drain_surplus(id),
            Event::Ended(id) => {
                self.record_end(now, id);
                self.connections.retain(|(other, _)| *other != id);
            }
            Event::Tick => {}
        }
        if self.desired == Desired::Dropped {
            self.drain_all()
        } else {
            self.fill(now)
        }
    }

    fn forget_failures(&mut self) {
        self.failures = 0;
        self.retry_at = None;
    }

    fn find(&mut self, id: ConnectionId) -> Option<&mut Phase<C>> {
        self.connections
            .iter_mut()
            .find(|(other, _)| *other == id)
            .map(|(_, phase)| phase)
    }

    /// Changes the phase of a known connection. One that was released meanwhile stays draining.
    fn set(&mut self, id: ConnectionId, phase: Phase<C>) {
        if let Some(old) = self.find(id)
            && !matches!(old, Phase::Draining)
        {
            *old = phase;
        }
    }

    fn set_slow(&mut self, id: ConnectionId) {
        if let Some(Phase::Connecting { slow }) = self.find(id) {
            *slow = true;
        }
    }

    fn set_liveness(&mut self, id: ConnectionId, now: Liveness) {
        if let Some(Phase::Ready { liveness, .. }) = self.find(id) {
            *liveness = now;
        }
    }

    /// Handles the end of a connection. One that was never ready, or was not settled, starts a
    /// backoff; a settled one resets the backoff and is replaced at once.
    fn record_end(&mut self, now: Instant, id: ConnectionId) {
        let settled = match self.find(id) {
            Some(Phase::Ready { since, .. }) => Some(*since),
            Some(Phase::Connecting { .. }) => None,
            Some(Phase::Draining) | None => return,
        };
        if settled
            .is_some_and(|since| now.saturating_duration_since(since) >= self.config.settled_after)
        {
            return self.forget_failures();
        }
        let BackoffConfig { initial, max } = self.config.backoff;
        let max = max.max(self.backoff_floor);
        let delay = BackoffConfig { initial, max }.delay(self.failures, self.rng.f64());
        self.retry_at = now.checked_add(delay);
        self.failures = self.failures.saturating_add(1);
    }

    fn drain_surplus(&mut self, surplus: ConnectionId) -> Vec<Action<C>> {
        let others = self.ready().filter(|(id, _)| *id != surplus).count();
        let Some(phase) = self.find(surplus) else {
            return Vec::new();
        };
        let Phase::Ready { handle, .. } = phase else {
            return Vec::new();
        };
        if others == 0 {
            return Vec::new();
        }
        let drain = Action::Drain(handle.clone());
        *phase = Phase::Draining;
        self.target = others;
        vec![drain]
    }

    fn drain_all(&mut self) -> Vec<Action<C>> {
        let mut actions = Vec::new();
        for (id, phase) in &mut self.connections {
            match std::mem::replace(phase, Phase::Draining) {
                Phase::Connecting { .. } => actions.push(Action::Abort(*id)),
                Phase::Ready { handle, .. } => actions.push(Action::Drain(handle)),
                Phase::Draining => {}
            }
        }
        self.retry_at = None;
        actions
    }

    /// Opens the missing connections. An unresponsive connection is not counted, so that a second
    /// one is tried next to it.
    fn fill(&mut self, now: Instant) -> Vec<Action<C>> {
        if self.retry_at.is_some_and(|at| now < at) {
            return Vec::new();
        }
        let missing = self.missing();
        if missing > 0 {
            self.retry_at = None;
        }
        (0..missing)
            .map(|_| {
                let id = ConnectionId(self.next);
                self.next += 1;
                self.connections
                    .push((id, Phase::Connecting { slow: false }));
                Action::Connect(id)
            })
            .collect()
    }

    /// Returns the number of connections to open now, the backoff disregarded.
    fn missing(&self) -> usize {
        if self.desired != Desired::Connected {
            return 0;
        }
        let counted = |phase: &Phase<C>| match phase {
            Phase::Connecting { .. } => true,
            Phase::Ready { liveness, .. } => *liveness != Liveness::Unresponsive,
            Phase::Draining => false,
        };
        let missing = self.target.saturating_sub(
            self.connections
                .iter()
                .filter(|(_, phase)| counted(phase))
                .count(),
        );
        // Until one is ready, one at a time: a node that refuses is not dialled several times at
        // once.
        if self.is_ready() {
            missing
        } else {
            missing.min(1_usize.saturating_sub(self.connecting()))
        }
    }

    /// Returns the number of connections being dialled.
    pub(crate) fn connecting(&self) -> usize {
        self.connections
            .iter()
            .filter(|(_, phase)| matches!(phase, Phase::Connecting { .. }))
            .count()
    }

    /// Returns true if a dial is in progress that may complete quickly.
    pub(crate) fn may_be_ready_soon(&self) -> bool {
        self.connections
            .iter()
            .any(|(_, phase)| matches!(phase, Phase::Connecting { slow: false }))
    }

    /// Returns true if a connection is ready, responsive or not.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready().next().is_some()
    }

    /// Returns true if a ready connection is alive.
    pub(crate) fn is_responsive(&self) -> bool {
        self.connections.iter().any(|(_, phase)| {
            matches!(
                phase,
                Phase::Ready {
                    liveness: Liveness::Alive,
                    ..
                }
            )
        })
    }

    /// Returns the ready connections.
    pub(crate) fn ready(&self) -> impl Iterator<Item = (ConnectionId, &C)> {
        self.connections
            .iter()
            .filter_map(|(id, phase)| match phase {
                Phase::Ready { handle, .. } => Some((*id, handle)),
                _ => None,
            })
    }

    /// Returns the number of failed attempts to connect since the last settled connection.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// Returns the best state among its connections.
    pub(crate) fn connectivity(&self) -> ConnectivityState {
        let any = |is: fn(&Phase<C>) -> bool| self.connections.iter().any(|(_, phase)| is(phase));
        if self.is_ready() {
            ConnectivityState::Ready
        } else if any(|phase| matches!(phase, Phase::Connecting { .. })) {
            ConnectivityState::Connecting
        } else if self.desired == Desired::Connected && self.retry_at.is_some() {
            ConnectivityState::Backoff
        } else if any(|phase| matches!(phase, Phase::Draining)) {
            ConnectivityState::Draining
        } else {
            ConnectivityState::Idle
        }
    }

    /// Raises the maximum backoff to at least `floor`, so that many unreachable nodes together are
    /// not dialled too often.
    pub(crate) fn set_backoff_floor(&mut self, floor: Duration) {
        self.backoff_floor = floor;
    }

    /// Returns true if there is no connection at all, not even a draining one.
    pub(crate) fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// Returns the time of the next [`Event::Tick`], if no event occurs before. It may be past;
    /// then the tick is due now. It is never dropped.
    pub(crate) fn next_wake(&self) -> Option<Instant> {
        self.retry_at.filter(|_| self.missing() > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Reconnect<u8> {
        Reconnect::new(ReconnectConfig::default(), fastrand::Rng::with_seed(7))
    }

    fn id(n: u64) -> ConnectionId {
        ConnectionId(n)
    }

    fn connected(machine: &mut Reconnect<u8>, now: Instant) {
        machine.step(now, Event::Desired(Desired::Connected));
        machine.step(now, Event::Ready(id(0), 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_desired_node_is_connected_once_and_ready_when_its_settings_were_read() {
        let (now, mut machine) = (Instant::now(), machine());
        assert_eq!(
            machine.step(now, Event::Desired(Desired::Connected)),
            [Action::Connect(id(0))]
        );
        assert_eq!(machine.step(now, Event::Tick), []);
        assert_eq!(machine.connectivity(), ConnectivityState::Connecting);
        machine.step(now, Event::Ready(id(0), 0));
        assert_eq!(machine.connectivity(), ConnectivityState::Ready);
        assert_eq!(
            machine.step(now, Event::Target(3)),
            [Action::Connect(id(1)), Action::Connect(id(2))]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_connect_backs_off_with_full_jitter_up_to_five_seconds() {
        let (mut now, mut machine) = (Instant::now(), machine());
        let mut actions = machine.step(now, Event::Desired(Desired::Connected));
        for failures in 0..40u32 {
            let Some(Action::Connect(id)) = actions.first().cloned() else {
                panic!("not connecting: {actions:?}")
            };
            assert_eq!(machine.step(now, Event::Ended(id)), []);
            assert_eq!(machine.connectivity(), ConnectivityState::Backoff);
            let at = machine.next_wake().unwrap();
            let bound = Duration::from_millis(50)
                .saturating_mul(1 << failures.min(16))
                .min(Duration::from_secs(5));
            assert!(at - now <= bound, "{failures}: {:?}", at - now);
            now = at;
            actions = machine.step(now, Event::Tick);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_retry_that_is_overdue_is_still_due() {
        let (now, mut machine) = (Instant::now(), machine());
        machine.step(now, Event::Desired(Desired::Connected));
        machine.step(now, Event::Ended(id(0)));
        let at = machine.next_wake().unwrap();
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(
            machine.next_wake(),
            Some(at),
            "asked late, the timer is there"
        );
        assert_eq!(
            machine.step(Instant::now(), Event::Tick),
            [Action::Connect(id(1))]
        );
        assert_eq!(machine.next_wake(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_settled_connection_is_replaced_at_once_and_a_short_one_backs_off() {
        let (now, mut machine) = (Instant::now(), machine());
        connected(&mut machine, now);
        let later = now + Duration::from_secs(2);
        assert_eq!(
            machine.step(later, Event::GoAway(id(0))),
            [Action::Connect(id(1))]
        );
        machine.step(later, Event::Ready(id(1), 1));
        assert_eq!(machine.step(later, Event::Ended(id(0))), []);
        assert_eq!(machine.step(later, Event::Ended(id(1))), []);
        assert_eq!(machine.connectivity(), ConnectivityState::Backoff);
        assert_eq!(
            machine.step(later, Event::Announced),
            [Action::Connect(id(2))],
            "an announcement ends a back-off"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn ready_alone_forgets_no_failure() {
        let (mut now, mut machine) = (Instant::now(), machine());
        machine.step(now, Event::Desired(Desired::Connected));
        for round in 0..20 {
            machine.step(now, Event::Ready(id(round), 0));
            machine.step(now, Event::Ended(id(round)));
            assert_eq!(u64::from(machine.failures()), round + 1);
            now = machine.next_wake().unwrap();
            assert_eq!(
                machine.step(now, Event::Tick),
                [Action::Connect(id(round + 1))]
            );
        }
        machine.step(now, Event::Ready(id(20), 0));
        machine.step(now + Duration::from_secs(1), Event::Ended(id(20)));
        assert_eq!(machine.failures(), 0, "one that has lived does");
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_before_its_beginning_leaves_nothing() {
        let (now, mut machine) = (Instant::now(), machine());
        machine.step(now, Event::Desired(Desired::Connected));
        machine.step(now, Event::Ended(id(0)));
        machine.step(now, Event::Ready(id(0), 0));
        assert!(machine.is_empty() && !machine.is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn a_suspect_keeps_what_it_has_and_gets_nothing_new() {
        let (now, mut machine) = (Instant::now(), machine());
        connected(&mut machine, now);
        assert_eq!(machine.step(now, Event::Desired(Desired::Kept)), []);
        assert_eq!(machine.connectivity(), ConnectivityState::Ready);
        assert_eq!(
            machine.step(now + Duration::from_secs(9), Event::Ended(id(0))),
            []
        );
        assert_eq!(
            (
                machine.is_empty(),
                machine.connectivity(),
                machine.next_wake()
            ),
            (true, ConnectivityState::Idle, None)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_node_drains_each_connection_once_and_aborts_its_dials() {
        let (now, mut machine) = (Instant::now(), machine());
        connected(&mut machine, now);
        machine.step(now, Event::Target(2));
        assert_eq!(
            machine.step(now, Event::Desired(Desired::Dropped)),
            [Action::Drain(0), Action::Abort(id(1))]
        );
        assert_eq!(machine.step(now, Event::Ready(id(1), 1)), [], "too late");
        assert_eq!(machine.connectivity(), ConnectivityState::Draining);
    }

    #[tokio::test(start_paused = true)]
    async fn a_surplus_connection_is_drained_and_not_replaced_and_the_last_one_stays() {
        let (now, mut machine) = (Instant::now(), machine());
        connected(&mut machine, now);
        machine.step(now, Event::Target(2));
        assert_eq!(
            machine.step(now, Event::Surplus(id(0))),
            [],
            "the other is not ready yet"
        );
        machine.step(now, Event::Ready(id(1), 1));
        assert_eq!(machine.step(now, Event::Surplus(id(0))), [Action::Drain(0)]);
        assert_eq!(machine.step(now, Event::Surplus(id(1))), []);
        assert_eq!(machine.step(now, Event::Ended(id(0))), []);
        assert_eq!(machine.ready().collect::<Vec<_>>(), [(id(1), &1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_does_not_answer_gets_a_second_beside_it() {
        let (now, mut machine) = (Instant::now(), machine());
        connected(&mut machine, now);
        assert_eq!(
            machine.step(now, Event::Liveness(id(0), Liveness::Probing)),
            []
        );
        assert_eq!(
            machine.step(now, Event::Liveness(id(0), Liveness::Unresponsive)),
            [Action::Connect(id(1))]
        );
        assert!(!machine.is_responsive());
        assert_eq!(
            machine.step(now, Event::Liveness(id(0), Liveness::Alive)),
            []
        );
        assert!(machine.is_responsive());
    }
}
