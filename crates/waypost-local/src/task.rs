//! Task that watches the directory and feeds all watchers of a handle.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};
use waypost_core::backoff::BackoffConfig;
use waypost_core::record::Key;
use waypost_core::registry::{Broadcaster, Change, Error, NodeSet, Result};

use crate::machine::{DirMachine, RESCAN_POLLED, RESCAN_SIGNALLED};
use crate::reader::{Reader, Seen};
use crate::signals::{Hint, SignalSource, Signals};
use crate::{NAME, blocking};

/// Delay after a failure: `initial`, doubled by each further one up to `max`.
const BACKOFF: BackoffConfig = BackoffConfig {
    initial: Duration::from_millis(50),
    max: Duration::from_secs(2),
};

/// Delay before a new scan after a gap, so that a directory which is replaced repeatedly does not
/// keep the task busy.
pub(crate) const GAP_DELAY: Duration = Duration::from_millis(10);

pub(crate) struct WatchTask {
    pub(crate) reader: Arc<Reader>,
    pub(crate) broadcaster: Broadcaster,
    pub(crate) kind: SignalSource,
    pub(crate) stop: watch::Receiver<bool>,
    /// Notified by a new watcher, whose first snapshot must not be older than its subscription.
    pub(crate) refresh: Arc<Notify>,
}

/// Reason for the end of a watch.
enum WatchEnd {
    /// The handle is closed, or there are no listeners.
    Ended,
    /// Events were missed: a full scan is needed.
    Gap,
}

/// Reason for a wake-up of the task.
enum Wake {
    Stop,
    Hints(Vec<Hint>),
    Checks,
    Refresh,
    Rescan,
}

