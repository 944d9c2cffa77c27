//! The registrar's one task: it awaits, and decides nothing. What to do comes from [`Machine`].

use tokio::sync::watch;
use tokio::task::{self, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};

use super::step::{Action, Event, Machine, Trouble, Work};
use super::{AnyCheck, Config, RegisterCheck, State};
use crate::record::Service;
use crate::registry::{AnyRegistry, DeregisterOptions, Error, Instance, RegisterOptions, Registry, Result};

/// What the task holds.
pub(super) struct Driver {
    pub(super) registry: AnyRegistry,
    pub(super) instance: Instance,
    pub(super) config: Config,
    pub(super) check: Option<AnyCheck>,
    pub(super) record: watch::Receiver<Service>,
    pub(super) leave: watch::Receiver<bool>,
    pub(super) state: watch::Sender<State>,
}

/// What a piece of work came to.
enum Answer {
    Checked(Result<(), String>),
    Registered(Result<()>),
    Deregistered(Result<()>),
}

/// The work under way, in a task of its own, so that a check or a registry that panics ends itself and not the registration.
#[derive(Default)]
struct Desk {
    tasks: JoinSet<Answer>,
    current: Option<(task::Id, Work)>,
}

impl Driver {
    /// Keeps the registration true until it is told to leave.
    ///
    /// # Errors
    /// Why the record could not be taken out; it expires by itself.
    pub(super) async fn run(mut self) -> Result<()> {
        let (now, interval) = (Instant::now(), self.config.interval);
        let pulse = self.registry.pulse(|| now + interval.mul_f64(fastrand::f64()));
        let mut machine = Machine::new(self.config.clone(), self.check.is_some(), pulse, now);
        let mut desk = Desk::default();
        let mut event = Event::Tick;
        let mut trouble = None;
        loop {
            for action in machine.step(Instant::now(), fastrand::f64(), event) {
                match action {
                    Action::Say(state) => self.say(state),
                    Action::Abandon => desk.abandon(),
                    Action::Start(work) => desk.start(work, &mut self),
                    Action::Finish { out } => {
                        let _ = timeout(self.config.timeout, desk.tasks.shutdown()).await;
                        return if out { Ok(()) } else { Err(trouble.unwrap_or_else(|| self.no_answer())) };
                    }
                }
            }
            event = self.next(&machine, &mut desk, &mut trouble).await;
        }
    }

    async fn next(&mut self, machine: &Machine, desk: &mut Desk, trouble: &mut Option<Error>) -> Event {
        let leaving = matches!(*self.state.borrow(), State::Leaving);
        let deadline = machine.deadline().unwrap_or_else(Instant::now);
        tokio::select! {
            biased;
            answer = desk.answer() => self.judge(answer, trouble),
            () = told(&mut self.leave), if !leaving => Event::Leave,
            Ok(()) = self.record.changed(), if !leaving => Event::Changed,
            () = sleep_until(deadline) => Event::Tick,
        }
    }

    /// Keeps what went wrong last for the owner, who may leave without an answer, and tells the machine.
    fn judge(&self, answer: Result<Answer, (Work, JoinError)>, trouble: &mut Option<Error>) -> Event {
        match answer {
            Ok(Answer::Checked(result)) => Event::Checked(result),
            Ok(Answer::Registered(result)) => {
                *trouble = None;
                Event::Registered(result.map_err(|error| Trouble::from(&*trouble.insert(error))))
            }
            Ok(Answer::Deregistered(result)) => {
                Event::Deregistered(result.map_err(|error| Trouble::from(&*trouble.insert(error))))
            }
            Err((Work::Check, _)) => Event::Checked(Err("the check panicked".to_owned())),
            Err((Work::Register, error)) => Event::Registered(Err(Trouble::from(&self.broken(error)))),
            Err((Work::Deregister, error)) => Event::Deregistered(Err(Trouble::from(&self.broken(error)))),
        }
    }

    fn broken(&self, error: JoinError) -> Error {
        Error::unavailable(self.registry.name(), "it failed inside", error)
    }

    fn no_answer(&self) -> Error {
        Error::Timeout { registry: self.registry.name(), after: self.config.timeout }
    }

    /// Publishes a state, and logs it where its kind is another.
    fn say(&self, state: State) {
        let before = self.state.send_replace(state);
        let state = self.state.borrow();
        if before.name() != state.name() {
            self.log(&state);
        }
    }

    fn log(&self, state: &State) {
        let record = self.record.borrow();
        let (service, node) = (&record.name, record.nodes.first().map_or("", |node| &node.id));
        let registry = self.registry.name();
        match state {
            State::Failing { why, .. } => tracing::warn!(service, node, registry, why, "registration fails; retrying"),
            State::Unhealthy { why, .. } => tracing::warn!(service, node, registry, why, "unhealthy: out of the registry"),
            state => tracing::info!(service, node, registry, state = state.name(), "registration"),
        }
    }
}

/// Waits until the owner wants out.
async fn told(leave: &mut watch::Receiver<bool>) {
    if leave.wait_for(|leave| *leave).await.is_err() {
        std::future::pending::<()>().await;
    }
}

impl Desk {
    fn start(&mut self, work: Work, driver: &mut Driver) {
        let task = match work {
            Work::Check => self.check(driver),
            Work::Register => self.register(driver),
            Work::Deregister => self.deregister(driver),
        };
        self.current = Some((task, work));
    }

    fn check(&mut self, driver: &Driver) -> task::Id {
        let check = driver.check.clone();
        let ask = async move {
            match check {
                Some(check) => check.check().await,
                None => Ok(()),
            }
        };
        self.tasks.spawn(async { Answer::Checked(ask.await) }).id()
    }

    fn register(&mut self, driver: &mut Driver) -> task::Id {
        let registry = driver.registry.clone();
        let options = RegisterOptions { ttl: driver.config.ttl, instance: driver.instance.clone() };
        let record = driver.record.borrow_and_update().clone();
        self.tasks.spawn(async move { Answer::Registered(registry.register(&record, &options).await) }).id()
    }

    fn deregister(&mut self, driver: &Driver) -> task::Id {
        let registry = driver.registry.clone();
        let options = DeregisterOptions::ours(driver.instance.clone());
        let record = driver.record.borrow().clone();
        self.tasks.spawn(async move { Answer::Deregistered(registry.deregister(&record, &options).await) }).id()
    }

    fn abandon(&mut self) {
        self.tasks.abort_all();
        self.current = None;
    }

    /// The answer of the work under way; the end of abandoned work is passed over. Pending while there is none.
    async fn answer(&mut self) -> Result<Answer, (Work, JoinError)> {
        loop {
            let ended = match self.tasks.join_next_with_id().await {
                Some(ended) => ended,
                None => std::future::pending().await,
            };
            let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
            if let Some((_, work)) = self.current.take_if(|(current, _)| *current == id) {
                return ended.map(|(_, answer)| answer).map_err(|error| (work, error));
            }
        }
    }
}
