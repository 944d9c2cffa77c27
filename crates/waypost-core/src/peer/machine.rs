//! When a node is connected, and when it is let go.
//!
//! ```text
//!   connect ─▶ connecting ─▶ ready ─▶ draining ─▶ (ended)
//!      ▲           │           │
//!      └─ backoff ◀┴───────────┘ lost
//! ```
//!
//! Only `ready` connections are offered to a picker; a failed connect is never ready and never forgotten.

use std::time::Duration;

use tokio::time::Instant;

use super::Connection;
use crate::backoff::full_jitter;

/// One connection of a peer; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// What the client wants of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Connected, and connected again.
    Connected,
    /// What is connected stays; nothing new (a suspect).
    Kept,
    /// Let go: finish what is in flight, then close.
    Dropped,
}

/// News for the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// What the client wants now.
    Wish(Wish),
    /// The registry announced the node anew: a back-off ends.
    Announced,
    /// So many ready connections are of use.
    Demand(usize),
    /// The server's SETTINGS were read.
    Ready(ConnectionId),
    /// The connection takes no new calls; `calm`: the server asked for fewer pings, which is no failure.
    GoAway(ConnectionId, Calm),
    /// A ready connection answers no PING, or does again.
    Answering(ConnectionId, bool),
    /// The connection is no more, or never was.
    Ended(ConnectionId),
    /// Time has passed.
    Tick,
}

/// Whether a GOAWAY said `ENHANCE_YOUR_CALM`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calm {
    /// It did.
    Asked,
    /// It did not.
    NotAsked,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Open this connection.
    Connect(ConnectionId),
    /// Give this connection no new calls, and close it when it has none.
    Drain(ConnectionId),
}

/// The back-off of connecting, and how long a connection must have lived to be replaced at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The first back-off's upper bound; doubled by each failure. Default 50 ms.
    pub backoff_min: Duration,
    /// The last back-off's upper bound. Default 5 s.
    pub backoff_max: Duration,
    /// A connection that lived so long is replaced at once. Default 1 s.
    pub settled_after: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(5),
            settled_after: Duration::from_secs(1),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    Ready { since: Instant, answering: bool },
    Draining,
}

/// The connections of one peer.
#[derive(Debug)]
pub struct Machine {
    settings: Settings,
    rng: fastrand::Rng,
    wish: Wish,
    target: usize,
    failures: u32,
    retry_at: Option<Instant>,
    patience: u32,
    connections: Vec<(ConnectionId, Phase)>,
    next: u64,
}

impl Machine {
    /// A machine with nothing connected and nothing wanted; `rng` draws its jitter.
    pub fn new(settings: Settings, rng: fastrand::Rng) -> Self {
        Self {
            settings,
            rng,
            wish: Wish::Dropped,
            target: 1,
            failures: 0,
            retry_at: None,
            patience: 1,
            connections: Vec::new(),
            next: 0,
        }
    }

    /// Takes news; says what is to be done.
    pub fn step(&mut self, now: Instant, event: Event) -> Vec<Action> {
        match event {
            Event::Wish(wish) => self.wish = wish,
            Event::Announced => self.forget_failures(),
            Event::Demand(target) => self.target = target.max(1),
            Event::Ready(id) => {
                self.set(id, Phase::Ready { since: now, answering: true });
                self.forget_failures();
            }
            Event::GoAway(id, calm) => {
                match calm {
                    Calm::Asked => self.patience = self.patience.saturating_mul(2).min(64),
                    Calm::NotAsked => self.note_end(now, id),
                }
                self.set(id, Phase::Draining);
            }
            Event::Answering(id, answers) => self.note_answering(id, answers),
            Event::Ended(id) => {
                self.note_end(now, id);
                self.connections.retain(|(other, _)| *other != id);
            }
            Event::Tick => {}
        }
        if self.wish == Wish::Dropped { self.drain_all() } else { self.fill(now) }
    }

    fn forget_failures(&mut self) {
        self.failures = 0;
        self.retry_at = None;
    }

