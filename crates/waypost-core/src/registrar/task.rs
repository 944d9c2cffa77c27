//! Task of the registrar. The task only awaits; [`Machine`] makes the decisions.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{self, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};

use super::event::{Action, Event, Lane, Work, WorkFailure};
use super::machine::{Machine, Setup};
use super::shared::Shared;
use super::{RegisterCheck, State};
use crate::backoff::fraction;
use crate::record::{Entry, Service, keys};
use crate::registry::{DeregisterOptions, Error, RegisterOptions, Result, chain};

/// Maximum time for aborted work to end. Only work that blocks its thread takes longer; the task
/// does not wait for it.
const JOIN_LIMIT: Duration = Duration::from_secs(1);

/// Keeps the record of one registration until it is ordered to leave.
pub(super) struct Worker {
    shared: Arc<Shared>,
    record: watch::Receiver<Service>,
    leave: watch::Receiver<bool>,
    lanes: Lanes,
    /// True once the record was registered.
    was_registered: bool,
    /// Task that waits for a change of the record by another writer; none before it is registered.
    overwritten: JoinSet<()>,
    /// Last error of the registry, returned to an owner whose deregistration gets no response.
    error: Option<Error>,
}

/// Result of a piece of work.
enum Answer {
    Checked(Result<(), String>),
    Registered(Result<(), Refusal>),
    Deregistered(Result<(), Refusal>),
}

/// Error of a registry, with the failure that the machine needs. Created in the task of the
/// request, since the text of an error is code of the registry.
struct Refusal(WorkFailure, Error);

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self(WorkFailure::from(&error), error)
    }
}

/// Work in progress, each piece in a task of its own, so that a panic of a check or a registry does
/// not end the registration.
#[derive(Default)]
struct Lanes {
    tasks: JoinSet<Answer>,
    check: Option<task::AbortHandle>,
    request: Option<(task::AbortHandle, Work)>,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let (record, leave) = (shared.record.subscribe(), shared.leave.subscribe());
        Self {
            shared,
            record,
            leave,
            lanes: Lanes::default(),
            was_registered: false,
            overwritten: JoinSet::new(),
            error: None,
        }
    }

    /// Keeps the record alive until the order to leave. `resumed` is the last state of the previous
    /// worker, if any.
    ///
    /// # Errors
    /// Returns the error of the deregistration. The record then expires by itself.
    pub(super) async fn run(mut self, resumed: Option<State>) -> Result<()> {
        self.was_registered = resumed.is_some();
        let mut machine = Machine::new(self.setup(resumed), Instant::now());
        let mut event = if *self.leave.borrow() {
            Event::Leave
        } else {
            Event::Tick
        };
        loop {
            for action in machine.step(Instant::now(), fastrand::f64(), event) {
                match action {
                    Action::Start(work) => self.start(work),
                    Action::Abandon(lane) => self.lanes.abandon(lane),
                    Action::SetState(State::Left) => {}
                    Action::SetState(state) => self.set_state(&state),
                    Action::Finish { out } => return self.finish(out).await,
                }
            }
            event = self.next(machine.deadline()).await;
            if let Event::Registered(Ok(())) = event {
                self.was_registered = true;
                self.await_overwritten();
            }
        }
    }

    fn setup(&self, resumed: Option<State>) -> Setup {
        let (now, shared) = (Instant::now(), &self.shared);
        let begin = fraction(shared.config.interval, fastrand::f64());
        Setup {
            config: shared.config.clone(),
            request_timeout: shared.request_timeout,
            checks: shared.check.is_some(),
            pulse: shared
                .registry
                .pulse(|| now.checked_add(begin).unwrap_or(now)),
            resumed,
        }
    }

    /// Aborts and joins all work before it publishes the last state, so that no work of this
    /// registration runs after that state.
    async fn finish(mut self, out: bool) -> Result<()> {
        let limit = JOIN_LIMIT.min(self.shared.request_timeout);
        let _ = timeout(limit, self.lanes.tasks.shutdown()).await;
        let needs_drain = out && self.was_registered;
        self.shared.needs_drain.store(needs_drain, Ordering::SeqCst);
        self.set_state(&State::Left);
        match self.error {
            // Nothing was written, but the owner must learn of the denial.
            Some(error @ Error::Denied { .. }) => Err(error),
            _ if out => Ok(()),
            error => Err(error.unwrap_or_else(|| self.shared.no_answer())),
        }
    }

    async fn next(&mut self, deadline: Option<Instant>) -> Event {
        let leaving = matches!(*self.shared.state.borrow(), State::Leaving);
        tokio::select! {
            biased;
            event = self.lanes.event(&self.shared, &mut self.error) => event,
            () = ordered(&mut self.leave), if !leaving => Event::Leave,
            Ok(()) = self.record.changed(), if !leaving => Event::Changed,
            Some(ended) = self.overwritten.join_next(), if !leaving => match ended {
                Ok(()) => Event::Overwritten,
                // The registry panicked; the heartbeats go on.
                Err(_) => Event::Tick,
            },
            () = until(deadline) => Event::Tick,
        }
    }

    fn await_overwritten(&mut self) {
        if !self.overwritten.is_empty() {
            return;
        }
        let (registry, instance) = (self.shared.registry.clone(), self.shared.instance.clone());
        let key = self.record.borrow().entries().first().map(Entry::key);
        if let Some(key) = key {
            let wait = async move { registry.overwritten(&key, &instance).await };
            self.overwritten.spawn(wait);
        }
    }

    fn start(&mut self, work: Work) {
        match work {
            Work::Check => self.check(),
            Work::Register => self.register(),
            Work::Deregister => self.deregister(),
        }
    }

    fn check(&mut self) {
        let check = self.shared.check.clone();
        let ask = async move {
            match check {
                Some(check) => check.check().await.map_err(|error| chain(&*error)),
                None => Ok(()),
            }
        };
        self.lanes.check = Some(self.lanes.tasks.spawn(async { Answer::Checked(ask.await) }));
    }

    fn register(&mut self) {
        let registry = self.shared.registry.clone();
        let options = RegisterOptions {
            ttl: self.shared.config.ttl,
            instance: self.shared.instance.clone(),
        };
        let mut record = self.record.borrow_and_update().clone();
        self.add_interval(&mut record);
        let request = async move {
            registry
                .register(&record, &options)
                .await
                .map_err(Refusal::from)
        };
        let task = self
            .lanes
            .tasks
            .spawn(async { Answer::Registered(request.await) });
        self.lanes.request = Some((task, Work::Register));
    }

    /// Adds the interval to the metadata, for the clients' grace period.
    fn add_interval(&self, record: &mut Service) {
        let limits = self.shared.registry.options().limits;
        let interval = self.shared.config.interval.as_millis();
        for node in &mut record.nodes {
            let metadata = &mut node.metadata;
            if metadata.get(keys::INTERVAL).is_none() && metadata.len() < limits.metadata_entries {
                metadata.insert(keys::INTERVAL, format!("{interval}ms"));
            }
        }
    }

    fn deregister(&mut self) {
        let registry = self.shared.registry.clone();
        let options = DeregisterOptions::ours(self.shared.instance.clone());
        let record = self.record.borrow().clone();
        let request = async move {
            registry
                .deregister(&record, &options)
                .await
                .map_err(Refusal::from)
        };
        let task = self
            .lanes
            .tasks
            .spawn(async { Answer::Deregistered(request.await) });
        self.lanes.request = Some((task, Work::Deregister));
    }

    /// Publishes a state, and logs it if its kind changed.
    fn set_state(&self, state: &State) {
        let before = self.shared.state.send_replace(state.clone());
        if before.name() != state.name() {
            self.log(state);
        }
    }

    fn log(&self, state: &State) {
        let (service, node) = self.shared.names();
        let registry = self.shared.name;
        match state {
            State::Failing { why, .. } => {
                tracing::warn!(service, node, registry, why, "registration fails; retrying");
            }
            State::Unhealthy { why, .. } => {
                tracing::warn!(
                    service,
                    node,
                    registry,
                    why,
                    "health check fails; node deregistered"
                );
            }
            state => tracing::info!(
                service,
                node,
                registry,
                state = state.name(),
                "registration state changed"
            ),
        }
    }
}

