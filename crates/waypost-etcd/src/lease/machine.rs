//! State machine of lease keepalives. Pure: time and randomness are arguments.
//!
//! ```text
//!  renewal ─▶ renewed since the caller's last one? ──yes──▶ done; next keepalive due
//!  wanted        no                                         after the caller's interval
//!                ▼            no response in 1 s, or the stream broke
//!           keepalive sent ──────────────────────────────▶ sent again on a stream
//!                │                                         to the next member
//!                ▼
//!            response: ttl > 0: kept, ttl ≤ 0: lost
//! ```
//!
//! Many registrations share a lease, and each renews it once per interval. One keepalive serves all
//! of them: a renewal is satisfied by any keepalive sent after the caller's previous renewal. The
//! time to the next keepalive is never longer than the shortest interval of a caller. A keepalive
//! sent less than 500 ms ago satisfies every caller, including new ones.
//!
//! A lease is not used after its grant's raft term. A leader that froze and was replaced wakes up
//! with leases that expired by its own clock, and may propose their revocation before it learns of
//! its successor. Leases in use must therefore be unknown to it.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::timing::Timing;

/// Time for which a renewal satisfies every caller.
pub(super) const FRESH: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeaseEvent {
    Tick,
    /// Renewal wanted for a lease, with the time of the caller's previous one.
    Renew(i64, Option<Instant>),
    /// Lease granted just now, in this raft term; none if the response was lost.
    Granted(i64, Option<u64>),
    /// Lease no longer needed.
    Forget(i64),
    /// Keepalive response for a lease: its ttl in seconds, and the raft term.
    Response(i64, i64, u64),
    /// End of the stream.
    StreamBroken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeaseAction {
    /// Open a stream to the current member.
    OpenStream,
    /// Close the stream.
    CloseStream(CloseReason),
    /// Send a keepalive on the stream.
    SendKeepAlive(i64),
    /// Notify the callers that wait for this lease.
    Complete(i64, LeaseRenewal),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CloseReason {
    /// No response before the timeout.
    Timeout,
    /// No lease needs it.
    Idle,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeaseRenewal {
    Alive,
    /// The lease is alive, but its grant's leader was replaced: it must be replaced.
    StaleTerm,
    Expired,
}

#[derive(Debug)]
pub(super) struct LeaseMachine {
    leases: BTreeMap<i64, LeaseState>,
    open: bool,
    retry_at: Option<Instant>,
    failures: u32,
    timing: Timing,
    rng: fastrand::Rng,
}

#[derive(Clone, Copy, Debug, Default)]
struct LeaseState {
    /// Time from which a keepalive is due.
    due: Option<Instant>,
    /// Time of the keepalive in flight on the current stream.
    sent_at: Option<Instant>,
    /// Send time of the last keepalive that got a response.
    renewed_at: Option<Instant>,
    /// True if callers wait for the response.
    has_waiters: bool,
    /// Raft term of the grant; none until it is known.
    term: Option<u64>,
    is_stale: bool,
}

impl LeaseState {
    fn renewal(&self) -> LeaseRenewal {
        if self.is_stale {
            LeaseRenewal::StaleTerm
        } else {
            LeaseRenewal::Alive
        }
    }
}

impl LeaseMachine {
    pub(super) fn new(timing: Timing, rng: fastrand::Rng) -> Self {
        Self {
            leases: BTreeMap::new(),
            open: false,
            retry_at: None,
            failures: 0,
            timing,
            rng,
        }
    }

    pub(super) fn step(&mut self, now: Instant, event: LeaseEvent) -> Vec<LeaseAction> {
        let mut actions = Vec::new();
        match event {
            LeaseEvent::Tick => {}
            LeaseEvent::Renew(id, last) => self.renew(now, id, last, &mut actions),
            LeaseEvent::Granted(id, term) => {
                self.leases.insert(
                    id,
                    LeaseState {
                        // A lease whose grant was not confirmed may be old.
                        renewed_at: term.map(|_| now),
                        term,
                        ..LeaseState::default()
                    },
                );
            }
            LeaseEvent::Forget(id) => drop(self.leases.remove(&id)),
            LeaseEvent::Response(id, ttl, term) => self.on_response(id, ttl, term, &mut actions),
            LeaseEvent::StreamBroken => self.on_stream_broken(now),
        }
        if self.open && self.response_deadline().is_some_and(|at| at <= now) {
            actions.push(LeaseAction::CloseStream(CloseReason::Timeout));
            self.on_stream_broken(now);
        }
        if self.open && self.leases.is_empty() {
            actions.push(LeaseAction::CloseStream(CloseReason::Idle));
            self.open = false;
        }
        self.send_due(now, &mut actions);
        actions
    }

    fn renew(
        &mut self,
        now: Instant,
        id: i64,
        last: Option<Instant>,
        actions: &mut Vec<LeaseAction>,
    ) {
        let lease = self.leases.entry(id).or_default();
        let interval = last.map_or(FRESH, |last| FRESH.max(now.saturating_duration_since(last)));
        let suffices = |at: &Instant| now < *at + FRESH || last.is_some_and(|last| last < *at);
        let due = if let Some(at) = lease.renewed_at.filter(suffices) {
            actions.push(LeaseAction::Complete(id, lease.renewal()));
            at + interval
        } else {
            lease.has_waiters = true;
            now
        };
        lease.due = Some(lease.due.map_or(due, |earlier| earlier.min(due)));
    }

    fn on_response(&mut self, id: i64, ttl: i64, term: u64, actions: &mut Vec<LeaseAction>) {
        self.failures = 0;
        let Some(lease) = self.leases.get_mut(&id) else {
            return;
        };
        lease.is_stale |= term > *lease.term.get_or_insert(term);
        let renewal = if ttl > 0 {
            lease.renewal()
        } else {
            LeaseRenewal::Expired
        };
        if std::mem::take(&mut lease.has_waiters) || renewal == LeaseRenewal::Expired {
            actions.push(LeaseAction::Complete(id, renewal));
        }
        lease.renewed_at = lease.sent_at.take().or(lease.renewed_at);
        lease.due = None;
        if renewal == LeaseRenewal::Expired {
            self.leases.remove(&id);
        }
    }

    fn on_stream_broken(&mut self, now: Instant) {
        self.open = false;
        let delay = self
            .timing
            .backoff_after_failover(&mut self.rng, self.failures);
        self.retry_at = Some(now + delay);
        self.failures = self.failures.saturating_add(1);
        self.leases
            .values_mut()
            .for_each(|lease| lease.sent_at = None);
    }

    fn send_due(&mut self, now: Instant, actions: &mut Vec<LeaseAction>) {
        if !self.open
            && self
                .leases
                .values()
                .any(|lease| lease.due.is_some_and(|due| due <= now))
        {
            if self.retry_at.is_some_and(|at| now < at) {
                return;
            }
            self.open = true;
            actions.push(LeaseAction::OpenStream);
        }
        if !self.open {
            return;
        }
        for (id, lease) in &mut self.leases {
            if lease.sent_at.is_none() && lease.due.is_some_and(|due| due <= now) {
                lease.sent_at = Some(now);
                actions.push(LeaseAction::SendKeepAlive(*id));
            }
        }
    }

    fn response_deadline(&self) -> Option<Instant> {
        self.leases
            .values()
            .filter_map(|lease| lease.sent_at)
            .min()
            .map(|sent_at| sent_at + self.timing.heartbeat_timeout)
    }

    /// Returns the time of the next step, if no event comes earlier.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let due = self
            .leases
            .values()
            .filter(|lease| lease.sent_at.is_none())
            .filter_map(|lease| lease.due)
            .min();
        match self.open {
            true => self.response_deadline().into_iter().chain(due).min(),
            false => due.map(|due| self.retry_at.map_or(due, |retry| retry.max(due))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Creates a machine with two leases, granted long ago in the second term.
    fn machine() -> (LeaseMachine, impl Fn(u64) -> Instant) {
        let started = Instant::now();
        let mut machine = LeaseMachine::new(Timing::default(), fastrand::Rng::with_seed(1));
        for id in [7, 8] {
            machine.step(started, LeaseEvent::Granted(id, Some(2)));
        }
        (machine, move |ms| {
            started + Duration::from_secs(60) + Duration::from_millis(ms)
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_is_sent_and_completed() {
        let (mut machine, at) = machine();
        assert_eq!(
            machine.step(at(0), LeaseEvent::Renew(7, None)),
            [LeaseAction::OpenStream, LeaseAction::SendKeepAlive(7)]
        );
        assert_eq!(machine.step(at(1), LeaseEvent::Renew(7, None)), []);
        assert_eq!(
            machine.step(at(5), LeaseEvent::Response(7, 15, 2)),
            [LeaseAction::Complete(7, LeaseRenewal::Alive)]
        );
        assert_eq!(machine.deadline(), None);
        assert_eq!(
            machine.step(at(5_000), LeaseEvent::Renew(7, None)),
            [LeaseAction::SendKeepAlive(7)]
        );
        assert_eq!(
            machine.step(at(5_001), LeaseEvent::Response(7, 0, 2)),
            [LeaseAction::Complete(7, LeaseRenewal::Expired)]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_stale_after_a_change_of_leader() {
        let (mut machine, at) = machine();
        machine.step(at(0), LeaseEvent::Renew(7, None));
        assert_eq!(
            machine.step(at(1), LeaseEvent::Response(7, 15, 3)),
            [LeaseAction::Complete(7, LeaseRenewal::StaleTerm)]
        );
        assert_eq!(
            machine.step(at(2), LeaseEvent::Renew(7, None)),
            [LeaseAction::Complete(7, LeaseRenewal::StaleTerm)]
        );
        machine.step(at(3), LeaseEvent::Renew(8, None));
        assert_eq!(
            machine.step(at(4), LeaseEvent::Response(8, 15, 2)),
            [LeaseAction::Complete(8, LeaseRenewal::Alive)]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_fresh_response_completes_every_renewal_and_is_followed_by_a_keepalive() {
        let (mut machine, at) = machine();
        machine.step(at(0), LeaseEvent::Granted(7, Some(2)));
        for ms in [10, 20, 400] {
            assert_eq!(
                machine.step(at(ms), LeaseEvent::Renew(7, None)),
                [LeaseAction::Complete(7, LeaseRenewal::Alive)]
            );
        }
        assert_eq!(machine.deadline(), Some(at(500)));
        assert_eq!(
            machine.step(at(500), LeaseEvent::Tick),
            [LeaseAction::OpenStream, LeaseAction::SendKeepAlive(7)]
        );
        assert_eq!(machine.step(at(501), LeaseEvent::Response(7, 15, 2)), []);
        assert_eq!(
            machine.step(at(502), LeaseEvent::Renew(7, None)),
            [LeaseAction::Complete(7, LeaseRenewal::Alive)]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn one_keepalive_completes_every_earlier_renewal_and_the_next_follows_the_shortest_interval()
     {
        let (mut machine, at) = machine();
        let alive = [LeaseAction::Complete(7, LeaseRenewal::Alive)];
        machine.step(at(0), LeaseEvent::Renew(7, None));
        machine.step(at(2), LeaseEvent::Response(7, 15, 2));
        for (last, now) in [(-4_900_i64, 100_u64), (-1_000, 4_000)] {
            let last = at(5_000) - Duration::from_millis((5_000 - last).unsigned_abs());
            assert_eq!(
                machine.step(at(now), LeaseEvent::Renew(7, Some(last))),
                alive
            );
        }
        assert_eq!(
            machine.deadline(),
            Some(at(5_000)),
            "as long after it as they wait between two"
        );
        assert_eq!(
            machine.step(at(4_990), LeaseEvent::Renew(7, Some(at(2)))),
            [LeaseAction::SendKeepAlive(7)],
            "its caller needs another keepalive"
        );
        assert_eq!(
            machine.step(at(4_995), LeaseEvent::Renew(7, Some(at(100)))),
            []
        );
        assert_eq!(
            machine.step(at(4_999), LeaseEvent::Response(7, 15, 2)),
            alive
        );
        assert_eq!(
            machine.step(at(9_000), LeaseEvent::Renew(7, Some(at(4_000)))),
            alive
        );
        assert_eq!(
            machine.step(at(9_990), LeaseEvent::Tick),
            [LeaseAction::SendKeepAlive(7)]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_keepalive_without_a_response_is_sent_to_another_member_after_a_second() {
        let (mut machine, at) = machine();
        machine.step(at(0), LeaseEvent::Renew(7, None));
        assert_eq!(machine.deadline(), Some(at(1_000)));
        let again = [
            LeaseAction::CloseStream(CloseReason::Timeout),
            LeaseAction::OpenStream,
            LeaseAction::SendKeepAlive(7),
        ];
        assert_eq!(machine.step(at(1_000), LeaseEvent::Tick), again);
        assert_eq!(
            machine.step(at(2_000), LeaseEvent::Tick),
            [LeaseAction::CloseStream(CloseReason::Timeout)],
            "the second failure backs off"
        );
        let retry = machine.deadline().unwrap();
        assert!(retry <= at(2_100), "no longer than 100 ms");
        assert_eq!(
            machine.step(retry, LeaseEvent::Tick),
            [LeaseAction::OpenStream, LeaseAction::SendKeepAlive(7)]
        );
        assert_eq!(
            machine.step(retry, LeaseEvent::Response(7, 5, 2)),
            [LeaseAction::Complete(7, LeaseRenewal::Alive)]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_broken_stream_is_opened_again_only_for_a_due_keepalive() {
        let (mut machine, at) = machine();
        machine.step(at(0), LeaseEvent::Renew(7, None));
        machine.step(at(1), LeaseEvent::Response(7, 15, 2));
        assert_eq!(machine.step(at(10), LeaseEvent::StreamBroken), []);
        assert_eq!(machine.deadline(), None);
        assert_eq!(
            machine.step(at(900), LeaseEvent::Renew(7, None)),
            [LeaseAction::OpenStream, LeaseAction::SendKeepAlive(7)]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_forgotten_lease_gets_no_keepalive() {
        let (mut machine, at) = machine();
        machine.step(at(0), LeaseEvent::Renew(7, None));
        machine.step(at(0), LeaseEvent::Renew(8, None));
        assert_eq!(machine.step(at(1), LeaseEvent::Forget(7)), []);
        assert_eq!(machine.step(at(2), LeaseEvent::Response(7, 15, 2)), []);
        assert_eq!(
            machine.step(at(3), LeaseEvent::Forget(8)),
            [LeaseAction::CloseStream(CloseReason::Idle)]
        );
    }
}
