//! What retries may cost a service: 20 % of its calls and ten a second, so that a failing service is not buried under them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How many retries a client may make to one service.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BudgetConfig {
    /// Retries for each call made. Default 0.2.
    pub per_call: f64,
    /// Retries for each second that passes. Default 10.
    pub per_second: f64,
    /// Retries to begin with. Default 10.
    pub initial: u32,
    /// Only so much of the past counts. Default 10 s.
    pub window: Duration,
}

impl Default for BudgetConfig {
    fn default() -> Self {
        Self { per_call: 0.2, per_second: 10.0, initial: 10, window: Duration::from_secs(10) }
    }
}

/// One client's budget for one service. A call deposits by one atomic add; only a retry takes the lock.
#[derive(Debug)]
pub struct Budget {
    config: BudgetConfig,
    calls: AtomicU64,
    account: Mutex<Account>,
}

#[derive(Debug)]
struct Account {
    balance: f64,
    calls_seen: u64,
    at: Instant,
}

impl Budget {
    /// A budget that begins now.
    pub fn new(config: BudgetConfig, now: Instant) -> Self {
        let account = Account { balance: f64::from(config.initial), calls_seen: 0, at: now };
        Self { config, calls: AtomicU64::new(0), account: Mutex::new(account) }
    }

    /// Counts a call, not an attempt.
    pub fn deposit(&self) {
        self.calls.fetch_add(1, Relaxed);
    }

    /// Takes one retry, if there is one.
    pub fn withdraw(&self, now: Instant) -> bool {
        let mut account = self.account.lock().unwrap_or_else(PoisonError::into_inner);
        account.settle(&self.config, self.calls.load(Relaxed), now);
        let covered = account.balance >= 1.0;
        if covered {
            account.balance -= 1.0;
        }
        covered
    }
}

impl Account {
    fn settle(&mut self, config: &BudgetConfig, calls: u64, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at);
        let new_calls = (calls - self.calls_seen) as f64;
        let window_share = if elapsed > config.window { config.window.as_secs_f64() / elapsed.as_secs_f64() } else { 1.0 };
        let earned = config.per_call * new_calls * window_share + config.per_second * elapsed.min(config.window).as_secs_f64();
        let ceiling = (config.per_second * config.window.as_secs_f64()).max(config.per_call * new_calls).max(self.balance);
        self.balance = (self.balance + earned).min(ceiling.max(f64::from(config.initial)));
        self.calls_seen = calls;
        self.at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn total_failure_gets_a_fifth_more_and_ten_a_second() {
        let start = Instant::now();
        let budget = Budget::new(BudgetConfig::default(), start);
        let mut retries = 0;
        for ms in 0..30_000u64 {
            budget.deposit();
            while budget.withdraw(start + Duration::from_millis(ms)) {
                retries += 1;
            }
        }
        let bound = 10 + 30_000 / 5 + 10 * 30;
        assert!(retries <= bound, "{retries} of {bound}");
        assert!(retries >= bound * 9 / 10, "{retries} of {bound}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_plenty_is_not_kept() {
        let start = Instant::now();
        let budget = Budget::new(BudgetConfig::default(), start);
        for _ in 0..1_000_000 {
            budget.deposit();
        }
        let later = start + Duration::from_secs(3600);
        let retries = (0..10_000).take_while(|_| budget.withdraw(later)).count();
        assert!(retries <= 1_000, "{retries}");
    }
}
