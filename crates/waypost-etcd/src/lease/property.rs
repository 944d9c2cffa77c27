//! Property test of the lease machine against a model of etcd's lessor, from seeds. After any
//! mixture of faults, every caller that renews a lease gets the correct result.

use std::collections::BTreeMap;
use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;
use waypost_conformance::{CaseLog, seeds};

use super::machine::{FRESH, LeaseAction, LeaseEvent, LeaseMachine, LeaseRenewal};
use crate::timing::Timing;

const TTL: Duration = Duration::from_secs(5);
const INTERVAL: Duration = Duration::from_secs(1);
const FAULTS: Duration = Duration::from_secs(30);
/// Time within which a renewal succeeds once the faults have ended: a silent stream and its
/// backoff, then another stream that was silent already and its backoff.
const RECOVERY: Duration = Duration::from_secs(6);

/// Limits per second. A loop without backoff does hundreds.
const STREAMS_IN_A_SECOND: u32 = 40;
const KEEPALIVES_IN_A_SECOND: u32 = 80;

#[derive(Debug)]
struct Lease {
    renewed: Instant,
    term: u64,
}

/// Caller that renews its lease, and grants another when the result demands it.
#[derive(Debug)]
struct Caller {
    lease: i64,
    next: Instant,
    waiting_since: Option<Instant>,
}

struct Simulation {
    now: Instant,
    start: Instant,
    rng: Rng,
    case_log: CaseLog,
    machine: LeaseMachine,
    leases: BTreeMap<i64, Lease>,
    term: u64,
    /// Keepalives and responses in flight, in order.
    keepalives: Vec<(Instant, i64)>,
    responses: Vec<(Instant, LeaseEvent)>,
    open: bool,
    is_mute: bool,
    paused: bool,
    callers: Vec<Caller>,
    granted: i64,
    second: Instant,
    streams: u32,
    sent: u32,
    /// Leases were revoked, or the model was paused.
    excused: bool,
}

#[tokio::test(start_paused = true)]
async fn leases_are_kept_or_reported_as_lost_after_any_faults() {
    for seed in seeds(200) {
        let case_log = CaseLog::new("-p waypost-etcd --lib leases_are_kept", seed);
        let mut simulation = Simulation::new(case_log, Rng::with_seed(seed));
        // Half of the cases have stream faults only, which must not lose a lease.
        let gentle = simulation.rng.bool();
        (0..3).for_each(|_| simulation.add_caller());
        let end = simulation.now + FAULTS;
        while simulation.now < end {
            let pause = Duration::from_millis(simulation.rng.u64(0..1_000));
            simulation.run(pause);
            simulation.inject_fault(gentle);
        }
        simulation.log("no more faults");
        (simulation.paused, simulation.is_mute) = (false, false);
        simulation.run(RECOVERY);
        simulation.check_recovered();
        simulation.forget_all();
    }
}

impl Simulation {
    fn new(case_log: CaseLog, rng: Rng) -> Self {
        let now = Instant::now();
        let machine = LeaseMachine::new(Timing::default(), Rng::with_seed(case_log.seed() ^ 1));
        Self {
            now,
            start: now,
            rng,
            case_log,
            machine,
            leases: BTreeMap::new(),
            term: 2,
            keepalives: Vec::new(),
            responses: Vec::new(),
            open: false,
            is_mute: false,
            paused: false,
            callers: Vec::new(),
            granted: 0,
            second: now,
            streams: 0,
            sent: 0,
            excused: false,
        }
    }

    fn log(&self, what: impl std::fmt::Display) {
        self.case_log.record(format!(
            "{:8.3} s {what}",
            (self.now - self.start).as_secs_f64()
        ));
    }

    fn inject_fault(&mut self, gentle: bool) {
        match self.rng.u32(..if gentle { 60 } else { 100 }) {
            0..20 => {
                self.log("the stream breaks");
                self.break_stream();
            }
            20..35 => {
                self.log("the stream is mute");
                self.is_mute = true;
            }
            35..45 => self.add_caller(),
            45..60 => self.remove_caller(),
            60..70 => {
                self.log("another leader");
                self.term += 1;
            }
            70..80 => self.revoke(),
            80..90 => {
                self.log("paused");
                (self.paused, self.excused) = (true, true);
            }
            _ => {
                self.log("resumed");
                self.paused = false;
            }
        }
    }

    fn add_caller(&mut self) {
        if self.callers.len() < 6 {
            let lease = self.grant();
            let next = self.now + self.later(1_000);
            self.callers.push(Caller {
                lease,
                next,
                waiting_since: None,
            });
        }
    }

    fn remove_caller(&mut self) {
        if self.callers.len() > 1 {
            let caller = self
                .callers
                .swap_remove(self.rng.usize(..self.callers.len()));
            self.log(format!("{} is forgotten", caller.lease));
            self.step(LeaseEvent::Forget(caller.lease));
        }
    }

    fn revoke(&mut self) {
        let ids: Vec<_> = self.leases.keys().copied().collect();
        if let Some(id) = self.rng.choice(ids) {
            self.log(format!("{id} is revoked"));
            self.leases.remove(&id);
            self.excused = true;
        }
    }

    fn grant(&mut self) -> i64 {
        self.granted += 1;
        let id = self.granted;
        self.log(format!("{id} is granted"));
        self.leases.insert(
            id,
            Lease {
                renewed: self.now,
                term: self.term,
            },
        );
        self.step(LeaseEvent::Granted(id, Some(self.term)));
        id
    }

