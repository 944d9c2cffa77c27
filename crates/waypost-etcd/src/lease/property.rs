//! Property test of the lease machine against a model of etcd's lessor, from seeds. After any
//! mixture of faults, every caller that renews a lease gets the correct result.

use std::collections::BTreeMap;
use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;
use waypost_conformance::{CaseLog, seeds};

use super::step::{ANSWER, Action, Event, FRESH, Fate, Machine};

const TTL: Duration = Duration::from_secs(5);
const INTERVAL: Duration = Duration::from_secs(1);
const TROUBLE: Duration = Duration::from_secs(30);
/// Time within which a renewal succeeds once the faults have ended: a silent stream and its
/// backoff, then another stream that was silent already and its backoff.
const FULFILLED: Duration = Duration::from_secs(6);

/// Limits per second. A loop without backoff does hundreds.
const STREAMS_IN_A_SECOND: u32 = 40;
const QUESTIONS_IN_A_SECOND: u32 = 80;

#[derive(Debug)]
struct Lease {
    renewed: Instant,
    term: u64,
}

/// Caller that renews its lease, and grants another when the result demands it.
#[derive(Debug)]
struct Keeper {
    lease: i64,
    next: Instant,
    wants_since: Option<Instant>,
}

struct World {
    now: Instant,
    begun: Instant,
    rng: Rng,
    story: CaseLog,
    machine: Machine,
    leases: BTreeMap<i64, Lease>,
    term: u64,
    /// Keepalives and responses in flight, in order.
    questions: Vec<(Instant, i64)>,
    answers: Vec<(Instant, Event)>,
    open: bool,
    mute: bool,
    paused: bool,
    keepers: Vec<Keeper>,
    granted: i64,
    second: Instant,
    streams: u32,
    asked: u32,
    /// Leases were revoked, or the model was paused.
    excused: bool,
}

#[tokio::test(start_paused = true)]
async fn whatever_happens_leases_are_kept_or_told_to_be_lost() {
    for seed in seeds(200) {
        let story = CaseLog::new("-p waypost-etcd --lib leases_are_kept", seed);
        let mut world = World::new(story, Rng::with_seed(seed));
        // Half of the cases have stream faults only, which must not lose a lease.
        let gentle = world.rng.bool();
        (0..3).for_each(|_| world.begin());
        let end = world.now + TROUBLE;
        while world.now < end {
            let rest = Duration::from_millis(world.rng.u64(0..1_000));
            world.run(rest);
            world.happen(gentle);
        }
        world.tell("no more faults");
        (world.paused, world.mute) = (false, false);
        world.run(FULFILLED);
        world.is_well();
        world.forget_all();
    }
}

impl World {
    fn new(story: CaseLog, rng: Rng) -> Self {
        let now = Instant::now();
        let machine = Machine::new(Rng::with_seed(story.seed() ^ 1));
        Self {
            now,
            begun: now,
            rng,
            story,
            machine,
            leases: BTreeMap::new(),
            term: 2,
            questions: Vec::new(),
            answers: Vec::new(),
            open: false,
            mute: false,
            paused: false,
            keepers: Vec::new(),
            granted: 0,
            second: now,
            streams: 0,
            asked: 0,
            excused: false,
        }
    }

    fn tell(&self, what: impl std::fmt::Display) {
        self.story.tell(format!(
            "{:8.3} s {what}",
            (self.now - self.begun).as_secs_f64()
        ));
    }

    fn happen(&mut self, gentle: bool) {
        match self.rng.u32(..if gentle { 60 } else { 100 }) {
            0..20 => {
                self.tell("the stream breaks");
                self.breaks();
            }
            20..35 => {
                self.tell("the stream is mute");
                self.mute = true;
            }
            35..45 => self.begin(),
            45..60 => self.end(),
            60..70 => {
                self.tell("another leader");
                self.term += 1;
            }
            70..80 => self.revoke(),
            80..90 => {
                self.tell("paused");
                (self.paused, self.excused) = (true, true);
            }
            _ => {
                self.tell("goes on");
                self.paused = false;
            }
        }
    }

    fn begin(&mut self) {
        if self.keepers.len() < 6 {
            let lease = self.grant();
            let next = self.now + self.later(1_000);
            self.keepers.push(Keeper {
                lease,
                next,
                wants_since: None,
            });
        }
    }

    fn end(&mut self) {
        if self.keepers.len() > 1 {
            let keeper = self
                .keepers
                .swap_remove(self.rng.usize(..self.keepers.len()));
            self.tell(format!("{} is forgotten", keeper.lease));
            self.step(Event::Forget(keeper.lease));
        }
    }

    fn revoke(&mut self) {
        let ids: Vec<_> = self.leases.keys().copied().collect();
        if let Some(id) = self.rng.choice(ids) {
            self.tell(format!("{id} is revoked"));
            self.leases.remove(&id);
            self.excused = true;
        }
    }

    fn grant(&mut self) -> i64 {
        self.granted += 1;
        let id = self.granted;
        self.tell(format!("{id} is granted"));
        self.leases.insert(
            id,
            Lease {
                renewed: self.now,
                term: self.term,
            },
        );
        self.step(Event::Granted(id, self.term));
        id
    }

