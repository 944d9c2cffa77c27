//! Task that keeps leases alive. It does the I/O and decides nothing: its actions come from
//! [`Machine`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::step::{ANSWER, Action, Event, Fate, Machine, Why};
use crate::members::{Duplex, Members};
use crate::trouble::Trouble;
use crate::wire::{LeaseKeepAliveRequest, LeaseKeepAliveResponse};

/// Capacity of the queue of keepalives for the stream; a stream whose queue is full is broken.
const ROOM: usize = 1_024;

/// Result of a renewal; or the error, if the state of the lease is unknown and waiting does not
/// help.
pub(super) type Answer = Result<Fate, Trouble>;

#[derive(Debug)]
pub(super) enum Command {
    Want(i64, Option<Instant>, oneshot::Sender<Answer>),
    Granted(i64, u64),
    Forget(i64),
}

pub(crate) struct Driver {
    members: Arc<Members>,
    machine: Machine,
    commands: mpsc::Receiver<Command>,
    trouble: Arc<Mutex<Option<Trouble>>>,
    stream: Option<Duplex<LeaseKeepAliveRequest>>,
    waiting: BTreeMap<i64, Vec<oneshot::Sender<Answer>>>,
}

impl Driver {
    pub(super) fn new(
        members: Arc<Members>,
        commands: mpsc::Receiver<Command>,
        trouble: Arc<Mutex<Option<Trouble>>>,
    ) -> Self {
        let machine = Machine::new(fastrand::Rng::new());
        Self {
            members,
            machine,
            commands,
            trouble,
            stream: None,
            waiting: BTreeMap::new(),
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
            self.step(Event::Broke);
        }
        loop {
            let deadline = self.machine.deadline();
            let event = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                answer = Duplex::next_of(&mut self.stream) => self.heard(answer),
                command = self.commands.recv() => match command {
                    Some(command) => self.take(command),
                    None => return,
                },
                () = sleep_until(deadline.unwrap_or_else(now)), if deadline.is_some() => Event::Tick,
            };
            self.step(event);
        }
    }

    fn step(&mut self, event: Event) {
        for action in self.machine.step(now(), event) {
            self.act(action);
        }
    }

    fn heard(&mut self, answer: Result<LeaseKeepAliveResponse, Trouble>) -> Event {
        match answer {
            Ok(LeaseKeepAliveResponse { header, id, ttl }) => {
                self.note(None);
                Event::Answer(id, ttl, header.map_or(0, |header| header.raft_term))
            }
            Err(trouble) => {
                self.give_up(&trouble);
                Event::Broke
            }
        }
    }

    fn take(&mut self, command: Command) -> Event {
        match command {
            Command::Want(id, last, answer) => {
                let waiting = self.waiting.entry(id).or_default();
                // While no response arrives, canceled waiters would accumulate.
                waiting.retain(|answer| !answer.is_closed());
                waiting.push(answer);
                Event::Want(id, last)
            }
            Command::Granted(id, term) => Event::Granted(id, term),
            Command::Forget(id) => {
                self.tell(id, Fate::Lost);
                Event::Forget(id)
            }
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Open => self.stream = Some(Duplex::new(&self.members, ROOM, now() + ANSWER)),
            Action::Drop(Why::Idle) => self.stream = None,
            Action::Drop(Why::Silent) => self.give_up(&Trouble::Silent(ANSWER)),
            Action::Ask(id) => {
                if let Some(stream) = &self.stream {
                    // A keepalive that does not fit times out after a second, and with it the
                    // stream.
                    let _ = stream.try_ask(LeaseKeepAliveRequest { id });
                }
            }
            Action::Tell(id, fate) => self.tell(id, fate),
        }
    }

    /// Notifies the waiters of a lease. Canceled ones are skipped.
    fn tell(&mut self, id: i64, fate: Fate) {
        for waiting in self.waiting.remove(&id).into_iter().flatten() {
            let _ = waiting.send(Ok(fate));
        }
    }

    fn give_up(&mut self, why: &Trouble) {
        tracing::debug!(error = %why, "lease keepalive stream ended");
        self.note(Some(why.clone()));
        if let Some(stream) = self.stream.take() {
            stream.give_up(why);
        }
        if why.is_a_no() {
            for waiting in std::mem::take(&mut self.waiting).into_values().flatten() {
                let _ = waiting.send(Err(why.clone()));
            }
        }
    }

    fn note(&self, trouble: Option<Trouble>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}

fn now() -> Instant {
    Instant::now()
}