    fn set(&mut self, id: ConnectionId, phase: Phase) {
        if let Some((_, old)) = self.connections.iter_mut().find(|(other, _)| *other == id) {
            *old = phase;
        }
    }

    fn note_answering(&mut self, id: ConnectionId, answers: bool) {
        if let Some((_, Phase::Ready { answering, .. })) = self.connections.iter_mut().find(|(other, _)| *other == id) {
            *answering = answers;
        }
    }

    /// A connection that never was, or not for long, costs a back-off; a settled one is replaced at once, a drained one was already.
    fn note_end(&mut self, now: Instant, id: ConnectionId) {
        let settled = match self.connections.iter().find(|(other, _)| *other == id) {
            Some((_, Phase::Ready { since, .. })) => now >= *since + self.settings.settled_after,
            Some((_, Phase::Connecting)) => false,
            Some((_, Phase::Draining)) | None => return,
        };
        if !settled {
            let Settings { backoff_min, backoff_max, .. } = self.settings;
            self.retry_at = Some(now + full_jitter(&mut self.rng, backoff_min, backoff_max, self.failures));
            self.failures += 1;
        }
    }

    fn drain_all(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        for (id, phase) in &mut self.connections {
            if *phase != Phase::Draining {
                *phase = Phase::Draining;
                actions.push(Action::Drain(*id));
            }
        }
        actions
    }

    /// Opens what is missing. A connection that does not answer is not counted, so that a second one is tried beside it.
    fn fill(&mut self, now: Instant) -> Vec<Action> {
        if self.wish != Wish::Connected || self.retry_at.is_some_and(|at| now < at) {
            return Vec::new();
        }
        let counted = |phase: &Phase| matches!(phase, Phase::Connecting | Phase::Ready { answering: true, .. });
        let connecting = self.connections.iter().filter(|(_, phase)| *phase == Phase::Connecting).count();
        let missing = self.target.saturating_sub(self.connections.iter().filter(|(_, phase)| counted(phase)).count());
        // Until one is ready, one at a time: a node that refuses is not asked four times at once.
        let missing = if self.ready() { missing } else { missing.min(1_usize.saturating_sub(connecting)) };
        (0..missing)
            .map(|_| {
                let id = ConnectionId(self.next);
                self.next += 1;
                self.connections.push((id, Phase::Connecting));
                Action::Connect(id)
            })
            .collect()
    }

    fn ready(&self) -> bool {
        self.connections.iter().any(|(_, phase)| matches!(phase, Phase::Ready { .. }))
    }

    /// The best of its connections.
    pub fn connection(&self) -> Connection {
        let any = |is: fn(&Phase) -> bool| self.connections.iter().any(|(_, phase)| is(phase));
        if self.ready() {
            Connection::Ready
        } else if any(|phase| *phase == Phase::Connecting) {
            Connection::Connecting
        } else if self.wish == Wish::Connected && self.retry_at.is_some() {
            Connection::Backoff
        } else if any(|phase| *phase == Phase::Draining) {
            Connection::Draining
        } else {
            Connection::Idle
        }
    }

    /// How often its times are doubled: 1, or more after `ENHANCE_YOUR_CALM`.
    pub fn patience(&self) -> u32 {
        self.patience
    }

