//! Task that keeps leases alive. It does the I/O and decides nothing: its actions come from
//! [`LeaseMachine`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::machine::{CloseReason, LeaseAction, LeaseEvent, LeaseMachine, LeaseRenewal};
use crate::cluster::{BidiStream, Cluster};
use crate::error::EtcdError;
use crate::rpc::{Header, LeaseKeepAliveRequest, LeaseKeepAliveResponse};
use crate::timing::Timing;

/// Capacity of the queue of keepalives for the stream; a stream whose queue is full is broken.
const QUEUE: usize = 1_024;

/// Result of a renewal; or the error, if the state of the lease is unknown and waiting does not
/// help.
pub(super) type RenewalResult = Result<LeaseRenewal, EtcdError>;

/// Last response of the keepalive stream, or its failure.
#[derive(Debug, Default)]
pub(super) struct LastResponse {
    pub(super) header: Option<Header>,
    pub(super) error: Option<EtcdError>,
}

#[derive(Debug)]
pub(super) enum LeaseCommand {
    Renew(i64, Option<Instant>, oneshot::Sender<RenewalResult>),
    Granted(i64, Option<u64>),
    Forget(i64),
    /// Move the stream to the first member, if it is on another.
    Rebalance,
}

pub(crate) struct LeaseTask {
    cluster: Arc<Cluster>,
    timing: Timing,
    machine: LeaseMachine,
    commands: mpsc::Receiver<LeaseCommand>,
    last_response: Arc<Mutex<LastResponse>>,
    stream: Option<BidiStream<LeaseKeepAliveRequest>>,
    waiters: BTreeMap<i64, Vec<oneshot::Sender<RenewalResult>>>,
}

impl LeaseTask {
    pub(super) fn new(
        cluster: Arc<Cluster>,
        timing: Timing,
        commands: mpsc::Receiver<LeaseCommand>,
        last_response: Arc<Mutex<LastResponse>>,
    ) -> Self {
        let machine = LeaseMachine::new(timing, fastrand::Rng::new());
        Self {
            cluster,
            timing,
            machine,
            commands,
            last_response,
            stream: None,
            waiters: BTreeMap::new(),
        }
    }

    /// Runs until it is stopped.
    ///
    /// # Cancel safety
    /// If it is dropped, it may be run again on another runtime: the stream is then opened again,
    /// as after a disconnect, and no other state is lost.
    pub(crate) async fn run(&mut self, mut stop: watch::Receiver<bool>) {
        // The stream's timers and connection ended with the earlier runtime.
        if self.stream.take().is_some() {
            self.step(LeaseEvent::StreamBroken);
        }
        loop {
            let deadline = self.machine.deadline();
            let event = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                response = BidiStream::next_of(&mut self.stream) => self.on_response(response),
                command = self.commands.recv() => match command {
                    Some(command) => self.on_command(command),
                    None => return,
                },
                () = sleep_until(deadline.unwrap_or_else(now)), if deadline.is_some() => LeaseEvent::Tick,
            };
            self.step(event);
        }
    }

    fn step(&mut self, event: LeaseEvent) {
        for action in self.machine.step(now(), event) {
            self.execute(action);
        }
    }

    fn on_response(&mut self, response: Result<LeaseKeepAliveResponse, EtcdError>) -> LeaseEvent {
        match response {
            Ok(LeaseKeepAliveResponse { header, id, ttl }) => {
                self.record(LastResponse {
                    header,
                    error: None,
                });
                LeaseEvent::Response(id, ttl, header.map_or(0, |header| header.raft_term))
            }
            Err(error) => {
                self.close_failed(&error);
                LeaseEvent::StreamBroken
            }
        }
    }

    fn on_command(&mut self, command: LeaseCommand) -> LeaseEvent {
        match command {
            LeaseCommand::Renew(id, last, waiter) => {
                let waiters = self.waiters.entry(id).or_default();
                // While no response arrives, canceled waiters would accumulate.
                waiters.retain(|waiter| !waiter.is_closed());
                waiters.push(waiter);
                LeaseEvent::Renew(id, last)
            }
            LeaseCommand::Granted(id, term) => LeaseEvent::Granted(id, term),
            LeaseCommand::Forget(id) => {
                self.complete(id, LeaseRenewal::Expired);
                LeaseEvent::Forget(id)
            }
            LeaseCommand::Rebalance => match self.stream.take_if(|stream| stream.is_elsewhere()) {
                Some(_) => LeaseEvent::StreamBroken,
                None => LeaseEvent::Tick,
            },
        }
    }

    fn execute(&mut self, action: LeaseAction) {
        match action {
            LeaseAction::OpenStream => {
                self.stream = Some(BidiStream::new(
                    &self.cluster,
                    QUEUE,
                    now() + self.timing.heartbeat_timeout,
                ));
            }
            LeaseAction::CloseStream(CloseReason::Idle) => self.stream = None,
            LeaseAction::CloseStream(CloseReason::Timeout) => {
                self.close_failed(&EtcdError::Timeout(self.timing.heartbeat_timeout));
            }
            LeaseAction::SendKeepAlive(id) => {
                if let Some(stream) = &self.stream {
                    // A keepalive that does not fit times out after a second, and with it the
                    // stream.
                    let _ = stream.try_send(LeaseKeepAliveRequest { id });
                }
            }
            LeaseAction::Complete(id, renewal) => self.complete(id, renewal),
        }
    }

    /// Notifies the waiters of a lease. Canceled ones are skipped.
    fn complete(&mut self, id: i64, renewal: LeaseRenewal) {
        for waiter in self.waiters.remove(&id).into_iter().flatten() {
            let _ = waiter.send(Ok(renewal));
        }
    }

    fn close_failed(&mut self, error: &EtcdError) {
        tracing::debug!(%error, "lease keepalive stream ended");
        self.record(LastResponse {
            header: None,
            error: Some(error.clone()),
        });
        if let Some(stream) = self.stream.take() {
            stream.close_failed(error);
        }
        if error.is_permanent() {
            for waiter in std::mem::take(&mut self.waiters).into_values().flatten() {
                let _ = waiter.send(Err(error.clone()));
            }
        }
    }

    fn record(&self, last_response: LastResponse) {
        *self
            .last_response
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = last_response;
    }
}

fn now() -> Instant {
    Instant::now()
}
