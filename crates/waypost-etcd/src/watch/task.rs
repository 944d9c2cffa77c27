//! Task of the watch stream. It does the I/O and decides nothing: its actions come from
//! [`WatchMachine`].

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use waypost_core::record::Key;
use waypost_core::registry::Broadcaster;

use super::machine::{Scope, WatchAction, WatchInput, WatchMachine};
use super::scope::Missed;
use super::{Broadcasters, OwnKeyListener, OwnKeysEvent, lock};
use crate::cluster::{BidiStream, Cluster};
use crate::error::EtcdError;
use crate::list::{Consistency, list};
use crate::records::Records;
use crate::rpc::{Header, WatchRequest, WatchResponse};
use crate::timing::Timing;

/// Capacity of the request queue of the stream; also the limit of own records watched at once.
const QUEUE: usize = 1 << 16;

/// Maximum number of concurrent lists.
const MAX_LISTS: usize = 16;

/// Interval between two removals of broadcasters without listeners.
const SWEEP: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) enum WatchCommand {
    Subscribe(Scope, Broadcaster),
    AddOwnKey(Key, i64),
    RemoveOwnKey(Key),
    Barrier(Header, oneshot::Sender<()>),
    /// Move the stream to the first member, if it is on another.
    Rebalance,
}

pub(crate) struct WatchTask {
    cluster: Arc<Cluster>,
    records: Arc<Records>,
    timing: Timing,
    listener: OwnKeyListener,
    machine: WatchMachine,
    commands: mpsc::Receiver<WatchCommand>,
    broadcasters: Arc<Mutex<Broadcasters>>,
    stream: Option<BidiStream<WatchRequest>>,
    /// True once this stream has received a response.
    is_up: bool,
    lists: JoinSet<WatchInput>,
    list_permits: Arc<Semaphore>,
    /// Barriers, each with the revision that it waits for.
    barriers: Vec<(i64, oneshot::Sender<()>)>,
}

impl WatchTask {
    pub(super) fn new(
        cluster: Arc<Cluster>,
        records: Arc<Records>,
        timing: Timing,
        listener: OwnKeyListener,
        commands: mpsc::Receiver<WatchCommand>,
        broadcasters: Arc<Mutex<Broadcasters>>,
    ) -> Self {
        let machine = WatchMachine::new(Arc::clone(&records), timing, fastrand::Rng::new());
        Self {
            cluster,
            records,
            timing,
            listener,
            machine,
            commands,
            broadcasters,
            stream: None,
            is_up: false,
            lists: JoinSet::new(),
            list_permits: Arc::new(Semaphore::new(MAX_LISTS)),
            barriers: Vec::new(),
        }
    }

