//! One watch and one task for each service in use.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Config, Snapshot, View};
use crate::backoff::full_jitter;
use crate::record::ServiceName;
use crate::registry::{AnyRegistry, Error, Registry, WatchOptions, Watcher};

/// The client's picture: the latest [`Snapshot`] of every service in use. Clones are the same directory.
#[derive(Clone, Debug)]
pub struct Directory(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: AnyRegistry,
    config: Config,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    services: HashMap<ServiceName, watch::Sender<Snapshot>>,
    tasks: JoinSet<()>,
}

/// Somebody's interest in one service: the picture, kept up to date while this or a clone of it lives.
#[derive(Clone, Debug)]
pub struct Following(watch::Receiver<Snapshot>);

impl Following {
    /// The picture now.
    pub fn snapshot(&self) -> Snapshot {
        self.0.borrow().clone()
    }

    /// Waits until the picture is another than at the last call; false if it will never change again.
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub async fn changed(&mut self) -> bool {
        let changed = self.0.changed().await.is_ok();
        self.0.mark_unchanged();
        changed
    }

    /// Waits until the registry has answered at all; false if it never will.
    pub async fn loaded(&mut self) -> bool {
        self.0.wait_for(|snapshot| snapshot.loaded).await.is_ok()
    }
}

impl Directory {
    /// A directory of `registry`; it watches nothing yet.
    pub fn new(registry: AnyRegistry, config: Config) -> Self {
        Self(Arc::new(Inner { registry, config, state: Mutex::default() }))
    }

    /// The registry it reads.
    pub fn registry(&self) -> &AnyRegistry {
        &self.0.registry
    }

    /// Follows a service: the first to do so starts its watch, on the runtime that this is called in.
    ///
    /// # Errors
    /// [`Error::Closed`] after [`close`](Self::close).
    pub fn follow(&self, service: &ServiceName) -> Result<Following, Error> {
        let mut state = self.0.lock();
        if state.closed {
            return Err(Error::Closed);
        }
        if let Some(sender) = state.services.get(service) {
            return Ok(Following(sender.subscribe()));
        }
        let (sender, receiver) = watch::channel(Snapshot::default());
        state.services.insert(service.clone(), sender.clone());
        while state.tasks.try_join_next().is_some() {}
        let follower = Follower {
            inner: Arc::downgrade(&self.0),
            registry: self.0.registry.clone(),
            view: View::new(self.0.config.suspect_grace),
            config: self.0.config.clone(),
            service: service.clone(),
            sender,
        };
        state.tasks.spawn(follower.run());
        Ok(Following(receiver))
    }

    /// Ends all watches and joins their tasks. The registry stays open: it is its owner's to close.
    pub async fn close(&self) {
        let mut tasks = {
            let mut state = self.0.lock();
            state.closed = true;
            state.services.clear();
            std::mem::take(&mut state.tasks)
        };
        tasks.shutdown().await;
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a service that nobody follows; false if somebody does by now.
    fn forget(&self, service: &ServiceName, sender: &watch::Sender<Snapshot>) -> bool {
        let mut state = self.lock();
        let idle = sender.receiver_count() == 0;
        if idle {
            state.services.remove(service);
        }
        idle
    }
}

struct Follower {
    inner: Weak<Inner>,
    registry: AnyRegistry,
    view: View,
    config: Config,
    service: ServiceName,
    sender: watch::Sender<Snapshot>,
}

impl Follower {
    async fn run(mut self) {
        let mut failures = 0;
        loop {
            match self.registry.watch(&WatchOptions::service(self.service.as_str())).await {
                Ok(watcher) => {
                    if self.follow(watcher, &mut failures).await {
                        return;
                    }
                    self.note_trouble(&Error::Closed);
                }
                Err(error) => self.note_trouble(&error),
            }
            let (min, max) = self.config.backoff;
            let mut rng = fastrand::Rng::new();
            let delay = full_jitter(&mut rng, min, max, failures);
            failures += 1;
            tokio::select! {
                () = sleep(delay) => self.tick(),
                idle = idle(&self.inner, &self.service, &self.sender, &self.config) => if idle { return },
            }
        }
    }

    /// Folds in what the watcher says; true if nobody follows any more, false if the watcher ended.
    async fn follow(&mut self, mut watcher: Watcher, failures: &mut u32) -> bool {
        loop {
            let wake = self.view.next_wake();
            tokio::select! {
                item = watcher.next() => match item {
                    Some(Ok(event)) => {
                        *failures = 0;
                        self.view.news(now(), event);
                        self.publish();
                    }
                    Some(Err(error)) => self.note_trouble(&error),
                    None => return false,
                },
                () = sleep_until(wake.unwrap_or_else(now)), if wake.is_some() => self.tick(),
                idle = idle(&self.inner, &self.service, &self.sender, &self.config) => if idle { return true },
            }
        }
    }

    fn tick(&mut self) {
        self.view.tick(now());
        self.publish();
    }

    fn note_trouble(&mut self, error: &Error) {
        let why = error.chain();
        if self.sender.borrow().trouble.is_none() {
            tracing::warn!(service = %self.service, error = %why, "the registry cannot be watched; the last picture is kept");
        }
        self.view.trouble(now(), &why);
        self.publish();
    }

    fn publish(&self) {
        let snapshot = self.view.snapshot();
        self.sender.send_if_modified(|old| {
            let differs = *old != snapshot;
            if differs {
                if old.trouble.is_some() && snapshot.trouble.is_none() {
                    tracing::info!(service = %self.service, "the registry is watched again");
                }
                *old = snapshot;
            }
            differs
        });
    }
}

/// Resolves when nobody has followed the service for the idle time: true if it was forgotten.
async fn idle(inner: &Weak<Inner>, service: &ServiceName, sender: &watch::Sender<Snapshot>, config: &Config) -> bool {
    sender.closed().await;
    sleep(config.idle_watch).await;
    inner.upgrade().is_none_or(|inner| inner.forget(service, sender))
}

fn now() -> Instant {
    Instant::now()
}
