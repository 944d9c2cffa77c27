//! The CPU time of one event, with rest between two, and the time to the first answer.

use std::time::Duration;

use tokio::time::Instant;
use waypost_testkit::report::{Result, median, one_thread};

use super::scene::{Scene, call};
use crate::cpu::{self, Meter};
use crate::peers::Peers;
use crate::records::{Records, id};

/// Events of each kind, fewer where they take too long.
const EVENTS: usize = 41;
const AT_MOST: Duration = Duration::from_secs(6);

/// Medians, in microseconds.
pub(super) struct Events {
    pub(super) added: f64,
    pub(super) changed: f64,
    pub(super) removed: f64,
}

pub(super) fn measure(nodes: usize, peers: &Peers) -> Result<Events> {
    one_thread()?.block_on(async {
        let scene = Scene::new(nodes, peers)?;
        let _channel = scene.connected().await?;
        let meter = Meter::new().await;
        let json = |node: &str, round: &str| scene.records.json(node, &scene.address, &[("round", round)]);
        let mut put = Vec::new();
        let mut costs = Vec::new();
        for number in rounds() {
            let node = id(number, 1);
            let record = json(&node, "0");
            costs.push(meter.cost(|| scene.registry.put(&Records::key(&node), record.as_bytes()).unwrap_or_default()).await);
            put.push(node);
        }
        let added = micros(&costs);
        costs.clear();
        for number in rounds() {
            // A node of the first generation, spread over all of them.
            let node = id(number * nodes / EVENTS, 0);
            let record = json(&node, "1");
            costs.push(meter.cost(|| scene.registry.put(&Records::key(&node), record.as_bytes()).unwrap_or_default()).await);
        }
        let changed = micros(&costs);
        costs.clear();
        for node in put {
            costs.push(meter.cost(|| scene.registry.delete(&Records::key(&node))).await);
        }
        scene.client.close().await;
        Ok(Events { added, changed, removed: micros(&costs) })
    })
}

/// Counts up to the number of events, or until they have taken too long.
fn rounds() -> impl Iterator<Item = usize> {
    let end = Instant::now() + AT_MOST;
    (0..EVENTS).take_while(move |_| Instant::now() < end)
}

fn micros(costs: &[Duration]) -> f64 {
    median(&costs.iter().map(|cost| cost.as_secs_f64() * 1e6).collect::<Vec<_>>())
}

/// Time from a new client to its first answer.
pub(super) struct First {
    pub(super) wall: Duration,
    pub(super) cpu: Duration,
}

pub(super) fn first_answer(nodes: usize, peers: &Peers) -> Result<First> {
    one_thread()?.block_on(async {
        let scene = Scene::new(nodes, peers)?;
        cpu::rest().await;
        let (start, start_cpu) = (Instant::now(), cpu::thread_cpu());
        let channel = scene.channel()?;
        call(&channel).await?;
        let first = First { wall: start.elapsed(), cpu: cpu::thread_cpu() - start_cpu };
        scene.client.close().await;
        Ok(first)
    })
}
