//! Return of two hundred registrars whose etcd was wiped: spread over time, or all at once.
//!
//! Four processes of fifty registries, each with a connection and a lease of its own. etcd is
//! killed, loses its data and starts again, at once and after an outage that every registrar has
//! noticed. An independent watcher sees each registration when it is written.

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout_at};
use waypost_testkit::etcd::{Binary, Data, Etcd, Options};
use waypost_testkit::report::{Figures, Result, rounded};

use crate::baseline::{Baseline, EventStream};
use crate::fleet::{INTERVAL, RunningFleet, WatchLoad, url};

const PROCESSES: usize = 4;
const HANDLES: usize = 50;
const REGISTRARS: usize = PROCESSES * HANDLES;
const SLOT: Duration = Duration::from_millis(250);
/// Maximum share of the registrations in one slot.
const SHARE: f64 = 0.25;
/// Maximum time until all are registered again: one interval, the jitter, and two seconds.
const IN_TIME: Duration = INTERVAL.saturating_add(Duration::from_secs(3 + 2));
/// Time for which etcd is down, in addition to the time that it takes to start.
const OUTAGES: [Duration; 2] = [Duration::ZERO, Duration::from_secs(10)];
const WIPES: usize = 3;
const POLL: Duration = Duration::from_millis(2);

pub(crate) async fn run(binary: &Binary) -> Result<Figures> {
    let mut etcd = Etcd::start(binary, &Options::one()).await?;
    let mut fleet = Vec::new();
    for process in 0..PROCESSES {
        fleet.push(RunningFleet::start(
            &url(&etcd),
            WatchLoad {
                handles: HANDLES,
                services: 1,
                first: process * HANDLES,
            },
        )?);
    }
    for process in &mut fleet {
        process.registered().await?;
    }
    let mut wipes = Vec::new();
    for outage in OUTAGES {
        for _ in 0..WIPES {
            // Two intervals, so that the heartbeats are spread again.
            sleep(INTERVAL * 2).await;
            wipes.push(wipe(&mut etcd, outage).await?);
        }
    }
    for process in fleet {
        process.shut_down().await?;
    }
    Ok(figures(&wipes))
}

/// Results of one wipe.
struct Wipe {
    outage: Duration,
    /// Time from the kill to the first response.
    down: Duration,
    /// Time of each registration since etcd responded again.
    seen: Vec<Duration>,
    leases: usize,
}

async fn wipe(etcd: &mut Etcd, outage: Duration) -> Result<Wipe> {
    let address = etcd.addresses()[0];
    etcd.kill().await?;
    let killed = Instant::now();
    sleep(outage).await;
    let (watched, started) = tokio::join!(first_watch(address), etcd.restart(Data::Lost));
    started?;
    let (baseline, events_stream, up) = watched;
    let seen = registrations(events_stream, up).await?;
    drop(baseline);
    Ok(Wipe {
        outage,
        down: up - killed,
        seen,
        leases: etcd.leases().await?.len(),
    })
}

/// Opens a watch from the first revision, as soon as etcd responds.
async fn first_watch(address: SocketAddr) -> (Baseline, EventStream, Instant) {
    loop {
        if let Ok(baseline) = Baseline::connect(address).await
            && let Ok(events_stream) = baseline.watch(1).await
        {
            return (baseline, events_stream, Instant::now());
        }
        sleep(POLL).await;
    }
}

/// Returns the time of each registration. Those that never come are missing.
async fn registrations(mut events_stream: EventStream, up: Instant) -> Result<Vec<Duration>> {
    let mut seen = Vec::new();
    let until = up + IN_TIME * 2;
    while seen.len() < REGISTRARS
        && let Ok(next) = timeout_at(until, events_stream.next()).await
    {
        let (at, response) = (up.elapsed(), next?);
        let new = response
            .events
            .iter()
            .filter_map(|event| event.kv.as_ref())
            .filter(|kv| kv.version == 1);
        seen.extend(new.map(|_| at));
    }
    Ok(seen)
}

impl Wipe {
    /// Returns the largest number of registrations in any 250 ms, wherever they begin.
    fn fullest(&self) -> usize {
        let within = |begin: &Duration| {
            self.seen
                .iter()
                .filter(|at| (*begin..*begin + SLOT).contains(*at))
                .count()
        };
        self.seen.iter().map(within).max().unwrap_or_default()
    }

    fn share(&self) -> f64 {
        self.fullest() as f64 / REGISTRARS as f64
    }

    fn last(&self) -> Duration {
        self.seen.iter().max().copied().unwrap_or_default()
    }

    /// Returns the number of registrations in each slot since etcd responded.
    fn slots(&self) -> Vec<usize> {
        let slot = |at: &Duration| (at.as_millis() / SLOT.as_millis()) as usize;
        let mut slots = vec![0; self.seen.iter().map(slot).max().map_or(0, |last| last + 1)];
        self.seen.iter().for_each(|at| slots[slot(at)] += 1);
        slots
    }

    fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        let mut require = |holds: bool, why: String| failures.extend((!holds).then_some(why));
        let share = self.share() * 100.0;
        require(
            self.seen.len() == REGISTRARS,
            format!("only {} of {REGISTRARS} came back", self.seen.len()),
        );
        require(
            self.share() <= SHARE,
            format!("{share:.0} % of the registrars came back within {SLOT:?}"),
        );
        require(
            self.last() <= IN_TIME,
            format!(
                "the last registrar was back after {:?}, not within {IN_TIME:?}",
                self.last()
            ),
        );
        require(
            self.leases == REGISTRARS,
            format!("{REGISTRARS} registrars have {} leases", self.leases),
        );
        failures
    }

    fn json(&self) -> Value {
        json!({
            "outage_s": rounded(self.outage.as_secs_f64()), "down_s": rounded(self.down.as_secs_f64()), "back": self.seen.len(),
            "leases": self.leases, "fullest_250_ms": self.fullest(), "all_back_s": rounded(self.last().as_secs_f64()),
            "by_250_ms": self.slots(),
        })
    }
}

fn figures(wipes: &[Wipe]) -> Figures {
    let mut table = format!(
        "{REGISTRARS} registrars in {PROCESSES} processes, each with a lease of its own; etcd killed, wiped and started again; \
         registrations per {SLOT:?} since it responded"
    );
    for wipe in wipes {
        // Writing to a string does not fail.
        let _ = write!(
            table,
            "\n  down for {:>4.1} s: fullest {:>3} ({:>2.0} %), all back after {:>4.1} s  {:?}",
            wipe.down.as_secs_f64(),
            wipe.fullest(),
            wipe.share() * 100.0,
            wipe.last().as_secs_f64(),
            wipe.slots()
        );
    }
    let json = json!({
        "registrars": REGISTRARS, "processes": PROCESSES, "most_in_250_ms": SHARE * REGISTRARS as f64,
        "in_time_s": IN_TIME.as_secs(), "wipes": wipes.iter().map(Wipe::json).collect::<Vec<_>>(),
    });
    Figures {
        table,
        json,
        failures: wipes.iter().flat_map(Wipe::failures).collect(),
    }
}