    /// Runs until it is stopped.
    ///
    /// # Cancel safety
    /// If it is dropped, it may be run again on another runtime: it then continues as after a
    /// disconnect of the stream, and starts all lists again.
    pub(crate) async fn run(&mut self, mut stop: watch::Receiver<bool>) {
        // Timers and connections of both ended with the earlier runtime.
        (self.stream, self.is_up, self.lists) = (None, false, JoinSet::new());
        self.step(WatchInput::Restarted);
        let mut sweep = interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let deadline = self.machine.deadline();
            let event = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                response = BidiStream::next_of(&mut self.stream) => self.on_response(response),
                Some(Ok(listed)) = self.lists.join_next() => listed,
                command = self.commands.recv() => match command {
                    Some(command) => self.on_command(command),
                    None => break,
                },
                () = sleep_until(deadline.unwrap_or_else(now)), if deadline.is_some() => WatchInput::Tick,
                _ = sweep.tick() => WatchInput::Unsubscribe(self.remove_unused()),
            };
            self.step(event);
        }
        self.lists.shutdown().await;
    }

    fn step(&mut self, event: WatchInput) {
        for action in self.machine.step(now(), event) {
            self.execute(action);
        }
    }

    fn on_response(&mut self, response: Result<WatchResponse, EtcdError>) -> WatchInput {
        match response {
            Ok(response) => {
                if !std::mem::replace(&mut self.is_up, true) {
                    tracing::debug!("etcd watch stream opened");
                }
                WatchInput::Response(response)
            }
            Err(error) => {
                self.close_failed(&error);
                WatchInput::StreamBroken(error)
            }
        }
    }

    fn on_command(&mut self, command: WatchCommand) -> WatchInput {
        match command {
            WatchCommand::Subscribe(scope, broadcaster) => {
                WatchInput::Subscribe(scope, broadcaster)
            }
            WatchCommand::AddOwnKey(key, revision) => WatchInput::AddOwnKey(key, revision),
            WatchCommand::RemoveOwnKey(key) => WatchInput::RemoveOwnKey(key),
            WatchCommand::Barrier(header, waiter) => {
                self.barriers.push((header.revision, waiter));
                WatchInput::Barrier(header)
            }
            WatchCommand::Rebalance => match self.stream.take_if(|stream| stream.is_elsewhere()) {
                Some(_) => {
                    self.is_up = false;
                    WatchInput::StreamBroken(EtcdError::Transport(
                        "the stream moves to another member".to_owned(),
                    ))
                }
                None => WatchInput::Tick,
            },
        }
    }

    /// Removes broadcasters without listeners, so that the next listener starts with a fresh one.
    fn remove_unused(&self) -> Vec<Scope> {
        let mut broadcasters = lock(&self.broadcasters);
        let unused = self
            .machine
            .removable()
            .filter(|(_, broadcaster)| broadcaster.listeners() == 0)
            .map(|(scope, _)| scope.clone());
        unused
            .inspect(|scope| drop(broadcasters.by_scope.remove(scope)))
            .collect()
    }

    fn execute(&mut self, action: WatchAction) {
        match action {
            WatchAction::OpenStream => {
                self.stream = Some(BidiStream::new(
                    &self.cluster,
                    QUEUE,
                    now() + self.timing.request_timeout,
                ));
            }
            WatchAction::CloseStream(None) => self.stream = None,
            WatchAction::CloseStream(Some(error)) => self.close_failed(&error),
            WatchAction::Send(request) => {
                if let Some(stream) = &self.stream {
                    // A stream whose queue is full soon times out.
                    let _ = stream.try_send(request);
                }
            }
            WatchAction::List(scope) => self.list(scope, None),
            WatchAction::ListSerializable(scope, error) => self.list(scope, Some(error)),
            WatchAction::OwnKey(key, event) => (self.listener)(OwnKeysEvent::Key(key, event)),
            WatchAction::OwnKeysUnwatched => (self.listener)(OwnKeysEvent::AllUnwatched),
            WatchAction::Reached(reached) => {
                let passed = |(revision, _): &mut (i64, _)| *revision <= reached;
                for (_, waiter) in self.barriers.extract_if(.., passed) {
                    // Canceled waiters are skipped.
                    let _ = waiter.send(());
                }
                self.barriers.retain(|(_, waiter)| !waiter.is_closed());
            }
            WatchAction::BarrierFailed => self.barriers.clear(),
            WatchAction::Missed(scope, missed) => {
                let Missed {
                    created,
                    updated,
                    deleted,
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

    fn close_failed(&mut self, error: &EtcdError) {
        let Some(stream) = self.stream.take() else {
            return;
        };
        match std::mem::take(&mut self.is_up) {
            true => tracing::info!(%error, "etcd watch stream lost; reopening"),
            false => tracing::debug!(%error, "etcd watch stream cannot be opened; retrying"),
        }
        stream.close_failed(error);
    }

    /// Lists with linearizable reads; with serializable ones if the cluster has no quorum.
    fn list(&mut self, scope: Scope, linearizable_error: Option<EtcdError>) {
        let (cluster, records, timeout) = (
            Arc::clone(&self.cluster),
            Arc::clone(&self.records),
            self.timing.request_timeout,
        );
        let list_permits = Arc::clone(&self.list_permits);
        self.lists.spawn(async move {
            let _permit = list_permits.acquire().await;
            let consistency = if linearizable_error.is_some() {
                Consistency::Serializable
            } else {
                Consistency::Linearizable
            };
            let listed = list(&cluster, &records, scope.as_deref(), consistency, timeout).await;
            match (listed, linearizable_error) {
                (listed, None) => WatchInput::Listed(scope, listed),
                (Ok(listed), Some(error)) => WatchInput::ListedSerializable(scope, listed, error),
                // Neither read succeeded; the outage is reported already.
                (Err(_), Some(_)) => WatchInput::Tick,
            }
        });
    }
}

fn now() -> Instant {
    Instant::now()
}