impl WatchTask {
    /// Runs until the handle is closed, or `is_idle` reports that there are no listeners.
    pub(crate) async fn run(mut self, is_idle: impl Fn(&Broadcaster) -> bool + Send) {
        let mut delay = BACKOFF.initial;
        loop {
            let pause = match self.watch_dir(&is_idle, &mut delay).await {
                Ok(WatchEnd::Ended) => return,
                Ok(WatchEnd::Gap) => GAP_DELAY,
                Err(error) => {
                    self.report(&error);
                    let next = (delay * 2).min(BACKOFF.max);
                    std::mem::replace(&mut delay, next)
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                _ = self.stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    fn report(&self, error: &Error) {
        let what = error.chain();
        tracing::warn!(error = %what, "directory watch fails; retrying");
        self.broadcaster.fail(move || Error::Unavailable {
            registry: NAME,
            what: what.clone(),
            source: None,
        });
    }

    /// Watches the directory. Signals are opened before the first scan, so that no change is missed
    /// between the two.
    async fn watch_dir(
        &mut self,
        is_idle: &impl Fn(&Broadcaster) -> bool,
        delay: &mut Duration,
    ) -> Result<WatchEnd> {
        let mut signals = Signals::open(self.kind, self.reader.dir())?;
        let mut machine = DirMachine::new(signals.are_polled());
        let seen = self.scan(&machine).await?;
        let changes = machine.scanned(Instant::now(), seen);
        self.broadcaster
            .reset(NodeSet::from_iter(changes.into_iter().filter_map(
                |change| match change {
                    Change::Put(entry) => Some(entry),
                    Change::Lose(_) | Change::Leave(_) => None,
                },
            )));
        *delay = BACKOFF.initial;
        let period = if signals.are_polled() {
            RESCAN_POLLED
        } else {
            RESCAN_SIGNALLED
        };
        let mut rescan_at = Instant::now() + period;
        while !machine.has_gap() {
            match self
                .wait(&mut signals, machine.next_check(), rescan_at)
                .await?
            {
                Wake::Stop => return Ok(WatchEnd::Ended),
                Wake::Hints(hints) if hints.contains(&Hint::Gap) => return Ok(WatchEnd::Gap),
                Wake::Hints(hints) => self.on_hints(&mut machine, &mut signals, hints).await?,
                Wake::Checks => {
                    let due = machine
                        .due(Instant::now())
                        .into_iter()
                        .map(|key| (key, false))
                        .collect();
                    self.probe(&mut machine, due).await?;
                }
                Wake::Refresh => {
                    let newest = self.broadcaster.newest();
                    self.rescan(&mut machine).await?;
                    self.broadcaster.refreshed(newest);
                }
                Wake::Rescan if is_idle(&self.broadcaster) => return Ok(WatchEnd::Ended),
                Wake::Rescan => {
                    self.rescan(&mut machine).await?;
                    rescan_at = Instant::now() + period;
                }
            }
        }
        Ok(WatchEnd::Gap)
    }

    /// Waits for the next event. Hints come before checks: a tombstone that has arrived must be
    /// processed before the record counts as lost.
    async fn wait(
        &mut self,
        signals: &mut Signals,
        check: Option<Instant>,
        rescan_at: Instant,
    ) -> Result<Wake> {
        let check_at = check.unwrap_or(rescan_at);
        tokio::select! {
            biased;
            _ = self.stop.wait_for(|stop| *stop) => Ok(Wake::Stop),
            hints = signals.next() => Ok(Wake::Hints(hints?)),
            () = self.refresh.notified() => Ok(Wake::Refresh),
            () = sleep_until(check_at), if check.is_some() => Ok(Wake::Checks),
            () = sleep_until(rescan_at) => Ok(Wake::Rescan),
        }
    }

    async fn on_hints(
        &self,
        machine: &mut DirMachine,
        signals: &mut Signals,
        hints: Vec<Hint>,
    ) -> Result<()> {
        let mut has_tombstone = BTreeMap::<Key, bool>::new();
        if hints.contains(&Hint::Root) {
            *signals = Signals::open(self.kind, self.reader.dir())?;
            return self.rescan(machine).await;
        }
        let mut locks = Vec::new();
        let mut dirs_changed = false;
        for hint in hints {
            match hint {
                Hint::Record(key) => drop(has_tombstone.entry(key).or_default()),
                Hint::Left(key) => drop(has_tombstone.insert(key, true)),
                Hint::Lock(key) => locks.push(key),
                Hint::Folders | Hint::Root | Hint::Gap => dirs_changed = true,
            }
        }
        self.probe(machine, has_tombstone.into_iter().collect())
            .await?;
        for key in locks {
            machine.lock_closed(Instant::now(), key);
        }
        if dirs_changed {
            signals.watch_service_dirs(self.reader.dir())?;
            self.rescan(machine).await?;
        }
        Ok(())
    }

    async fn probe(&self, machine: &mut DirMachine, keys: Vec<(Key, bool)>) -> Result<()> {
        let reader = Arc::clone(&self.reader);
        let keys: Vec<_> = keys
            .into_iter()
            .map(|(key, has_tombstone)| (machine.known().get(&key).copied(), key, has_tombstone))
            .collect();
        let seen: Vec<(Key, Seen, bool)> = blocking(move || {
            let probe = |(known, key, has_tombstone): (Option<_>, Key, bool)| {
                (reader.get(&key, known.as_ref()), key, has_tombstone)
            };
            keys.into_iter()
                .map(probe)
                .map(|(seen, key, has_tombstone)| (key, seen, has_tombstone))
                .collect()
        })
        .await?;
        let now = Instant::now();
        self.broadcaster
            .apply(seen.into_iter().flat_map(|(key, seen, has_tombstone)| {
                machine.on_probe(now, key, seen, has_tombstone)
            }));
        Ok(())
    }

    async fn rescan(&self, machine: &mut DirMachine) -> Result<()> {
        let seen = self.scan(machine).await?;
        self.broadcaster
            .apply(machine.scanned(Instant::now(), seen));
        Ok(())
    }

    async fn scan(&self, machine: &DirMachine) -> Result<Vec<(Key, Seen)>> {
        let (reader, known) = (Arc::clone(&self.reader), machine.known().clone());
        blocking(move || reader.scan(None, &known)).await?
    }
}
