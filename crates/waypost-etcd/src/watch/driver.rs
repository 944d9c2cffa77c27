//! Task of the watch stream. It does the I/O and decides nothing: its actions come from
//! [`Machine`].

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use waypost_core::record::Key;
use waypost_core::registry::Broadcaster;

use super::step::{Action, Event, Machine, Scope};
use super::track::{Listed, Missed};
use super::{Broadcasters, Listener, OwnNews, lock};
use crate::list::{Reading, list};
use crate::members::{Duplex, Members};
use crate::records::Records;
use crate::trouble::Trouble;
use crate::wire::{WatchRequest, WatchResponse};

/// Capacity of the request queue of the stream; also the limit of own records watched at once.
const ROOM: usize = 1 << 16;

/// Maximum number of concurrent lists.
const LISTS: usize = 16;

/// Interval between two removals of broadcasters without listeners.
const SWEEP: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) enum Command {
    Follow(Scope, Broadcaster),
    Own(Key, i64),
    Disown(Key),
    Barrier(oneshot::Sender<()>),
}

pub(crate) struct Driver {
    members: Arc<Members>,
    records: Arc<Records>,
    timeout: Duration,
    owner: Listener,
    machine: Machine,
    commands: mpsc::Receiver<Command>,
    broadcasters: Arc<Mutex<Broadcasters>>,
    stream: Option<Duplex<WatchRequest>>,
    /// True once this stream has received a response.
    heard_any: bool,
    lists: JoinSet<Event>,
    at_once: Arc<Semaphore>,
    /// Barriers that wait for the next progress request, and those that wait for the response in
    /// flight.
    waiting: Vec<oneshot::Sender<()>>,
    asking: Vec<oneshot::Sender<()>>,
}

impl Driver {
    pub(super) fn new(
        members: Arc<Members>,
        records: Arc<Records>,
        timeout: Duration,
        owner: Listener,
        commands: mpsc::Receiver<Command>,
        broadcasters: Arc<Mutex<Broadcasters>>,
    ) -> Self {
        let machine = Machine::new(Arc::clone(&records), fastrand::Rng::new());
        Self {
            members,
            records,
            timeout,
            owner,
            machine,
            commands,
            broadcasters,
            stream: None,
            heard_any: false,
            lists: JoinSet::new(),
            at_once: Arc::new(Semaphore::new(LISTS)),
            waiting: Vec::new(),
            asking: Vec::new(),
        }
    }

