//! Endless source of one service's events: a watch that is opened again with backoff whenever it
//! fails.
//!
//! The registry is user code. A panic in it counts as an error of the watch. A watcher that fails
//! repeatedly without a pause is not polled for a backoff.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::backoff::BackoffConfig;
use crate::record::ServiceName;
use crate::registry::{AnyRegistry, Error, Event, WatchOptions, Watcher};

/// Time without an error after which a watch resets the backoff.
const CALM: Duration = Duration::from_secs(10);
/// Minimum of the backoff's bounds, regardless of the settings, so that no loop is without a
/// backoff.
const MIN_BACKOFF: Duration = Duration::from_millis(1);

/// Event, or the text of an error.
pub(super) type Item = Result<Event, String>;

type Result<T, E = Error> = std::result::Result<T, E>;
type Opening = Pin<Box<dyn Future<Output = Result<Watcher>> + Send>>;

/// Stream of one service's events and of its registry's errors. Never ends.
pub(super) struct Source {
    registry: AnyRegistry,
    options: WatchOptions,
    name: &'static str,
    backoff: Backoff,
    state: State,
}

enum State {
    Opening(Opening),
    Watching(Watcher),
    /// Waits for a backoff, then polls the watcher again, or opens one.
    Resting(Option<Watcher>, Pin<Box<Sleep>>),
    /// Waits for an instant that the clock cannot represent.
    Never,
}

impl Source {
    /// Creates a source. The first poll opens its watch.
    pub(super) fn new(
        registry: AnyRegistry,
        service: &ServiceName,
        backoff: BackoffConfig,
    ) -> Self {
        let options = WatchOptions::service(service.as_str());
        let name = contain(|| registry.name()).unwrap_or("user's");
        let state = State::Opening(open(&registry, &options));
        Self {
            registry,
            options,
            name,
            backoff: Backoff::new(backoff),
            state,
        }
    }

    /// Returns the next event or error.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Item {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Item> {
        self.poll_watch(cx).map(|item| item.map_err(text))
    }

    fn poll_watch(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event>> {
        loop {
            match &mut self.state {
                State::Opening(opening) => match contain(|| opening.as_mut().poll(cx)) {
                    Ok(Poll::Pending) => return Poll::Pending,
                    Ok(Poll::Ready(Ok(watcher))) => self.begin(watcher),
                    Ok(Poll::Ready(Err(error))) => return Poll::Ready(Err(self.end(error))),
                    Err(message) => return Poll::Ready(Err(self.panicked(&message))),
                },
                State::Watching(watcher) => match contain(|| Pin::new(watcher).poll_next(cx)) {
                    Ok(Poll::Pending) => return Poll::Pending,
                    Ok(Poll::Ready(Some(Ok(event)))) => return Poll::Ready(Ok(event)),
                    Ok(Poll::Ready(Some(Err(error)))) => {
                        return Poll::Ready(Err(self.failed(error)));
                    }
                    Ok(Poll::Ready(None)) => return Poll::Ready(Err(self.ended())),
                    Err(message) => return Poll::Ready(Err(self.panicked(&message))),
                },
                State::Resting(_, sleep) => match sleep.as_mut().poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(()) => self.resume(),
                },
                State::Never => return Poll::Pending,
            }
        }
    }

    fn begin(&mut self, watcher: Watcher) {
        self.backoff.on_open(Instant::now());
        self.set(State::Watching(watcher));
    }

    fn resume(&mut self) {
        let watcher = match &mut self.state {
            State::Resting(watcher, _) => watcher.take(),
            _ => None,
        };
        let next = watcher.map_or_else(
            || State::Opening(open(&self.registry, &self.options)),
            State::Watching,
        );
        self.set(next);
    }

    /// Handles an error of a watcher that continues.
    fn failed(&mut self, error: Error) -> Error {
        let now = Instant::now();
        let resume_at = self.backoff.on_error(now, &mut fastrand::Rng::new());
        if resume_at.is_none_or(|at| at > now)
            && let State::Watching(watcher) = std::mem::replace(&mut self.state, State::Never)
        {
            self.rest(Some(watcher), resume_at);
        }
        error
    }

    /// Ends the watch after an error. It is opened again after a backoff.
    fn end(&mut self, error: Error) -> Error {
        let resume_at = self
            .backoff
            .on_end(Instant::now(), &mut fastrand::Rng::new());
        self.rest(None, resume_at);
        error
    }

    fn ended(&mut self) -> Error {
        self.end(self.unavailable("the watch ended".to_owned()))
    }

    fn panicked(&mut self, message: &str) -> Error {
        self.end(self.unavailable(format!("registry panicked: {message}")))
    }

    fn unavailable(&self, what: String) -> Error {
        Error::Unavailable {
            registry: self.name,
            what,
            source: None,
        }
    }

    fn rest(&mut self, watcher: Option<Watcher>, resume_at: Option<Instant>) {
        self.set(match resume_at {
            Some(at) => State::Resting(watcher, Box::pin(sleep_until(at))),
            None => State::Never,
        });
    }

    /// Changes the state. The old state may hold user code, and its drop may panic.
    fn set(&mut self, state: State) {
        let old = std::mem::replace(&mut self.state, state);
        let _ = contain(|| drop(old));
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.set(State::Never);
    }
}