impl Lanes {
    fn abandon(&mut self, lane: Lane) {
        let task = match lane {
            Lane::Check => self.check.take(),
            Lane::Request => self.request.take().map(|(task, _)| task),
        };
        if let Some(task) = task {
            task.abort();
        }
    }

    /// Waits for the next result, as an event. Pending while no work is in progress.
    async fn event(&mut self, shared: &Shared, last: &mut Option<Error>) -> Event {
        let mut keep = |answer: Result<(), Refusal>| {
            *last = None;
            answer.map_err(|Refusal(failure, error)| {
                *last = Some(error);
                failure
            })
        };
        match self.answer().await {
            Ok(Answer::Checked(answer)) => Event::Checked(answer),
            Ok(Answer::Registered(answer)) => Event::Registered(keep(answer)),
            Ok(Answer::Deregistered(answer)) => Event::Deregistered(keep(answer)),
            Err((Work::Check, _)) => Event::Checked(Err("the check panicked".to_owned())),
            Err((Work::Register, error)) => {
                Event::Registered(keep(Err(shared.panicked(error).into())))
            }
            Err((Work::Deregister, error)) => {
                Event::Deregistered(keep(Err(shared.panicked(error).into())))
            }
        }
    }

    /// Waits for the end of work in progress. The end of aborted work is ignored.
    async fn answer(&mut self) -> Result<Answer, (Work, JoinError)> {
        loop {
            let ended = match self.tasks.join_next_with_id().await {
                Some(ended) => ended,
                None => std::future::pending().await,
            };
            let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
            if let Some(work) = self.end(id) {
                return ended
                    .map(|(_, answer)| answer)
                    .map_err(|error| (work, error));
            }
        }
    }

    /// Clears the lane of the task `id`, unless the lane was aborted.
    fn end(&mut self, id: task::Id) -> Option<Work> {
        if self.check.take_if(|check| check.id() == id).is_some() {
            return Some(Work::Check);
        }
        self.request
            .take_if(|(request, _)| request.id() == id)
            .map(|(_, work)| work)
    }
}

/// Waits for the order to leave.
async fn ordered(leave: &mut watch::Receiver<bool>) {
    if leave.wait_for(|leave| *leave).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
