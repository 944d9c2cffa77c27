//! The one task that keeps leases alive. It awaits, and decides nothing: what to do comes from [`Machine`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::step::{ANSWER, Action, Event, Fate, Machine, Why};
use crate::members::{Duplex, Members};
use crate::trouble::Trouble;
use crate::wire::{LeaseKeepAliveRequest, LeaseKeepAliveResponse};

/// How many beats may wait for the connection; a stream that takes no more is broken.
const ROOM: usize = 1_024;

/// What became of a lease; or why nobody can tell, and why waiting does not help.
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
    pub(super) fn new(members: Arc<Members>, commands: mpsc::Receiver<Command>, trouble: Arc<Mutex<Option<Trouble>>>) -> Self {
        let machine = Machine::new(fastrand::Rng::new());
        Self { members, machine, commands, trouble, stream: None, waiting: BTreeMap::new() }
    }

    /// Runs until it is stopped.
    ///
    /// # Cancel safety
    /// Dropped, it may be run again on another runtime: a stream is then opened again, as after a break, and nothing else is lost.
    pub(crate) async fn run(&mut self, mut stop: watch::Receiver<bool>) {
        // Its timers and its connection ended with the runtime.
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
                // While no answer comes, those who gave up would pile up.
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
                    // One that does not fit is overdue in a second, and the stream with it.
                    let _ = stream.try_ask(LeaseKeepAliveRequest { id });
                }
            }
            Action::Tell(id, fate) => self.tell(id, fate),
        }
    }

    /// Those who gave up waiting do not hear it.
    fn tell(&mut self, id: i64, fate: Fate) {
        for waiting in self.waiting.remove(&id).into_iter().flatten() {
            let _ = waiting.send(Ok(fate));
        }
    }

    fn give_up(&mut self, why: &Trouble) {
        tracing::debug!(%why, "lease keepalive stream ended");
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
