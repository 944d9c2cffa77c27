//! Bare processes: each has one connection, one lease with its keys, and a proof with each heartbeat
//! that the keys stand. This program, started again as `… processes ADDRESS PROOF COUNT NODES`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at, timeout};
use waypost_testkit::report::{Result, one_thread};

use super::proof::Proof;
use crate::baseline::{Baseline, Exchange};
use crate::fleet::{INTERVAL, TTL, key, record};
use crate::messages::{
    BaselineLeaseGrantRequest, BaselineLeaseGrantResponse, BaselineLeaseKeepAliveRequest,
    BaselineLeaseKeepAliveResponse, BaselineLeaseTimeToLiveRequest,
    BaselineLeaseTimeToLiveResponse, BaselineOp, BaselinePutRequest, BaselineRangeRequest,
    BaselineRequestOp, BaselineTxnRequest, BaselineTxnResponse, BaselineWatchCreateRequest,
    BaselineWatchProgressRequest, BaselineWatchRequest, BaselineWatchResponse, BaselineWatchUnion,
};

/// Maximum number of processes that start at once.
const STARTS: usize = 64;
/// Maximum time of one heartbeat.
const PATIENCE: Duration = Duration::from_secs(10);
/// Interval of the progress requests of [`Proof::WatchEachSecond`].
const SECOND: Duration = Duration::from_secs(1);

type KeepAlives = Exchange<BaselineLeaseKeepAliveRequest, BaselineLeaseKeepAliveResponse>;
type OwnWatch = Exchange<BaselineWatchRequest, BaselineWatchResponse>;

/// Counts of all processes.
#[derive(Debug, Default)]
struct Beats {
    proven: AtomicUsize,
    failed: AtomicUsize,
}

/// Runs the child process. Prints a line once all processes are registered, and on SIGTERM the
/// number of proofs that succeeded and failed.
pub(crate) fn run(args: &[String]) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let [address, proof, count, nodes] = args else {
        return Err("processes ADDRESS PROOF COUNT NODES".into());
    };
    let proof = Proof::named(proof).ok_or("no such proof")?;
    one_thread()?.block_on(all(address.parse()?, proof, count.parse()?, nodes.parse()?))
}

async fn all(address: SocketAddr, proof: Proof, count: usize, nodes: usize) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let (beats, starts) = (Arc::<Beats>::default(), Arc::new(Semaphore::new(STARTS)));
    let (ready, mut is_ready) = mpsc::channel::<()>(1);
    let mut processes = JoinSet::new();
    for number in 0..count {
        let (beats, starts, ready) = (Arc::clone(&beats), Arc::clone(&starts), ready.clone());
        processes.spawn(async move {
            let started = {
                let _permit = starts.acquire().await?;
                Process::start(address, proof, number, nodes).await
            };
            drop(ready);
            // The heartbeats of the fleet are spread evenly.
            let phase = INTERVAL.mul_f64(number as f64 / count as f64);
            let ended = async { started?.run(phase, &beats).await }.await;
            beats.failed.fetch_add(1, Relaxed);
            ended
        });
    }
    drop(ready);
    is_ready.recv().await;
    println!("ready");
    terminate.recv().await;
    println!(
        "{} {}",
        beats.proven.load(Relaxed),
        beats.failed.load(Relaxed)
    );
    Ok(())
}

/// Bare process of the fleet.
struct Process {
    etcd: Baseline,
    proof: Proof,
    lease: i64,
    keys: Vec<Vec<u8>>,
    keep_alives: KeepAlives,
    watch: Option<OwnWatch>,
    /// Revision of the store as of the last keepalive.
    revision: i64,
    /// Revision of the store as of the last proof.
    proven: i64,
}

impl Process {
    async fn start(address: SocketAddr, proof: Proof, number: usize, nodes: usize) -> Result<Self> {
        let etcd = Baseline::connect(address).await?;
        let ttl = i64::try_from(TTL.as_secs())?;
        let granted: BaselineLeaseGrantResponse = etcd
            .call(
                "/etcdserverpb.Lease/LeaseGrant",
                BaselineLeaseGrantRequest { ttl },
            )
            .await?;
        let lease = granted.id;
        let (mut keys, mut puts) = (Vec::new(), Vec::new());
        for service in 0..nodes {
            let record = record(service, number)?;
            let key = key(&record).into_bytes();
            puts.push(op(BaselineOp::Put(BaselinePutRequest {
                key: key.clone(),
                value: record.to_json().into_bytes(),
                lease,
            })));
            keys.push(key);
        }
        let _: BaselineTxnResponse = etcd
            .call("/etcdserverpb.KV/Txn", BaselineTxnRequest { success: puts })
            .await?;
        let keep_alives = etcd
            .exchange(
                "/etcdserverpb.Lease/LeaseKeepAlive",
                vec![BaselineLeaseKeepAliveRequest { id: lease }],
            )
            .await?;
        let watch = match proof {
            Proof::WatchEachSecond | Proof::Watch | Proof::WatchRevision => {
                Some(own_watch(&etcd, &keys).await?)
            }
            Proof::Lease | Proof::LeaseRevision | Proof::Read => None,
        };
        let mut process = Self {
            etcd,
            proof,
            lease,
            keys,
            keep_alives,
            watch,
            revision: 0,
            proven: 0,
        };
        process.renewed().await?;
        Ok(process)
    }