    fn later(&mut self, longest: u64) -> Duration {
        Duration::from_millis(self.rng.u64(1..=longest))
    }

    fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(next) = self.next().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.fire();
        }
        self.now = end;
    }

    fn next(&self) -> Option<Instant> {
        let asked = self
            .questions
            .first()
            .filter(|_| self.serves())
            .map(|(at, _)| *at);
        let answered = self
            .answers
            .first()
            .filter(|_| !self.mute)
            .map(|(at, _)| *at);
        let keepers = self.keepers.iter().map(|keeper| keeper.next);
        asked
            .into_iter()
            .chain(answered)
            .chain(self.machine.deadline())
            .chain(keepers)
            .min()
    }

    fn serves(&self) -> bool {
        !self.paused && !self.mute
    }

    fn fire(&mut self) {
        let now = self.now;
        if !self.paused {
            self.leases.retain(|_, lease| now < lease.renewed + TTL);
        }
        if self.serves() && self.questions.first().is_some_and(|(at, _)| *at <= now) {
            let (_, id) = self.questions.remove(0);
            let ttl = self.leases.get_mut(&id).map_or(0, |lease| {
                lease.renewed = now;
                5
            });
            let at = now + self.later(20);
            let at = self.answers.last().map_or(at, |(last, _)| at.max(*last));
            self.answers.push((at, Event::Answer(id, ttl, self.term)));
        } else if !self.mute && self.answers.first().is_some_and(|(at, _)| *at <= now) {
            let (_, answer) = self.answers.remove(0);
            self.step(answer);
        } else if let Some(keeper) = self.keepers.iter_mut().find(|keeper| keeper.next <= now) {
            keeper.next = now + INTERVAL;
            keeper.wants_since.get_or_insert(now);
            let lease = keeper.lease;
            self.step(Event::Want(lease, None));
        } else {
            self.step(Event::Tick);
        }
    }

    fn breaks(&mut self) {
        if std::mem::take(&mut self.open) {
            self.hang_up();
            self.step(Event::Broke);
        }
    }

    fn hang_up(&mut self) {
        (self.open, self.mute) = (false, false);
        self.questions.clear();
        self.answers.clear();
    }

    fn step(&mut self, event: Event) {
        for action in self.machine.step(self.now, event) {
            match action {
                Action::Open => {
                    self.hang_up();
                    (self.open, self.streams) = (true, self.streams + 1);
                }
                Action::Drop(_) => self.hang_up(),
                Action::Ask(id) => {
                    self.asked += 1;
                    let at = self.now + self.later(20);
                    let at = self.questions.last().map_or(at, |(last, _)| at.max(*last));
                    self.questions.push((at, id));
                }
                Action::Tell(id, fate) => self.told(id, fate),
            }
        }
        if self.now >= self.second + Duration::from_secs(1) {
            (self.second, self.streams, self.asked) = (self.now, 0, 0);
        }
        assert!(
            self.streams <= STREAMS_IN_A_SECOND,
            "{} streams in a second",
            self.streams
        );
        assert!(
            self.asked <= QUESTIONS_IN_A_SECOND,
            "{} questions in a second",
            self.asked
        );
    }

    fn told(&mut self, id: i64, fate: Fate) {
        let Some(keeper) = self.keepers.iter().position(|keeper| keeper.lease == id) else {
            return;
        };
        match fate {
            Fate::Kept => {
                // A lease revoked since was renewed before; for a paused lessor no time passes.
                let kept = self.leases.get(&id).map(|lease| self.now - lease.renewed);
                let fresh = kept.is_none_or(|age| age <= ANSWER.max(FRESH) || self.paused);
                assert!(
                    fresh && (kept.is_some() || self.excused),
                    "lease {id} is told to be kept; renewed {kept:?} ago"
                );
                self.keepers[keeper].wants_since = None;
                return;
            }
            Fate::Outlived => assert!(
                self.leases
                    .get(&id)
                    .is_none_or(|lease| lease.term < self.term),
                "no other leader"
            ),
            Fate::Lost => assert!(self.excused, "lease {id} was lost by faults of streams"),
        }
        self.tell(format!("{id} is told to be {fate:?}"));
        self.keepers[keeper].wants_since = None;
        // Like the owner: grant another lease, and stop the keepalives of the old one.
        self.keepers[keeper].lease = 0;
        self.step(Event::Forget(id));
        let lease = self.grant();
        self.keepers[keeper].lease = lease;
    }

    fn is_well(&self) {
        for keeper in &self.keepers {
            let waits = keeper.wants_since.map(|since| self.now - since);
            assert!(
                waits.is_none_or(|waits| waits < INTERVAL),
                "lease {} is wanted for {waits:?}",
                keeper.lease
            );
            assert!(
                self.leases.contains_key(&keeper.lease),
                "lease {} is not there",
                keeper.lease
            );
        }
    }

    /// No state is left of leases that are no longer needed.
    fn forget_all(&mut self) {
        for keeper in std::mem::take(&mut self.keepers) {
            self.step(Event::Forget(keeper.lease));
        }
        assert_eq!(
            (self.open, self.machine.deadline()),
            (false, None),
            "something is left"
        );
    }
}
