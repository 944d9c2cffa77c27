//! Client that starts before its server: time from the registration to the first response.
//!
//! A call waits for a service that has no registration; then a server that already listens is
//! registered in a directory. Only Waypost is measured: tonic's balancer has no registry to wait
//! for.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};
use waypost::record::{Node, Service};
use waypost::registry::{Instance, RegisterOptions};
use waypost_testkit::report::{Figures, Result, one_thread};

use crate::caller::{Caller, SERVICE, ours_from};
use crate::servers::RunningServer;

const ROUNDS: usize = 20;
const WITHIN: Duration = Duration::from_millis(50);
const LIMIT: Duration = Duration::from_secs(10);
/// Time in which the watch is established and the call waits.
const BEFORE: Duration = Duration::from_millis(200);

pub(crate) fn run() -> Result<Figures> {
    one_thread()?.block_on(async {
        let servers = RunningServer::plain(1).await?;
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            rounds.push(one_round(&servers[0].address).await?);
        }
        rounds.sort();
        Ok(figures(&rounds))
    })
}

async fn one_round(address: &str) -> Result<Duration> {
    let dir = tempfile::tempdir()?;
    let url = format!("local://{}", dir.path().display());
    let (theirs, ours) = (waypost::connect(&url).await?, waypost::connect(&url).await?);
    let (client, mut caller) = ours_from(ours.clone())?;
    let waiting = async {
        let answer = Caller::hello(&mut caller, Some(LIMIT)).await;
        answer.map(|()| Instant::now())
    };
    let registering = async {
        sleep(BEFORE).await;
        let mut service = Service::new(SERVICE);
        let mut node = Node::new(SERVICE, address);
        node.metadata.insert("protocol", "grpc");
        service.nodes.push(node);
        let options = RegisterOptions {
            ttl: Duration::from_secs(15),
            instance: Instance::random(),
        };
        let start = Instant::now();
        theirs.register(&service, &options).await.map(|()| start)
    };
    let (answered, started) = tokio::join!(waiting, registering);
    let took = answered?.duration_since(started?);
    client.close().await;
    theirs.close().await?;
    ours.close().await?;
    Ok(took)
}

fn figures(sorted: &[Duration]) -> Figures {
    let ms = |i: usize| {
        sorted
            .get(i)
            .map_or(f64::NAN, |took| took.as_secs_f64() * 1e3)
    };
    let (p50, max) = (ms(sorted.len() / 2), ms(sorted.len() - 1));
    let table = format!(
        "a call that waits for its first server: from the registration to the answer, {} rounds\n  \
         waypost  p50 {p50:>5.1} ms  max {max:>5.1} ms",
        sorted.len(),
    );
    let json = json!({ "rounds": sorted.len(), "within_ms": WITHIN.as_millis() as u64, "waypost": { "p50_ms": p50, "max_ms": max } });
    let failure = (max > WITHIN.as_secs_f64() * 1e3)
        .then(|| format!("a first answer took {max:.1} ms, not within {WITHIN:?}"));
    Figures {
        table,
        json,
        failures: failure.into_iter().collect(),
    }
}