    /// Sends heartbeats until one fails.
    async fn run(mut self, phase: Duration, beats: &Beats) -> Result<()> {
        let (period, per_heartbeat) = match self.proof {
            Proof::WatchEachSecond => (SECOND, INTERVAL.as_secs()),
            _ => (INTERVAL, 1),
        };
        let mut ticks = interval_at(Instant::now() + phase, period);
        for tick in 0.. {
            ticks.tick().await;
            let beat = async {
                if tick % per_heartbeat == 0 {
                    let id = self.lease;
                    self.keep_alives
                        .send(BaselineLeaseKeepAliveRequest { id })
                        .await?;
                    self.renewed().await?;
                }
                self.prove().await
            };
            timeout(PATIENCE, beat).await??;
            beats.proven.fetch_add(1, Relaxed);
        }
        Ok(())
    }

    async fn renewed(&mut self) -> Result<()> {
        let renewed = self.keep_alives.next().await?;
        self.revision = renewed.header.map_or(0, |header| header.revision);
        (renewed.ttl > 0)
            .then_some(())
            .ok_or("the lease expired".into())
    }

    /// Proves that every key stands on the lease, or was not changed.
    async fn prove(&mut self) -> Result<()> {
        let by_revision = matches!(self.proof, Proof::WatchRevision | Proof::LeaseRevision);
        if by_revision && self.revision == self.proven {
            return Ok(());
        }
        self.proven = self.revision;
        let is_unchanged = match (self.proof, &mut self.watch) {
            (Proof::WatchEachSecond | Proof::Watch | Proof::WatchRevision, Some(watch)) => {
                let progress = BaselineWatchUnion::Progress(BaselineWatchProgressRequest {});
                watch.send(request(progress)).await?;
                let mut events = 0;
                loop {
                    let response = watch.next().await?;
                    events += response.events.len();
                    if response.watch_id == -1 {
                        break events == 0;
                    }
                }
            }
            (Proof::Lease | Proof::LeaseRevision, _) => {
                let request = BaselineLeaseTimeToLiveRequest {
                    id: self.lease,
                    keys: true,
                };
                let response: BaselineLeaseTimeToLiveResponse = self
                    .etcd
                    .call("/etcdserverpb.Lease/LeaseTimeToLive", request)
                    .await?;
                response.ttl > 0 && response.keys.len() == self.keys.len()
            }
            _ => {
                let range = |key: &Vec<u8>| {
                    op(BaselineOp::Range(BaselineRangeRequest {
                        key: key.clone(),
                        range_end: Vec::new(),
                    }))
                };
                let success = self.keys.iter().map(range).collect();
                let response: BaselineTxnResponse = self
                    .etcd
                    .call("/etcdserverpb.KV/Txn", BaselineTxnRequest { success })
                    .await?;
                response.header.is_some()
            }
        };
        is_unchanged.then_some(()).ok_or("a key was changed".into())
    }
}

/// Opens the watch of the own keys; returns once etcd has created it for each.
async fn own_watch(etcd: &Baseline, keys: &[Vec<u8>]) -> Result<OwnWatch> {
    let create = |key: &Vec<u8>| {
        request(BaselineWatchUnion::Create(BaselineWatchCreateRequest {
            key: key.clone(),
            range_end: Vec::new(),
            start_revision: 0,
        }))
    };
    let creates = keys.iter().map(create).collect();
    let mut watch: OwnWatch = etcd.exchange("/etcdserverpb.Watch/Watch", creates).await?;
    for _ in keys {
        while !watch.next().await?.created {}
    }
    Ok(watch)
}

fn op(op: BaselineOp) -> BaselineRequestOp {
    BaselineRequestOp { op: Some(op) }
}

fn request(union: BaselineWatchUnion) -> BaselineWatchRequest {
    BaselineWatchRequest {
        request_union: Some(union),
    }
}
