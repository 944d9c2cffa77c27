//! Processes that register one node and follow services: this program, started again as `…
//! followers URL HANDLES FIRST`. Each handle is a registry of its own.

use std::time::Duration;

use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};
use waypost::directory::{Config, Directory, Subscription};
use waypost::{AnyRegistry, Registration};
use waypost_testkit::report::{Result, one_thread};

use crate::fleet::{INTERVAL, TTL, connect, record, service};

/// Number of services that a handle follows.
pub(crate) const FOLLOWED: usize = 5;
/// Number of nodes of a service.
pub(crate) const NODES: usize = 10;
/// Interval between two looks at all handles.
const LOOK: Duration = Duration::from_millis(500);

/// Handle that stands for one process of the fleet.
struct Handle {
    _registry: AnyRegistry,
    registration: Registration,
    _directory: Directory,
    subscriptions: Vec<Subscription>,
}

/// State of all handles of this child.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) unregistered: usize,
    /// Subscriptions in an outage.
    pub(crate) in_outage: usize,
    /// Nodes missing from snapshots, suspects not counted as missing.
    pub(crate) missing: usize,
}

impl Seen {
    /// Parses the line of a child.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut numbers = line.split(' ').map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(Self {
            unregistered: next()?,
            in_outage: next()?,
            missing: next()?,
        })
    }
}

/// Runs the child process. Prints its state every [`LOOK`] until SIGTERM.
pub(crate) fn run(args: &[String]) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let [url, handles, first, services] = args else {
        return Err("followers URL HANDLES FIRST SERVICES".into());
    };
    let (handles, first, services) = (handles.parse()?, first.parse()?, services.parse()?);
    one_thread()?.block_on(follow(url, handles, first, services))
}

async fn follow(url: &str, handles: usize, first: usize, services: usize) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let fleet = (first..first + handles)
        .map(|number| Handle::start(url, number, services))
        .collect::<Result<Vec<_>>>()?;
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = looks.tick() => {}
        }
        let mut seen = Seen::default();
        fleet.iter().for_each(|handle| handle.look(&mut seen));
        println!("{} {} {}", seen.unregistered, seen.in_outage, seen.missing);
    }
}

impl Handle {
    /// Registers node `number` of the fleet, and follows the services after its own.
    fn start(url: &str, number: usize, services: usize) -> Result<Self> {
        let registry = connect(url)?;
        let record = record(number % services, number)?;
        let registration = Registration::builder(registry.clone(), record)
            .ttl(TTL)
            .interval(INTERVAL)
            .start()?;
        let directory = Directory::new(registry.clone(), Config::default());
        let subscriptions = (1..=FOLLOWED)
            .map(|next| Ok(directory.subscribe(&service((number + next) % services).parse()?)?))
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            _registry: registry,
            registration,
            _directory: directory,
            subscriptions,
        })
    }

    fn look(&self, seen: &mut Seen) {
        seen.unregistered += usize::from(!self.registration.state().is_registered());
        for subscription in &self.subscriptions {
            let snapshot = subscription.snapshot();
            let nodes = snapshot.confirmed().len() + snapshot.suspects().len();
            seen.missing += NODES.saturating_sub(nodes);
            seen.in_outage += usize::from(snapshot.outage.is_some());
        }
    }
}
