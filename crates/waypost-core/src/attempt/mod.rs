//! What may be tried again: policy, budget, trail.
//!
//! The table of what ends an attempt and what follows lives in [`Attempts::after`] and nowhere else. This room never knows sockets,
//! protocols, or how a node is picked.

mod budget;
mod trail;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

pub use budget::{Budget, BudgetConfig};
pub use trail::{Step, Trail};

/// How an attempt ended without an answer for the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The request never left, or the server said that it did not look at it.
    Unprocessed,
    /// The connection was lost, or went silent, after the request was sent and before any answer.
    Lost,
    /// The server answered that it is unavailable, before any data.
    Unavailable(Pushback),
}

/// What a server said of trying again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushback {
    /// Nothing.
    None,
    /// Not before this time has passed.
    After(Duration),
    /// Never.
    Never,
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another peer that was not tried yet, at once. If there is none, ask again with [`Attempts::after_none_left`].
    Untried,
    /// Any peer, one that was not tried first, once this time has passed.
    After(Duration),
    /// The error goes to the caller.
    GiveUp,
}

/// What may be sent twice, and how often.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Policy {
    /// Attempts that count, the first included. Default 3; 1 means no retries but the free ones.
    pub max_attempts: u32,
    /// Full paths (`/package.Service/Method`) that may be sent twice, beside those the registry says so of. Default none.
    pub idempotent: HashSet<String>,
    /// Full paths that are never sent twice, whatever the registry says. Default none.
    pub never: HashSet<String>,
    /// What a retry costs.
    pub budget: BudgetConfig,
    /// The bounds of the delay before a peer is tried a second time, drawn with full jitter. Default 25 to 250 ms.
    pub return_delay: (Duration, Duration),
}

impl Policy {
    /// Whether the method at `path` may be sent twice, where `known` is what its service says of it.
    pub fn is_idempotent(&self, path: &str, known: bool) -> bool {
        (known || self.idempotent.contains(path)) && !self.never.contains(path)
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            idempotent: HashSet::new(),
            never: HashSet::new(),
            budget: BudgetConfig::default(),
            return_delay: (Duration::from_millis(25), Duration::from_millis(250)),
        }
    }
}

/// The attempts of one call.
#[derive(Debug)]
pub struct Attempts {
    policy: Arc<Policy>,
    idempotent: bool,
    counted: u32,
    moved_free: bool,
}

impl Attempts {
    /// A call that begins its first attempt.
    pub fn new(policy: Arc<Policy>) -> Self {
        Self { policy, idempotent: false, counted: 1, moved_free: false }
    }

    /// Notes whether the method may be sent twice: the picked node's record, or the policy, says so.
    pub fn set_idempotent(&mut self, idempotent: bool) {
        self.idempotent = idempotent;
    }

    /// What follows an attempt that ended so.
    pub fn after(&mut self, end: &End, now: Instant, budget: &Budget) -> Next {
        match end {
            End::Unprocessed => Next::Untried,
            End::Lost if self.idempotent && !self.moved_free => {
                self.moved_free = true;
                self.count(Duration::ZERO)
            }
            End::Lost if self.idempotent => self.paid(now, budget, Duration::ZERO),
            End::Unavailable(Pushback::None) if self.idempotent => self.paid(now, budget, Duration::ZERO),
            End::Unavailable(Pushback::After(delay)) if self.idempotent => self.paid(now, budget, *delay),
            End::Lost | End::Unavailable(_) => Next::GiveUp,
        }
    }

    /// What follows when nobody looked at the request and no untried peer is ready: it is safe to wait for any, within the budget.
    pub fn after_none_left(&mut self, now: Instant, budget: &Budget) -> Next {
        self.paid(now, budget, Duration::ZERO)
    }

    fn paid(&mut self, now: Instant, budget: &Budget, delay: Duration) -> Next {
        if self.counted < self.policy.max_attempts && budget.withdraw(now) { self.count(delay) } else { Next::GiveUp }
    }

    fn count(&mut self, delay: Duration) -> Next {
        if self.counted >= self.policy.max_attempts {
            return Next::GiveUp;
        }
        self.counted += 1;
        Next::After(delay)
    }

    /// The delay before a peer is tried a second time; `chance` is even in 0..1.
    pub fn return_delay(&self, chance: f64) -> Duration {
        let (min, max) = self.policy.return_delay;
        min + (max - min).mul_f64(chance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempts(idempotent: bool) -> Attempts {
        let mut attempts = Attempts::new(Arc::new(Policy::default()));
        attempts.set_idempotent(idempotent);
        attempts
    }

    #[tokio::test(start_paused = true)]
    async fn the_table_of_what_follows() {
        let now = Instant::now();
        let rich = || Budget::new(BudgetConfig::default(), now);
        let again = Next::After(Duration::ZERO);
        let pushed = Next::After(Duration::from_millis(70));
        let table = [
            (true, End::Unprocessed, Next::Untried),
            (false, End::Unprocessed, Next::Untried),
            (true, End::Lost, again),
            (false, End::Lost, Next::GiveUp),
            (true, End::Unavailable(Pushback::None), again),
            (false, End::Unavailable(Pushback::None), Next::GiveUp),
            (true, End::Unavailable(Pushback::After(Duration::from_millis(70))), pushed),
            (true, End::Unavailable(Pushback::Never), Next::GiveUp),
        ];
        for (idempotent, end, next) in table {
            assert_eq!(attempts(idempotent).after(&end, now, &rich()), next, "{idempotent} {end:?}");
        }
    }

    #[test]
    fn the_policy_may_add_to_what_a_service_says_and_may_forbid_it() {
        let paths = |path: &str| HashSet::from([path.to_owned()]);
        let policy = Policy { idempotent: paths("/a"), never: paths("/n"), ..Policy::default() };
        let table = [("/a", false, true), ("/b", false, false), ("/b", true, true), ("/n", true, false)];
        for (path, known, expected) in table {
            assert_eq!(policy.is_idempotent(path, known), expected, "{path} {known}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_move_from_a_lost_connection_is_free_and_the_second_is_paid() {
        let now = Instant::now();
        let poor = Budget::new(BudgetConfig { initial: 0, ..BudgetConfig::default() }, now);
        let mut attempts = attempts(true);
        assert_eq!(attempts.after(&End::Lost, now, &poor), Next::After(Duration::ZERO));
        assert_eq!(attempts.after(&End::Lost, now, &poor), Next::GiveUp);
    }

    #[tokio::test(start_paused = true)]
    async fn three_attempts_at_most() {
        let now = Instant::now();
        let budget = Budget::new(BudgetConfig::default(), now);
        let mut attempts = attempts(true);
        let end = End::Unavailable(Pushback::None);
        assert_eq!(attempts.after(&end, now, &budget), Next::After(Duration::ZERO));
        assert_eq!(attempts.after(&end, now, &budget), Next::After(Duration::ZERO));
        assert_eq!(attempts.after(&end, now, &budget), Next::GiveUp);
    }
}
