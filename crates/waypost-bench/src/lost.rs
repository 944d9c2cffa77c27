//! `bench stuck` and `bench zombie`: clients that lose a live node for good. Each client is one of
//! many that go through the same event.

use std::time::Duration;

use serde_json::json;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tonic::Request;
use waypost::{Channel, Client};
use waypost_greeter::greeter::HelloRequest;
use waypost_greeter::greeter::greeter_client::GreeterClient;
use waypost_testkit::Port;
use waypost_testkit::hostile::{Behavior, Script, Server};
use waypost_testkit::report::{Figures, Result};

use crate::options::BenchOptions;
use crate::records::{POOL, RecordSet, SERVICE, id};
use crate::registry::PushRegistry;

/// Time for which the dead node is dead.
const DEAD: Duration = Duration::from_secs(3);
/// Time after which an unconnected client is stuck: four times the longest backoff.
const STUCK: Duration = Duration::from_secs(20);
/// Time for every backoff of a `zombie` client to end.
const CALM: Duration = Duration::from_secs(7);
/// Number of calls that each `zombie` client then makes; with a dead connection in its pool all of
/// them fail.
const CALLS: usize = 5;

/// Runs clients that know one dead node. It comes up after 3 s, and within 20 s every client must
/// be connected to it.
pub(crate) fn stuck(options: &BenchOptions) -> Result<Figures> {
    let (nodes, clients, batch) = counts(options, 101, 3_000, 500)?;
    let mut lost = 0;
    let runtime = runtime()?;
    for size in batches(clients, batch) {
        let found = runtime.block_on(stuck_batch(nodes, size))?;
        lost += found;
        eprintln!("{found} of {size} stuck");
    }
    Ok(figures(
        "stuck",
        "are never connected to a node that came up after 3 s",
        nodes,
        clients,
        lost,
    ))
}

/// Runs clients whose node closes its first connection after the hello. Then the node is well, and
/// every call must succeed.
pub(crate) fn zombie(options: &BenchOptions) -> Result<Figures> {
    let (nodes, clients, batch) = counts(options, 1_001, 1_000, 100)?;
    let mut lost = 0;
    let runtime = runtime()?;
    for (number, size) in batches(clients, batch).enumerate() {
        let found = runtime.block_on(zombie_batch(nodes, size, number as u64))?;
        lost += found;
        eprintln!("{found} of {size} fail");
    }
    Ok(figures(
        "zombie",
        "fail calls to a node that closed its first connection after the hello",
        nodes,
        clients,
        lost,
    ))
}

fn counts(
    options: &BenchOptions,
    nodes: u64,
    clients: u64,
    batch: u64,
) -> Result<(usize, usize, usize)> {
    let number = |name, default| {
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(
            usize::try_from(options.number(name, default)?)?.max(1),
        )
    };
    Ok((
        number("nodes", nodes)?,
        number("clients", clients)?,
        number("batch", batch)?,
    ))
}

fn batches(clients: usize, batch: usize) -> impl Iterator<Item = usize> {
    (0..clients)
        .step_by(batch)
        .map(move |from| batch.min(clients - from))
}

fn runtime() -> Result<Runtime> {
    Ok(Builder::new_multi_thread().enable_all().build()?)
}

async fn stuck_batch(nodes: usize, clients: usize) -> Result<usize> {
    let port = Port::take()?;
    let registry = registry(nodes, &port.address().to_string())?;
    let mut all = Vec::new();
    for _ in 0..clients {
        let (client, channel) = client(&registry)?;
        let _ = channel.snapshot();
        all.push((client, channel));
    }
    sleep(DEAD).await;
    let server = Server::start_on(&port, Script::First(Vec::new()), 1)?;
    let mut ready = JoinSet::new();
    for (_, channel) in &all {
        let channel = channel.clone();
        ready.spawn(async move { channel.ready(STUCK).await.is_ok() });
    }
    let stuck = ready
        .join_all()
        .await
        .into_iter()
        .filter(|ready| !ready)
        .count();
    for (client, _) in all {
        client.close().await;
    }
    server.close().await;
    Ok(stuck)
}

async fn zombie_batch(nodes: usize, clients: usize, number: u64) -> Result<usize> {
    let mut all = JoinSet::new();
    for index in 0..clients {
        let server = Server::start(
            Script::First(vec![Behavior::CloseAfterHello]),
            number << 32 | index as u64,
        )
        .await?;
        let registry = registry(nodes, &server.address().to_string())?;
        let (client, channel) = client(&registry)?;
        all.spawn(async move {
            let _ = channel.snapshot();
            sleep(CALM).await;
            let mut failed = 0;
            for _ in 0..CALLS {
                failed += usize::from(!call(&channel).await);
            }
            client.close().await;
            server.close().await;
            failed > 0
        });
    }
    Ok(all
        .join_all()
        .await
        .into_iter()
        .filter(|failed| *failed)
        .count())
}

async fn call(channel: &Channel) -> bool {
    let mut client = GreeterClient::new(channel.clone());
    let call = client.hello(Request::new(HelloRequest {
        name: "Ann".to_owned(),
    }));
    timeout(CALM, call).await.is_ok_and(|answer| answer.is_ok())
}

/// Creates a registry with `nodes` nodes, of which a client's channel uses only the first.
fn registry(nodes: usize, address: &str) -> Result<PushRegistry> {
    let (records, registry) = (RecordSet::new(), PushRegistry::new());
    let record = |number| {
        let (id, pool) = (id(number, 0), if number == 0 { "used" } else { "unused" });
        (
            RecordSet::key(&id),
            records.json(&id, address, &[(POOL, pool)]),
        )
    };
    registry.load((0..nodes).map(record))?;
    Ok(registry)
}

fn client(registry: &PushRegistry) -> Result<(Client, Channel)> {
    let client = Client::new(registry.handle());
    let channel = client
        .channel_builder(SERVICE)
        .label(POOL, "used")
        .build()?;
    Ok((client, channel))
}

fn figures(name: &str, what: &str, nodes: usize, clients: usize, lost: usize) -> Figures {
    let table = format!("{lost} of {clients} clients that know {nodes} nodes {what}");
    let json = json!({ "benchmark": name, "nodes": nodes, "clients": clients, "lost": lost });
    Figures {
        failures: (lost > 0).then(|| table.clone()).into_iter().collect(),
        table,
        json,
    }
}
