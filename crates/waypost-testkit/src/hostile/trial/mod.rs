//! One randomised trial of a client over real sockets: hostile and well servers, changes of membership, a connector that may panic, and
//! calls meanwhile. In the end all servers are well. Then every node must answer within one back-off, no call may be left in flight, and
//! after the client is closed no task may be left.
//!
//! A seed decides all that is drawn; the order of events is the machine's, in real time.

mod adapter;
mod callers;
mod plan;
mod world;

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::time::{Instant, sleep};

use crate::Failure;
use adapter::Subject;
use callers::Callers;
pub use plan::{Panics, Plan};
use world::World;

/// Longest time from healing until each node answers: one back-off of at most 5 s, the 2 s that a connection attempt may hang, and 3 s for a
/// machine that is busy.
const WITHIN: Duration = Duration::from_secs(10);
/// Interval between two looks.
const LOOK: Duration = Duration::from_millis(20);
/// Threads of a trial that has more than one.
const WORKERS: usize = 2;
/// Longest time for what must come to its end: calls, connections.
const END: Duration = Duration::from_secs(5);

/// Defect that a trial found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Defect {
    /// A well node was never picked, though the client had time for its back-off.
    NeverConnected(String),
    /// A well node is ready by the client's word, and no call reaches it.
    NeverAnswers(String),
    /// Calls are counted as in flight though all have ended.
    InFlight(String),
    /// Tasks outlive the client.
    TasksLeft(usize),
    /// Something that must end did not: callers, the client's close.
    DoesNotEnd(&'static str),
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverConnected(node) => write!(f, "a well node is never connected: {node}"),
            Self::NeverAnswers(node) => write!(f, "a node that is said to be ready gets no call: {node}"),
            Self::InFlight(node) => write!(f, "calls stay in flight after all have ended: {node}"),
            Self::TasksLeft(count) => write!(f, "{count} tasks are left after the client was closed"),
            Self::DoesNotEnd(what) => write!(f, "{what} did not end within {END:?}"),
        }
    }
}

/// Figures of a trial that found nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Passed {
    /// Calls that were begun.
    pub calls: u64,
    /// Calls that were answered.
    pub answered: u64,
    /// Connections that the servers accepted.
    pub connections: u64,
    /// Time from healing until the last node had answered.
    pub healed_after: Duration,
}

/// Result of one trial.
#[derive(Debug)]
pub struct Verdict {
    /// Everything that was drawn.
    pub plan: Plan,
    /// Figures, or what is wrong.
    pub found: Result<Passed, Vec<Defect>>,
}

/// Runs the trial of one seed on a runtime of its own, which it blocks for some seconds.
///
/// # Errors
/// The machine refuses sockets or threads.
pub fn run(seed: u64, panics: Panics) -> Result<Verdict, Failure> {
    let plan = Plan::draw(seed, panics);
    let mut builder = if plan.one_thread { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    let runtime = builder.worker_threads(WORKERS).enable_all().build().map_err(|error| Failure::new(error.to_string()))?;
    let found = runtime.block_on(play(&plan))?;
    Ok(Verdict { plan, found })
}

/// Runs the trials of many seeds, `at_once` at a time, each on a thread of its own; `report` hears of each as it ends.
///
/// # Errors
/// The machine refuses sockets or threads.
pub fn run_all(seeds: &[u64], panics: Panics, at_once: usize, report: impl FnMut(&Verdict) + Send) -> Result<(), Failure> {
    let (next, report) = (Mutex::new(seeds.iter()), Mutex::new(report));
    let work = || {
        while let Some(seed) = { next.lock().unwrap_or_else(PoisonError::into_inner).next() } {
            let verdict = run(*seed, panics)?;
            report.lock().unwrap_or_else(PoisonError::into_inner)(&verdict);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once.min(seeds.len())).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|_| Err(Failure::new("a trial panicked"))))
    })
}

async fn play(plan: &Plan) -> Result<Result<Passed, Vec<Defect>>, Failure> {
    let tasks = alive_tasks();
    let mut world = World::start(plan).await?;
    let subject = Subject::new(&world, plan)?;
    let callers = Callers::start(&subject, plan);
    world.trouble(plan).await;
    subject.heal();
    world.heal();
    let mut defects = Vec::new();
    let healed_after = heals(&world, &subject, plan).await.unwrap_or_else(|found| {
        defects.extend(found);
        WITHIN
    });
    let Ok(counted) = tokio::time::timeout(END, callers.stop()).await else {
        return Ok(Err([defects, vec![Defect::DoesNotEnd("the calls")]].concat()));
    };
    defects.extend(subject.in_flight().into_iter().map(Defect::InFlight));
    if tokio::time::timeout(END, subject.close()).await.is_err() {
        defects.push(Defect::DoesNotEnd("the client's close"));
    }
    let connections = world.accepted();
    world.close().await;
    defects.extend(tasks_left(tasks).await);
    let passed = Passed { calls: counted.calls, answered: counted.answered, connections, healed_after };
    Ok(if defects.is_empty() { Ok(passed) } else { Err(defects) })
}

/// Waits until all answer, then again after each outage: it comes in a quiet pool, where no other event hides a lost timer. Returns the
/// longest time.
async fn heals(world: &World, subject: &Subject, plan: &Plan) -> Result<Duration, Vec<Defect>> {
    let mut longest = all_answer(world, subject).await?;
    for (index, lasts) in plan.outages.iter().enumerate() {
        world.outage(index, *lasts).await;
        longest = longest.max(all_answer(world, subject).await?);
    }
    Ok(longest)
}

/// Waits until each node has answered a call from now on.
async fn all_answer(world: &World, subject: &Subject) -> Result<Duration, Vec<Defect>> {
    let start = Instant::now();
    let before = world.answered();
    loop {
        let silent: Vec<_> = world.answered().iter().zip(&before).map(|(now, then)| now == then).collect();
        if !silent.contains(&true) {
            return Ok(start.elapsed());
        }
        if start.elapsed() > WITHIN {
            return Err(subject.explain(&world.silent(&silent)));
        }
        sleep(LOOK).await;
    }
}

/// A task that was joined is counted for a moment longer; one that is counted after a second has outlived its owner.
async fn tasks_left(before: usize) -> Option<Defect> {
    let end = Instant::now() + Duration::from_secs(1);
    while alive_tasks() > before {
        if Instant::now() > end {
            return Some(Defect::TasksLeft(alive_tasks() - before));
        }
        sleep(Duration::from_millis(1)).await;
    }
    None
}

fn alive_tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}
