//! Recovery of a fleet from faults of etcd: 2 000 handles, each with one node and five services that
//! it follows. Reported is the time until the fleet is calm again, what it cost until then, and what
//! another client of etcd noticed.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use waypost_testkit::etcd::{Binary, Data, Etcd, Options};
use waypost_testkit::report::{Figures, Result, rounded};
use waypost_testkit::{Child, Program};

use super::counters::{Counters, Rates};
use super::follower::{FOLLOWED, NODES, Seen};
use crate::baseline::Baseline;
use crate::messages::{BaselineRangeRequest, BaselineRangeResponse};

const HANDLES: usize = 2_000;
const CHILDREN: usize = 4;
const START: Duration = Duration::from_secs(180);
/// Time without a broken stream after which the fleet is calm.
const CALM: Duration = Duration::from_secs(10);
/// Maximum time of the observation after a fault.
const PATIENCE: Duration = Duration::from_secs(120);
const SAMPLE: Duration = Duration::from_secs(1);
const FREEZE: Duration = Duration::from_secs(20);
/// Factor of etcd's CPU at rest below which it is at rest again.
const AT_REST: f64 = 1.5;
/// Timeout of the plain read.
const READ_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug)]
enum Fault {
    RestartWithData,
    RestartEmpty,
    Freeze,
    RollingRestart,
}

impl Fault {
    const ALL: [Self; 4] = [
        Self::RestartWithData,
        Self::RestartEmpty,
        Self::Freeze,
        Self::RollingRestart,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::RestartWithData => "restart with data",
            Self::RestartEmpty => "restart empty",
            Self::Freeze => "freeze of 20 s",
            Self::RollingRestart => "rolling restart of three",
        }
    }

    fn options(self) -> Options {
        match self {
            Self::RollingRestart => Options::three(),
            _ => Options::one(),
        }
    }

    async fn inject(self, etcd: &mut Etcd) -> Result<()> {
        match self {
            Self::RestartWithData => etcd.restart(Data::Kept).await?,
            Self::RestartEmpty => etcd.restart(Data::Lost).await?,
            Self::Freeze => {
                etcd.pause()?;
                sleep(FREEZE).await;
                etcd.resume()?;
            }
            Self::RollingRestart => {
                for index in 0..etcd.size() {
                    etcd.member(index).kill().await?;
                    etcd.member(index).start()?;
                    etcd.member(index).serving().await?;
                    sleep(SAMPLE * 2).await;
                }
            }
        }
        Ok(())
    }
}

/// Observations after one fault.
#[derive(Debug, Default)]
struct Recovery {
    /// Cores of etcd at rest, before the fault.
    rest: f64,
    /// Time from the end of the fault until nothing was broken or unregistered any more.
    calm: Option<Duration>,
    streams_ended: f64,
    lists: f64,
    /// Highest number of unregistered nodes.
    unregistered: usize,
    /// Highest number of nodes that were missing from snapshots.
    missing: usize,
    /// Longest time of a plain read.
    longest_read: Duration,
}

pub(crate) async fn run(binary: &Binary) -> Result<Figures> {
    let mut table = format!(
        "{HANDLES} processes, each with one node and {FOLLOWED} services of {NODES} nodes that it follows\n  \
         fault                      calm after  streams ended    lists  unregistered  missing  longest read  cores at rest"
    );
    let (mut rows, mut failures) = (Vec::new(), Vec::new());
    for fault in Fault::ALL {
        let recovery = recover(binary, fault).await?;
        let calm = recovery.calm.map_or_else(
            || format!("not in {} s", PATIENCE.as_secs()),
            |calm| format!("{:.0} s", calm.as_secs_f64()),
        );
        // Writing to a string does not fail.
        let _ = write!(
            table,
            "\n  {:<26} {calm:>10} {:>14.0} {:>8.0} {:>13} {:>8} {:>11.1} s {:>14.3}",
            fault.name(),
            recovery.streams_ended,
            recovery.lists,
            recovery.unregistered,
            recovery.missing,
            recovery.longest_read.as_secs_f64(),
            recovery.rest,
        );
        if recovery.missing > 0 {
            failures.push(format!(
                "{}: {} nodes were missing",
                fault.name(),
                recovery.missing
            ));
        }
        if recovery.calm.is_none() {
            failures.push(format!("{}: never calm", fault.name()));
        }
        rows.push(json!({
            "fault": fault.name(), "streams_ended": recovery.streams_ended, "lists": recovery.lists,
            "calm_s": recovery.calm.map_or(Value::Null, |calm| rounded(calm.as_secs_f64()).into()),
            "unregistered": recovery.unregistered, "missing": recovery.missing,
            "longest_read_s": rounded(recovery.longest_read.as_secs_f64()), "cores_at_rest": rounded(recovery.rest),
        }));
    }
    Ok(Figures {
        table,
        json: json!({ "handles": HANDLES, "faults": rows }),
        failures,
    })
}