    fn later(&mut self, longest: u64) -> Duration {
        Duration::from_millis(self.rng.u64(1..=longest))
    }

    fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(next) = self.next().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.step_next();
        }
        self.now = end;
    }

    fn next(&self) -> Option<Instant> {
        let sent = self
            .keepalives
            .first()
            .filter(|_| self.is_serving())
            .map(|(at, _)| *at);
        let arrived = self
            .responses
            .first()
            .filter(|_| !self.is_mute)
            .map(|(at, _)| *at);
        let callers = self.callers.iter().map(|caller| caller.next);
        sent.into_iter()
            .chain(arrived)
            .chain(self.machine.deadline())
            .chain(callers)
            .min()
    }

    fn is_serving(&self) -> bool {
        !self.paused && !self.is_mute
    }

    fn step_next(&mut self) {
        let now = self.now;
        if !self.paused {
            self.leases.retain(|_, lease| now < lease.renewed + TTL);
        }
        if self.is_serving() && self.keepalives.first().is_some_and(|(at, _)| *at <= now) {
            let (_, id) = self.keepalives.remove(0);
            let ttl = self.leases.get_mut(&id).map_or(0, |lease| {
                lease.renewed = now;
                5
            });
            let at = now + self.later(20);
            let at = self.responses.last().map_or(at, |(last, _)| at.max(*last));
            self.responses
                .push((at, LeaseEvent::Response(id, ttl, self.term)));
        } else if !self.is_mute && self.responses.first().is_some_and(|(at, _)| *at <= now) {
            let (_, response) = self.responses.remove(0);
            self.step(response);
        } else if let Some(caller) = self.callers.iter_mut().find(|caller| caller.next <= now) {
            caller.next = now + INTERVAL;
            caller.waiting_since.get_or_insert(now);
            let lease = caller.lease;
            self.step(LeaseEvent::Renew(lease, None));
        } else {
            self.step(LeaseEvent::Tick);
        }
    }

    fn break_stream(&mut self) {
        if std::mem::take(&mut self.open) {
            self.close_stream();
            self.step(LeaseEvent::StreamBroken);
        }
    }

    fn close_stream(&mut self) {
        (self.open, self.is_mute) = (false, false);
        self.keepalives.clear();
        self.responses.clear();
    }

    fn step(&mut self, event: LeaseEvent) {
        for action in self.machine.step(self.now, event) {
            match action {
                LeaseAction::OpenStream => {
                    self.close_stream();
                    (self.open, self.streams) = (true, self.streams + 1);
                }
                LeaseAction::CloseStream(_) => self.close_stream(),
                LeaseAction::SendKeepAlive(id) => {
                    self.sent += 1;
                    let at = self.now + self.later(20);
                    let at = self.keepalives.last().map_or(at, |(last, _)| at.max(*last));
                    self.keepalives.push((at, id));
                }
                LeaseAction::Complete(id, renewal) => self.complete(id, renewal),
            }
        }
        if self.now >= self.second + Duration::from_secs(1) {
            (self.second, self.streams, self.sent) = (self.now, 0, 0);
        }
        assert!(
            self.streams <= STREAMS_IN_A_SECOND,
            "{} streams in a second",
            self.streams
        );
        assert!(
            self.sent <= KEEPALIVES_IN_A_SECOND,
            "{} questions in a second",
            self.sent
        );
    }

    fn complete(&mut self, id: i64, renewal: LeaseRenewal) {
        let Some(caller) = self.callers.iter().position(|caller| caller.lease == id) else {
            return;
        };
        match renewal {
            LeaseRenewal::Alive => {
                // A lease revoked since was renewed before; for a paused lessor no time passes.
                let age = self.leases.get(&id).map(|lease| self.now - lease.renewed);
                let fresh = age.is_none_or(|age| {
                    age <= Timing::default().heartbeat_timeout.max(FRESH) || self.paused
                });
                assert!(
                    fresh && (age.is_some() || self.excused),
                    "lease {id} is reported as alive; renewed {age:?} ago"
                );
                self.callers[caller].waiting_since = None;
                return;
            }
            LeaseRenewal::StaleTerm => assert!(
                self.leases
                    .get(&id)
                    .is_none_or(|lease| lease.term < self.term),
                "no other leader"
            ),
            LeaseRenewal::Expired => {
                assert!(self.excused, "lease {id} was lost by faults of streams");
            }
        }
        self.log(format!("{id} is reported as {renewal:?}"));
        self.callers[caller].waiting_since = None;
        // Like the record writer: grant another lease, and stop the keepalives of the old one.
        self.callers[caller].lease = 0;
        self.step(LeaseEvent::Forget(id));
        let lease = self.grant();
        self.callers[caller].lease = lease;
    }

    fn check_recovered(&self) {
        for caller in &self.callers {
            let waiting = caller.waiting_since.map(|since| self.now - since);
            assert!(
                waiting.is_none_or(|waiting| waiting < INTERVAL),
                "lease {} is wanted for {waiting:?}",
                caller.lease
            );
            assert!(
                self.leases.contains_key(&caller.lease),
                "lease {} is not there",
                caller.lease
            );
        }
    }

    /// No state is left of leases that are no longer needed.
    fn forget_all(&mut self) {
        for caller in std::mem::take(&mut self.callers) {
            self.step(LeaseEvent::Forget(caller.lease));
        }
        assert_eq!(
            (self.open, self.machine.deadline()),
            (false, None),
            "something is left"
        );
    }
}