    /// Runs until it is stopped.
    ///
    /// # Cancel safety
    /// If it is dropped, it may be run again on another runtime: it then continues as after a
    /// disconnect of the stream, and starts all lists again.
    pub(crate) async fn run(&mut self, mut stop: watch::Receiver<bool>) {
        // Timers and connections of both ended with the earlier runtime.
        (self.stream, self.heard_any, self.lists) = (None, false, JoinSet::new());
        self.step(Event::Restarted);
        let mut sweep = interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let deadline = self.machine.deadline();
            let event = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                answer = Duplex::next_of(&mut self.stream) => self.heard(answer),
                Some(Ok(listed)) = self.lists.join_next() => listed,
                command = self.commands.recv() => match command {
                    Some(command) => self.take(command),
                    None => break,
                },
                () = sleep_until(deadline.unwrap_or_else(now)), if deadline.is_some() => Event::Tick,
                _ = sweep.tick() => Event::Unfollow(self.unheard()),
            };
            self.step(event);
        }
        self.lists.shutdown().await;
    }

    fn step(&mut self, event: Event) {
        for action in self.machine.step(now(), event) {
            self.act(action);
        }
    }

    fn heard(&mut self, answer: Result<WatchResponse, Trouble>) -> Event {
        match answer {
            Ok(response) => {
                if !std::mem::replace(&mut self.heard_any, true) {
                    tracing::debug!("etcd watch stream opened");
                }
                Event::Heard(response)
            }
            Err(trouble) => {
                self.give_up(&trouble);
                Event::Broke(trouble)
            }
        }
    }

    fn take(&mut self, command: Command) -> Event {
        match command {
            Command::Follow(scope, broadcaster) => Event::Follow(scope, broadcaster),
            Command::Own(key, revision) => Event::Own(key, revision),
            Command::Disown(key) => Event::Disown(key),
            Command::Barrier(passed) => {
                self.waiting.push(passed);
                Event::Barrier
            }
        }
    }

    /// Removes broadcasters without listeners, so that the next listener starts with a fresh one.
    fn unheard(&self) -> Vec<Scope> {
        let mut broadcasters = lock(&self.broadcasters);
        let unheard = self
            .machine
            .followed()
            .filter(|(_, broadcaster)| broadcaster.listeners() == 0)
            .map(|(scope, _)| scope.clone());
        unheard
            .inspect(|scope| drop(broadcasters.by_scope.remove(scope)))
            .collect()
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Open => {
                self.stream = Some(Duplex::new(&self.members, ROOM, now() + self.timeout));
            }
            Action::Drop(None) => self.stream = None,
            Action::Drop(Some(trouble)) => self.give_up(&trouble),
            Action::Ask(question) => {
                if let Some(stream) = &self.stream {
                    // A stream whose queue is full soon times out.
                    let _ = stream.try_ask(question);
                }
            }
            Action::List(scope) => self.list(scope, None),
            Action::ListOfOne(scope, why) => self.list(scope, Some(why)),
            Action::Own(key, own) => (self.owner)(OwnNews::Of(key, own)),
            Action::OwnsUnwatched => (self.owner)(OwnNews::NoneWatched),
            Action::BarrierBegun => self.asking.append(&mut self.waiting),
            // Canceled waiters are skipped.
            Action::BarrierPassed => {
                for passed in self.asking.drain(..) {
                    let _ = passed.send(());
                }
            }
            Action::BarrierFailed => {
                self.asking.clear();
                self.waiting.clear();
            }
            Action::Missed(scope, missed) => {
                let Missed {
                    created,
                    changed: updated,
                    gone: deleted,
                    first,
                } = &missed;
                let service = scope.as_deref().unwrap_or("all");
                tracing::warn!(
                    service,
                    created,
                    updated,
                    deleted,
                    ?first,
                    "relist found changes that the watch did not deliver"
                );
                lock(&self.broadcasters).missed += missed.count();
            }
        }
    }

    fn give_up(&mut self, why: &Trouble) {
        let Some(stream) = self.stream.take() else {
            return;
        };
        match std::mem::take(&mut self.heard_any) {
            true => tracing::info!(error = %why, "etcd watch stream lost; reopening"),
            false => tracing::debug!(error = %why, "etcd watch stream cannot be opened; retrying"),
        }
        stream.give_up(why);
    }

    /// Lists with linearizable reads; with serializable ones if the cluster has no quorum.
    fn list(&mut self, scope: Scope, unverified: Option<Trouble>) {
        let (members, records, timeout) = (
            Arc::clone(&self.members),
            Arc::clone(&self.records),
            self.timeout,
        );
        let at_once = Arc::clone(&self.at_once);
        self.lists.spawn(async move {
            let _turn = at_once.acquire().await;
            let reading = if unverified.is_some() {
                Reading::OneMembers
            } else {
                Reading::Agreed
            };
            let listed = list(&members, &records, scope.as_deref(), reading, timeout).await;
            let listed = listed.map(|found| Listed {
                revision: found.revision,
                entries: found.entries,
            });
            match (listed, unverified) {
                (listed, None) => Event::Listed(scope, listed),
                (Ok(listed), Some(why)) => Event::ListedByOne(scope, listed, why),
                // Neither read succeeded; the outage is reported already.
                (Err(_), Some(_)) => Event::Tick,
            }
        });
    }
}

fn now() -> Instant {
    Instant::now()
}