fn open(registry: &AnyRegistry, options: &WatchOptions) -> Opening {
    let (registry, options) = (registry.clone(), options.clone());
    Box::pin(async move { registry.watch(&options).await })
}

/// Returns the text of an error and its causes. They may be types of the user.
fn text(error: Error) -> String {
    contain(move || error.chain())
        .unwrap_or_else(|message| format!("an error whose text panicked: {message}"))
}

/// Calls user code, and returns the message of a panic as an error.
fn contain<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|payload| message(&*payload).to_owned())
}

fn message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// Backoff of one watch. It grows with errors, and is reset by a watch that lives for [`CALM`]
/// without one.
#[derive(Debug)]
struct Backoff {
    bounds: BackoffConfig,
    failures: u32,
    /// Start of the time without an error; none if no watch is open.
    calm_since: Option<Instant>,
}

impl Backoff {
    fn new(BackoffConfig { initial, max }: BackoffConfig) -> Self {
        Self {
            bounds: BackoffConfig {
                initial: initial.max(MIN_BACKOFF),
                max: max.max(MIN_BACKOFF),
            },
            failures: 0,
            calm_since: None,
        }
    }

    fn on_open(&mut self, now: Instant) {
        self.calm_since = Some(now);
    }

    /// Returns the time to open a watch again, or none for never.
    fn on_end(&mut self, now: Instant, rng: &mut fastrand::Rng) -> Option<Instant> {
        let delay = self.delay(now, rng);
        self.calm_since = None;
        now.checked_add(delay)
    }

    /// Returns the time to poll the watcher again after an error, or none for never. The delay
    /// counts from the previous error, so that errors with a pause of their own are not delayed
    /// further.
    fn on_error(&mut self, now: Instant, rng: &mut fastrand::Rng) -> Option<Instant> {
        let delay = self.delay(now, rng);
        self.calm_since
            .replace(now)
            .unwrap_or(now)
            .checked_add(delay)
    }

    fn delay(&mut self, now: Instant, rng: &mut fastrand::Rng) -> Duration {
        let calm = self
            .calm_since
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        if calm >= CALM {
            self.failures = 0;
        }
        let delay = self.bounds.delay(self.failures, rng.f64());
        self.failures = self.failures.saturating_add(1);
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: BackoffConfig = BackoffConfig {
        initial: Duration::from_millis(50),
        max: Duration::from_secs(2),
    };

    fn both(bound: Duration) -> BackoffConfig {
        BackoffConfig {
            initial: bound,
            max: bound,
        }
    }

    /// Returns the longest of 1 000 random delays, an estimate of the bound.
    fn bound(backoff: &Backoff, now: Instant) -> Duration {
        let mut rng = fastrand::Rng::with_seed(7);
        let draw = || {
            let mut backoff = Backoff {
                failures: backoff.failures,
                calm_since: backoff.calm_since,
                ..*backoff
            };
            backoff.on_end(now, &mut rng).unwrap() - now
        };
        std::iter::repeat_with(draw).take(1_000).max().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_ends_at_once_backs_off_and_a_calm_one_starts_again() {
        let (mut now, mut rng) = (Instant::now(), fastrand::Rng::with_seed(1));
        let mut backoff = Backoff::new(BOUNDS);
        for _ in 0..10 {
            backoff.on_open(now);
            now += Duration::from_millis(5);
            now = backoff.on_end(now, &mut rng).unwrap();
        }
        assert!(bound(&backoff, now) > Duration::from_millis(1_900));
        backoff.on_open(now);
        assert!(bound(&backoff, now + CALM) <= Duration::from_millis(50));
    }

    #[tokio::test(start_paused = true)]
    async fn errors_with_a_pause_of_their_own_are_not_delayed() {
        let (mut now, mut rng) = (Instant::now(), fastrand::Rng::with_seed(1));
        let mut backoff = Backoff::new(BOUNDS);
        backoff.on_open(now);
        for _ in 0..100 {
            now += Duration::from_secs(2);
            assert!(backoff.on_error(now, &mut rng).unwrap() <= now);
        }
        let at_once = (0..100)
            .map(|_| backoff.on_error(now, &mut rng).unwrap() - now)
            .max()
            .unwrap();
        assert!(at_once > Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn bounds_may_be_zero_or_without_end() {
        let (now, mut rng) = (Instant::now(), fastrand::Rng::with_seed(1));
        let mut none = Backoff::new(both(Duration::ZERO));
        assert!((0..100).any(|_| none.on_end(now, &mut rng).unwrap() > now));
        let mut endless = Backoff::new(both(Duration::MAX));
        for _ in 0..100 {
            endless.on_open(now);
            let _ = endless.on_error(now, &mut rng);
            let _ = endless.on_end(now, &mut rng);
        }
    }
}