async fn recover(binary: &Binary, fault: Fault) -> Result<Recovery> {
    let mut etcd = Etcd::start(binary, &fault.options()).await?;
    let mut fleet = Fleet::start(&etcd)?;
    fleet.until_whole().await?;
    sleep(CALM).await;
    let rest = rates(&mut etcd, CALM).await?;
    fault.inject(&mut etcd).await?;
    let mut recovery = Recovery {
        rest: rest.cores,
        ..Recovery::default()
    };
    observe(&mut etcd, &fleet, &rest, &mut recovery).await?;
    Ok(recovery)
}

async fn rates(etcd: &mut Etcd, over: Duration) -> Result<Rates> {
    let before = Counters::at(etcd).await?;
    sleep(over).await;
    Ok(Counters::at(etcd).await?.since(&before))
}

async fn observe(
    etcd: &mut Etcd,
    fleet: &Fleet,
    rest: &Rates,
    recovery: &mut Recovery,
) -> Result<()> {
    let begun = Instant::now();
    let reader = Reader::start(etcd.addresses()[0]);
    let mut before = Counters::at(etcd).await?;
    let mut calm_since: Option<Instant> = None;
    while begun.elapsed() < PATIENCE {
        sleep(SAMPLE).await;
        // A member that is too busy to show its metrics is not calm.
        let Ok(after) = Counters::at(etcd).await else {
            calm_since = None;
            continue;
        };
        let (now, seconds) = (after.since(&before), SAMPLE.as_secs_f64());
        before = after;
        recovery.streams_ended += now.streams_ended * seconds;
        recovery.lists += now.lists * seconds;
        let seen = fleet.seen()?;
        recovery.unregistered = recovery.unregistered.max(seen.unregistered);
        recovery.missing = recovery.missing.max(seen.missing);
        let is_calm = now.streams_ended == 0.0
            && seen.unregistered == 0
            && seen.in_outage == 0
            && now.cores <= rest.cores * AT_REST + 0.05;
        calm_since = is_calm.then(|| calm_since.unwrap_or_else(Instant::now));
        if let Some(since) = calm_since.filter(|since| since.elapsed() >= CALM) {
            recovery.calm = Some(since - begun);
            break;
        }
    }
    recovery.longest_read = Duration::from_millis(reader.longest_ms.load(Relaxed));
    Ok(())
}

/// Client of etcd that reads one key again and again, each time on a new connection.
struct Reader {
    longest_ms: Arc<AtomicU64>,
    _reading: JoinSet<()>,
}

impl Reader {
    fn start(address: SocketAddr) -> Self {
        let longest_ms = Arc::<AtomicU64>::default();
        let mut reading = JoinSet::new();
        let longest = Arc::clone(&longest_ms);
        reading.spawn(async move {
            loop {
                let begun = Instant::now();
                // A read that fails, as during a restart, is repeated and counts as one.
                let read = async {
                    while read_one(address).await.is_err() {
                        sleep(SAMPLE / 10).await;
                    }
                };
                let _ = timeout(READ_TIMEOUT, read).await;
                let took = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                longest.fetch_max(took, Relaxed);
                sleep(SAMPLE).await;
            }
        });
        Self {
            longest_ms,
            _reading: reading,
        }
    }
}

async fn read_one(address: SocketAddr) -> Result<()> {
    let etcd = Baseline::connect(address).await?;
    let request = BaselineRangeRequest {
        key: b"/a-key".to_vec(),
        range_end: Vec::new(),
    };
    let _: BaselineRangeResponse = etcd.call("/etcdserverpb.KV/Range", request).await?;
    Ok(())
}

/// Child processes with the handles.
struct Fleet(Vec<Child>);

impl Fleet {
    fn start(etcd: &Etcd) -> Result<Self> {
        let addresses: Vec<_> = etcd.addresses().iter().map(ToString::to_string).collect();
        let url = format!("etcd://{}", addresses.join(","));
        let handles = HANDLES / CHILDREN;
        let child = |child: usize| {
            let numbers = [handles, child * handles, HANDLES / NODES];
            let program = Program::new(std::env::current_exe()?)
                .args(["followers", &url])
                .args(numbers.map(|number| number.to_string()));
            Ok(Child::start("followers", &program)?)
        };
        Ok(Self((0..CHILDREN).map(child).collect::<Result<_>>()?))
    }

    /// Returns the newest state of all handles.
    fn seen(&self) -> Result<Seen> {
        let mut sum = Seen::default();
        for child in &self.0 {
            let lines = child.stdout();
            let seen = lines.last().and_then(|line| Seen::parse(line));
            let seen = seen.ok_or("a child prints no state")?;
            sum.unregistered += seen.unregistered;
            sum.in_outage += seen.in_outage;
            sum.missing += seen.missing;
        }
        Ok(sum)
    }

    /// Waits until all is registered and seen.
    async fn until_whole(&mut self) -> Result<()> {
        let begun = Instant::now();
        for child in &mut self.0 {
            child.line(START).await?;
        }
        while self.seen()? != Seen::default() {
            if begun.elapsed() > START {
                return Err(format!("the fleet does not start: {:?}", self.seen()?).into());
            }
            sleep(SAMPLE).await;
        }
        Ok(())
    }
}