    /// Whether it has no connection at all.
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// When to tick even if nothing happens.
    pub fn next_wake(&self, now: Instant) -> Option<Instant> {
        self.retry_at.filter(|at| self.wish == Wish::Connected && *at > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine::new(Settings::default(), fastrand::Rng::with_seed(7))
    }

    fn id(n: u64) -> ConnectionId {
        ConnectionId(n)
    }

    #[tokio::test(start_paused = true)]
    async fn a_wanted_node_is_connected_once_and_ready_when_it_spoke() {
        let now = Instant::now();
        let mut machine = machine();
        assert_eq!(machine.step(now, Event::Wish(Wish::Connected)), [Action::Connect(id(0))]);
        assert_eq!(machine.step(now, Event::Tick), []);
        assert_eq!(machine.connection(), Connection::Connecting);
        machine.step(now, Event::Ready(id(0)));
        assert_eq!(machine.connection(), Connection::Ready);
        assert_eq!(machine.step(now, Event::Demand(3)), [Action::Connect(id(1)), Action::Connect(id(2))]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_connect_backs_off_with_full_jitter_up_to_five_seconds() {
        let mut now = Instant::now();
        let mut machine = machine();
        let mut actions = machine.step(now, Event::Wish(Wish::Connected));
        for failures in 0..40u32 {
            let Some(Action::Connect(id)) = actions.first().copied() else { panic!("not connecting: {actions:?}") };
            assert_eq!(machine.step(now, Event::Ended(id)), []);
            assert_eq!(machine.connection(), Connection::Backoff);
            let at = machine.next_wake(now).unwrap();
            let bound = Duration::from_millis(50).saturating_mul(1 << failures.min(16)).min(Duration::from_secs(5));
            assert!(at - now <= bound, "{failures}: {:?}", at - now);
            now = at;
            actions = machine.step(now, Event::Tick);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_settled_connection_is_replaced_at_once_and_a_short_one_backs_off() {
        let now = Instant::now();
        let mut machine = machine();
        machine.step(now, Event::Wish(Wish::Connected));
        machine.step(now, Event::Ready(id(0)));
        let later = now + Duration::from_secs(2);
        assert_eq!(machine.step(later, Event::GoAway(id(0), Calm::NotAsked)), [Action::Connect(id(1))]);
        machine.step(later, Event::Ready(id(1)));
        assert_eq!(machine.step(later, Event::Ended(id(0))), []);
        assert_eq!(machine.step(later, Event::Ended(id(1))), []);
        assert_eq!(machine.connection(), Connection::Backoff);
        assert_eq!(machine.step(later, Event::Announced), [Action::Connect(id(2))], "an announcement ends a back-off");
    }

    #[tokio::test(start_paused = true)]
    async fn a_suspect_keeps_what_it_has_and_gets_nothing_new() {
        let now = Instant::now();
        let mut machine = machine();
        machine.step(now, Event::Wish(Wish::Connected));
        machine.step(now, Event::Ready(id(0)));
        assert_eq!(machine.step(now, Event::Wish(Wish::Kept)), []);
        assert_eq!(machine.connection(), Connection::Ready);
        assert_eq!(machine.step(now + Duration::from_secs(9), Event::Ended(id(0))), []);
        assert!(machine.is_empty());
        assert_eq!(machine.connection(), Connection::Idle);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_node_drains_each_connection_once() {
        let now = Instant::now();
        let mut machine = machine();
        machine.step(now, Event::Wish(Wish::Connected));
        machine.step(now, Event::Ready(id(0)));
        assert_eq!(machine.step(now, Event::Wish(Wish::Dropped)), [Action::Drain(id(0))]);
        assert_eq!(machine.step(now, Event::Tick), []);
        assert_eq!(machine.connection(), Connection::Draining);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_does_not_answer_gets_a_second_beside_it() {
        let now = Instant::now();
        let mut machine = machine();
        machine.step(now, Event::Wish(Wish::Connected));
        machine.step(now, Event::Ready(id(0)));
        assert_eq!(machine.step(now, Event::Answering(id(0), false)), [Action::Connect(id(1))]);
        assert_eq!(machine.step(now, Event::Answering(id(0), true)), []);
    }

    #[tokio::test(start_paused = true)]
    async fn calm_doubles_the_patience() {
        let now = Instant::now();
        let mut machine = machine();
        machine.step(now, Event::Wish(Wish::Connected));
        machine.step(now, Event::Ready(id(0)));
        let actions = machine.step(now, Event::GoAway(id(0), Calm::Asked));
        assert_eq!((machine.patience(), actions), (2, vec![Action::Connect(id(1))]), "and is no failure, however young it was");
    }
}
