//! Randomized trial of a client over real sockets: hostile and well servers, membership changes, a
//! connector that may panic, and calls meanwhile. At the end all servers are healed. Then every
//! node must respond within one backoff, no call may remain in flight, and no task may remain after
//! the client is closed.
//!
//! A seed determines all random choices; the order of events is that of the machine, in real time.

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

/// Maximum time from healing until each node responds: one backoff of at most 5 s, the 2 s that a
/// connection attempt may hang, and 3 s for a busy machine.
const WITHIN: Duration = Duration::from_secs(10);
/// Interval between two checks.
const LOOK: Duration = Duration::from_millis(20);
/// Number of threads of a trial that has more than one.
const WORKERS: usize = 2;
/// Maximum time for calls and connections to end.
const END: Duration = Duration::from_secs(5);

/// Defect that a trial found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Defect {
    /// A well node that was never picked, although its backoff had time to end.
    NeverConnected(String),
    /// A well node that the client considers ready, but that no call reaches.
    NeverAnswers(String),
    /// Calls that are counted as in flight, although all have ended.
    InFlight(String),
    /// Number of tasks that outlive the client.
    TasksLeft(usize),
    /// Callers, or the client's close, that must end and did not.
    DoesNotEnd(&'static str),
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverConnected(node) => write!(f, "a well node is never connected: {node}"),
            Self::NeverAnswers(node) => {
                write!(f, "a node that is reported as ready gets no call: {node}")
            }
            Self::InFlight(node) => write!(f, "calls stay in flight after all have ended: {node}"),
            Self::TasksLeft(count) => {
                write!(f, "{count} tasks are left after the client was closed")
            }
            Self::DoesNotEnd(what) => write!(f, "{what} did not end within {END:?}"),
        }
    }
}

/// Figures of a trial that found no defect.
#[derive(Clone, Copy, Debug, Default)]
pub struct Passed {
    /// Number of calls started.
    pub calls: u64,
    /// Number of calls that got a response.
    pub answered: u64,
    /// Number of connections that the servers accepted.
    pub connections: u64,
    /// Time from healing until the last node had responded.
    pub healed_after: Duration,
}

/// Result of one trial.
#[derive(Debug)]
pub struct TrialResult {
    /// Everything that was drawn.
    pub plan: Plan,
    /// Figures, or the defects.
    pub found: Result<Passed, Vec<Defect>>,
}

/// Runs the trial of one seed on a runtime of its own, which blocks the thread for some seconds.
///
/// # Errors
/// The machine refuses sockets or threads.
pub fn run(seed: u64, panics: Panics) -> Result<TrialResult, Failure> {
    let plan = Plan::draw(seed, panics);
    let mut builder = if plan.one_thread {
        Builder::new_current_thread()
    } else {
        Builder::new_multi_thread()
    };
    let runtime = builder
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .map_err(|error| Failure::new(error.to_string()))?;
    let found = runtime.block_on(play(&plan))?;
    Ok(TrialResult { plan, found })
}

/// Runs the trials of many seeds, `at_once` at a time, each on a thread of its own; calls `report`
/// with each result.
///
/// # Errors
/// The machine refuses sockets or threads.
pub fn run_all(
    seeds: &[u64],
    panics: Panics,
    at_once: usize,
    report: impl FnMut(&TrialResult) + Send,
) -> Result<(), Failure> {
    let (next, report) = (Mutex::new(seeds.iter()), Mutex::new(report));
    let work = || {
        while let Some(seed) = { next.lock().unwrap_or_else(PoisonError::into_inner).next() } {
            let verdict = run(*seed, panics)?;
            report.lock().unwrap_or_else(PoisonError::into_inner)(&verdict);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once.min(seeds.len()))
            .map(|_| scope.spawn(work))
            .collect();
        workers.into_iter().try_for_each(|worker| {
            worker
                .join()
                .unwrap_or_else(|_| Err(Failure::new("a trial panicked")))
        })
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
        return Ok(Err(
            [defects, vec![Defect::DoesNotEnd("the calls")]].concat()
        ));
    };
    defects.extend(subject.in_flight().into_iter().map(Defect::InFlight));
    if tokio::time::timeout(END, subject.close()).await.is_err() {
        defects.push(Defect::DoesNotEnd("the client's close"));
    }
    let connections = world.accepted();
    world.close().await;
    defects.extend(tasks_left(tasks).await);
    let passed = Passed {
        calls: counted.calls,
        answered: counted.answered,
        connections,
        healed_after,
    };
    Ok(if defects.is_empty() {
        Ok(passed)
    } else {
        Err(defects)
    })
}

/// Waits until all nodes respond, then again after each outage. An outage begins in an idle pool,
/// where no other event hides a lost timer. Returns the longest wait.
async fn heals(world: &World, subject: &Subject, plan: &Plan) -> Result<Duration, Vec<Defect>> {
    let mut longest = all_answer(world, subject).await?;
    for (index, lasts) in plan.outages.iter().enumerate() {
        world.outage(index, *lasts).await;
        longest = longest.max(all_answer(world, subject).await?);
    }
    Ok(longest)
}

/// Waits until each node has responded to a call after this moment; returns the time that took.
async fn all_answer(world: &World, subject: &Subject) -> Result<Duration, Vec<Defect>> {
    let start = Instant::now();
    let before = world.answered();
    loop {
        let silent: Vec<_> = world
            .answered()
            .iter()
            .zip(&before)
            .map(|(now, then)| now == then)
            .collect();
        if !silent.contains(&true) {
            return Ok(start.elapsed());
        }
        if start.elapsed() > WITHIN {
            return Err(subject.explain(&world.silent(&silent)));
        }
        sleep(LOOK).await;
    }
}

/// Returns the tasks that outlived their owner: those still counted after a second, since a joined
/// task is counted for a moment longer.
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
