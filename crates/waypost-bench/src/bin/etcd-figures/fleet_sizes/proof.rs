//! Cost for etcd of proving, with each heartbeat, that the keys of a process stand: by a watch of the
//! keys, by the keys of the lease, or by a read. Bare requests, without the code of the registry.

use std::fmt::Write;
use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;
use waypost_testkit::etcd::{Binary, Etcd, Options};
use waypost_testkit::report::{Figures, Result, rounded};
use waypost_testkit::{Child, Program};

use super::counters::{Counters, Rates};
use crate::fleet::INTERVAL;

/// Processes and nodes of each.
const SIZES: [(usize, usize); 6] = [
    (100, 1),
    (100, 10),
    (2_000, 1),
    (2_000, 10),
    (10_000, 1),
    (10_000, 10),
];
const PATIENCE: Duration = Duration::from_secs(180);

/// Proof that the keys of a process stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// Watch of the keys; progress is requested each second.
    WatchEachSecond,
    /// Watch of the keys; progress is requested with each heartbeat.
    Watch,
    /// Watch of the keys; progress is requested with a heartbeat whose keepalive shows a new
    /// revision of the store. At rest there is none.
    WatchRevision,
    /// `LeaseTimeToLive` with the keys of the lease, with each heartbeat.
    Lease,
    /// `LeaseTimeToLive` with a heartbeat whose keepalive shows a new revision of the store. At
    /// rest there is none: the keepalives alone.
    LeaseRevision,
    /// Read of the keys, in one transaction, with each heartbeat.
    Read,
}

impl Proof {
    const ALL: [Self; 6] = [
        Self::WatchEachSecond,
        Self::Watch,
        Self::WatchRevision,
        Self::Lease,
        Self::LeaseRevision,
        Self::Read,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::WatchEachSecond => "watch-each-second",
            Self::Watch => "watch",
            Self::WatchRevision => "watch-revision",
            Self::Lease => "lease",
            Self::LeaseRevision => "lease-revision",
            Self::Read => "read",
        }
    }

    /// Returns the proof with this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|proof| proof.name() == name)
    }
}

struct Cost {
    rates: Rates,
    memory_mib: f64,
    proven: usize,
    failed: usize,
}

pub(crate) async fn run(binary: &Binary, lasting: Duration) -> Result<Figures> {
    let mut table = format!(
        "proofs that the keys of a process stand, heartbeat each {INTERVAL:?}, measured for {lasting:?}\n  \
         processes x nodes  proof               messages/s   etcd cores   etcd MiB   proven/failed"
    );
    let (mut rows, mut failures) = (Vec::new(), Vec::new());
    for (processes, nodes) in SIZES {
        for proof in Proof::ALL {
            let cost = measure(binary, proof, (processes, nodes), lasting).await?;
            // Writing to a string does not fail.
            let _ = write!(
                table,
                "\n  {processes:>9} x {nodes:<5}  {:<18} {:>11.0} {:>12.3} {:>10.0}   {}/{}",
                proof.name(),
                cost.rates.messages,
                cost.rates.cores,
                cost.memory_mib,
                cost.proven,
                cost.failed,
            );
            if cost.failed > 0 {
                failures.push(format!(
                    "{processes} x {nodes}, {}: {} processes failed",
                    proof.name(),
                    cost.failed
                ));
            }
            rows.push(json!({
                "processes": processes, "nodes": nodes, "proof": proof.name(),
                "messages_per_s": rounded(cost.rates.messages), "etcd_cores": rounded(cost.rates.cores),
                "etcd_mib": rounded(cost.memory_mib), "proven": cost.proven, "failed": cost.failed,
            }));
        }
    }
    Ok(Figures {
        table,
        json: json!({ "proofs": rows, "seconds": lasting.as_secs() }),
        failures,
    })
}

async fn measure(
    binary: &Binary,
    proof: Proof,
    (processes, nodes): (usize, usize),
    lasting: Duration,
) -> Result<Cost> {
    let mut etcd = Etcd::start(binary, &Options::one()).await?;
    let numbers = [processes, nodes].map(|number| number.to_string());
    let program = Program::new(std::env::current_exe()?)
        .args(["processes", &etcd.addresses()[0].to_string(), proof.name()])
        .args(numbers);
    let mut child = Child::start("processes", &program)?;
    child.line(PATIENCE).await?;
    sleep(INTERVAL * 2).await;
    let before = Counters::at(&mut etcd).await?;
    sleep(lasting).await;
    let after = Counters::at(&mut etcd).await?;
    child.sigterm()?;
    let line = child.line(PATIENCE).await?;
    let (proven, failed) = line.split_once(' ').ok_or("two numbers")?;
    Ok(Cost {
        rates: after.since(&before),
        memory_mib: after.memory_mib,
        proven: proven.parse()?,
        failed: failed.parse()?,
    })
}
