//! Latency from a put to the snapshot of a directory, beside the event of a baseline watch of the same
//! put.
//!
//! Three observers in one process and one runtime: a directory, and two baseline watches, each on a
//! connection of its own. The second baseline watch shows how much of a ratio is chance.

use std::fmt::Write;
use std::time::Duration;

use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use waypost::directory::{Config, Directory, Subscription};
use waypost::record::Entry;
use waypost_testkit::etcd::{Binary, Etcd, Options};
use waypost_testkit::report::{Figures, Result, median, quantile, rounded};

use crate::baseline::{Baseline, EventStream};
use crate::fleet::{connect, key, record, service, url};

const PUTS: usize = 1_000;
const WARM_UP: usize = 50;
const BLOCK: usize = 100;
const NODES: usize = 10;
const PAUSE: Duration = Duration::from_millis(10);
const LIMIT: Duration = Duration::from_secs(5);
/// Key of a node's metadata that a put changes.
const NUMBER: &str = "number";

const DIRECTORY: usize = 0;
const BASELINE: usize = 1;
const BASELINE_AGAIN: usize = 2;
const OBSERVERS: usize = 3;

/// Observation of a put: the observer, the number of the put, the time.
type Sight = (usize, usize, Instant);

pub(crate) async fn run(binary: &Binary) -> Result<Figures> {
    let etcd = Etcd::start(binary, &Options::one()).await?;
    let writer = Baseline::connect(etcd.addresses()[0]).await?;
    for node in 0..NODES {
        put(&writer, node, 0).await?;
    }
    let registry = connect(&url(&etcd))?;
    let directory = Directory::new(registry.clone(), Config::default());
    let mut subscription = directory.subscribe(&service(0).parse()?)?;
    subscription.synced().await;
    let (sights, mut seen) = mpsc::channel(64);
    let mut observers = JoinSet::new();
    observers.spawn(follow(subscription, sights.clone()));
    let (one, two) = (
        Baseline::connect(etcd.addresses()[0]).await?,
        Baseline::connect(etcd.addresses()[0]).await?,
    );
    observers.spawn(watch(one.watch(0).await?, BASELINE, sights.clone()));
    observers.spawn(watch(two.watch(0).await?, BASELINE_AGAIN, sights));
    let mut latencies = Vec::new();
    for number in 1..=WARM_UP + PUTS {
        sleep(PAUSE).await;
        let put_at = Instant::now();
        put(&writer, number % NODES, number).await?;
        let latency = all_have_seen(number, put_at, &mut seen).await?;
        latencies.extend((number > WARM_UP).then_some(latency));
    }
    observers.shutdown().await;
    directory.close().await;
    registry.close().await?;
    Ok(figures(&latencies))
}

async fn put(writer: &Baseline, node: usize, number: usize) -> Result<()> {
    let mut record = record(0, node)?;
    record.nodes[0].metadata.insert(NUMBER, number.to_string());
    writer.put(&[(key(&record), record.to_json())]).await
}

/// Returns the latency of each observer after the put, in microseconds.
async fn all_have_seen(
    number: usize,
    put_at: Instant,
    seen: &mut mpsc::Receiver<Sight>,
) -> Result<[f64; OBSERVERS]> {
    let mut latencies = [f64::NAN; OBSERVERS];
    while latencies.iter().any(|latency| latency.is_nan()) {
        let sight = timeout(LIMIT, seen.recv())
            .await
            .map_err(|_| format!("put {number} was not seen by all"))?;
        let Some((observer, _, at)) = sight.filter(|(_, seen, _)| *seen == number) else {
            continue;
        };
        latencies[observer] = (at - put_at).as_secs_f64() * 1e6;
    }
    Ok(latencies)
}

async fn follow(mut subscription: Subscription, sights: mpsc::Sender<Sight>) {
    while subscription.changed().await {
        let snapshot = subscription.snapshot();
        let at = Instant::now();
        let newest = snapshot
            .confirmed()
            .filter_map(number_of)
            .max()
            .unwrap_or_default();
        let _ = sights.send((DIRECTORY, newest, at)).await;
    }
}

fn number_of(entry: &Entry) -> Option<usize> {
    entry.node.metadata.get(NUMBER)?.parse().ok()
}

async fn watch(mut events_stream: EventStream, observer: usize, sights: mpsc::Sender<Sight>) {
    while let Ok(response) = events_stream.next().await {
        let at = Instant::now();
        let newest = response
            .events
            .iter()
            .filter_map(|event| number_in(&event.kv.as_ref()?.value))
            .max();
        let _ = sights
            .send((observer, newest.unwrap_or_default(), at))
            .await;
    }
}

/// Returns the number of the put in a record; parsed after the time was taken.
fn number_in(value: &[u8]) -> Option<usize> {
    let record = waypost::record::Service::from_json(value).ok()?;
    record.nodes.first()?.metadata.get(NUMBER)?.parse().ok()
}

fn figures(latencies: &[[f64; OBSERVERS]]) -> Figures {
    let all = |observer: usize| {
        latencies
            .iter()
            .map(|latency| latency[observer])
            .collect::<Vec<_>>()
    };
    let ratios = |observer: usize| {
        let ratio = |block: &[[f64; OBSERVERS]]| {
            let of = |observer: usize| {
                median(
                    &block
                        .iter()
                        .map(|latency| latency[observer])
                        .collect::<Vec<_>>(),
                )
            };
            of(observer) / of(BASELINE)
        };
        latencies.chunks(BLOCK).map(ratio).collect::<Vec<_>>()
    };
    let rows = [
        ("baseline_watch", "baseline watch event", BASELINE),
        (
            "baseline_watch_again",
            "another baseline watch event",
            BASELINE_AGAIN,
        ),
        ("snapshot", "in the snapshot of a directory", DIRECTORY),
    ];
    let mut table = format!(
        "from a put until it is seen, {PUTS} puts {PAUSE:?} apart (ratio of p50: median of blocks of {BLOCK}, least and most)"
    );
    let mut json = json!({ "puts": PUTS, "pause_ms": PAUSE.as_millis() as u64 });
    for (name, label, observer) in rows {
        let (latencies, ratios) = (all(observer), ratios(observer));
        let (p50, p99) = (median(&latencies), quantile(&latencies, 0.99));
        let (ratio, least, most) = (
            median(&ratios),
            quantile(&ratios, 0.0),
            quantile(&ratios, 1.0),
        );
        // Writing to a string does not fail.
        let _ = write!(
            table,
            "\n  {label:<31} p50 {p50:>7.0} us  p99 {p99:>7.0} us  ratio {ratio:.3} ({least:.3} to {most:.3})"
        );
        json[name] = json!({ "p50_us": rounded(p50), "p99_us": rounded(p99), "ratio": rounded(ratio), "ratios": ratios });
    }
    Figures {
        table,
        json,
        failures: Vec::new(),
    }
}
