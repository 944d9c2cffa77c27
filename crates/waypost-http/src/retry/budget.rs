//! Retry budget: a fraction of the calls of the last window plus some retries per second, so that a
//! failing service is not overloaded by retries. Nothing accumulates beyond the window.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Number of slots in a window. A sum over slots is exact to one slot; the rounding always favours
/// the service.
const SLOTS: u64 = 10;
/// Number of slots kept: more than a window and its partial slot, and a power of two.
const RING: usize = 16;
/// Bits of a cell that count calls; the other bits hold the lap of the ring that the count belongs
/// to.
const COUNT_BITS: u32 = 40;
const COUNT: u64 = (1 << COUNT_BITS) - 1;

const SHORTEST_WINDOW: Duration = Duration::from_secs(1);
const LONGEST_WINDOW: Duration = Duration::from_secs(24 * 60 * 60);

/// Limits of the retries that a client may make to one service.
///
/// Within any `window`, the number of retries is at most `per_call` × the calls of that window,
/// plus the greater of `per_second` × `window` and `initial`. It is the field
/// [`budget`](crate::ClientConfig::budget) of the client's configuration, and by flag
/// `--client-config budget-per-call=0.1` (`budget-per-second`, `budget-initial`, `budget-window`).
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/plain.rs"));
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use waypost_http::{Client, ClientConfig, ServedBy};
///
/// // One retry in all.
/// let mut config = ClientConfig::default();
/// config.budget.per_call = 0.0;
/// config.budget.per_second = 0.0;
/// config.budget.initial = 1;
///
/// // The only node responds 503 (unavailable).
/// # let client = Client::new(nodes([serve(503).await]), config);
/// # let mut policy = waypost_http::Policy::default();
/// # policy.idempotent.insert("/users".to_owned());
/// # let mut config = ChannelConfig::default();
/// # config.policy = Arc::new(policy);
/// # let users = channel(&client, config);
/// for attempts in [2, 1] {
///     let response = users.call(Request::get("/users").body(Empty::<Bytes>::new())?).await?;
///     let served_by = response.extensions().get::<ServedBy>().ok_or("no node")?;
///     assert_eq!(served_by.attempts, attempts);
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct BudgetConfig {
    /// Ratio of retries to calls. Default 0.2.
    pub per_call: f64,
    /// Retries per second, at most those of one window. Default 10.
    pub per_second: f64,
    /// Retries available at the start, before any time has passed. Default 10.
    pub initial: u32,
    /// Length of the sliding window: earlier calls and retries do not count. Default 10 s. A window
    /// below 1 s counts as 1 s, and one above a day as a day.
    pub window: Duration,
}

impl Default for BudgetConfig {
    fn default() -> Self {
        Self {
            per_call: 0.2,
            per_second: 10.0,
            initial: 10,
            window: Duration::from_secs(10),
        }
    }
}

/// Retry budget of one client for one service. A call costs one atomic add; only a retry takes the
/// lock.
#[derive(Debug)]
pub(crate) struct Budget {
    config: BudgetConfig,
    start: Instant,
    window: Duration,
    slot_nanos: u64,
    calls: [AtomicU64; RING],
    spent: Mutex<Spent>,
}

/// Retries taken, by slot.
#[derive(Debug, Default)]
struct Spent {
    slots: [u64; RING],
    newest: u64,
}

impl Budget {
    /// Creates a budget whose first window starts at `now`.
    pub(crate) fn new(config: BudgetConfig, now: Instant) -> Self {
        let window = config.window.clamp(SHORTEST_WINDOW, LONGEST_WINDOW);
        let slot_nanos = nanos(window) / SLOTS;
        Self {
            config,
            start: now,
            window,
            slot_nanos,
            calls: Default::default(),
            spent: Mutex::default(),
        }
    }

    /// Counts a call that starts at `now`. Its retries are not calls.
    pub(crate) fn deposit(&self, now: Instant) {
        let slot = self.slot_at(now);
        let (cell, turn) = self.cell(slot);
        let add = |value: u64| {
            if value & !COUNT == turn {
                value + 1
            } else {
                turn | 1
            }
        };
        if cell.load(Relaxed) & !COUNT == turn {
            cell.fetch_add(1, Relaxed);
        } else {
            // The first call of a slot, once a second with defaults, replaces the count of an
            // earlier lap.
            let _ = cell.fetch_update(Relaxed, Relaxed, |value| Some(add(value)));
        }
    }

    /// Takes one retry at `now`. Returns false if the budget is exhausted.
    pub(crate) fn withdraw(&self, now: Instant) -> bool {
        let slot = self.slot_at(now);
        let allowed = self.config.per_call * self.recent_calls(slot) as f64 + self.reserve(now);
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        spent.advance_to(slot);
        let covered = spent.recent() as f64 + 1.0 <= allowed;
        if covered {
            spent.add();
        }
        covered
    }

    /// Returns the calls of the slot and the nine before it: never more than those of the last
    /// window.
    fn recent_calls(&self, slot: u64) -> u64 {
        (slot.saturating_sub(SLOTS - 1)..=slot)
            .map(|slot| self.calls_in(slot))
            .sum()
    }

    fn calls_in(&self, slot: u64) -> u64 {
        let (cell, turn) = self.cell(slot);
        let value = cell.load(Relaxed);
        if value & !COUNT == turn {
            value & COUNT
        } else {
            0
        }
    }

    /// Returns the retries that need no calls: `initial` at the start, growing to those of one
    /// window.
    fn reserve(&self, now: Instant) -> f64 {
        let elapsed = now.saturating_duration_since(self.start).min(self.window);
        let initial = f64::from(self.config.initial);
        let most = (self.config.per_second * self.window.as_secs_f64()).max(initial);
        (initial + self.config.per_second * elapsed.as_secs_f64()).min(most)
    }

    fn slot_at(&self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.start)) / self.slot_nanos
    }

    /// Returns the cell of a slot, and the lap that a current count carries in its upper bits.
    fn cell(&self, slot: u64) -> (&AtomicU64, u64) {
        let turn = slot / RING as u64 + 1;
        (&self.calls[slot as usize % RING], turn << COUNT_BITS)
    }
}

impl Spent {
    /// Empties the slots between the newest and `slot`.
    fn advance_to(&mut self, slot: u64) {
        let passed = slot.saturating_sub(self.newest).min(RING as u64);
        for passed in 0..passed {
            self.slots[(slot - passed) as usize % RING] = 0;
        }
        self.newest = self.newest.max(slot);
    }

    /// Returns the retries of the newest slot and the ten before it: never fewer than those of the
    /// last window.
    fn recent(&self) -> u64 {
        let oldest = self.newest.saturating_sub(SLOTS);
        (oldest..=self.newest)
            .map(|slot| self.slots[slot as usize % RING])
            .sum()
    }

    fn add(&mut self) {
        self.slots[self.newest as usize % RING] += 1;
    }
}

fn nanos(duration: Duration) -> u64 {
    duration
        .as_secs()
        .saturating_mul(1_000_000_000)
        .saturating_add(u64::from(duration.subsec_nanos()))
}

#[cfg(test)]
mod tests;
