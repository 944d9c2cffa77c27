//! CPU time of one event, in a stream of events and after an idle time, and the time to the first
//! response.

use std::time::Duration;

use tokio::time::Instant;
use waypost_testkit::report::{Result, median, one_thread};

use super::scene::{Scene, call};
use crate::cpu::{self, Meter};
use crate::peers::Peers;
use crate::records::{RecordSet, id};

/// Number of events of each kind and manner, fewer if they take longer than [`AT_MOST`].
const EVENTS: usize = 101;
const AT_MOST: Duration = Duration::from_secs(6);

/// Medians in microseconds: of events one after another, and of events after an idle time in which
/// the caches went cold.
#[derive(Debug, Default)]
pub(super) struct Events {
    pub(super) added: f64,
    pub(super) changed: f64,
    pub(super) removed: f64,
    pub(super) added_after_rest: f64,
    pub(super) changed_after_rest: f64,
    pub(super) removed_after_rest: f64,
}

pub(super) fn measure(nodes: usize, peers: &Peers) -> Result<Events> {
    one_thread()?.block_on(async {
        let scene = Scene::new(nodes, peers)?;
        let _channel = scene.connected().await?;
        let run = EventRun {
            scene: &scene,
            nodes,
            meter: Meter::new().await,
        };
        let [added_after_rest, changed_after_rest, removed_after_rest] = run.events(true).await?;
        let [added, changed, removed] = run.events(false).await?;
        scene.client.close().await;
        Ok(Events {
            added,
            changed,
            removed,
            added_after_rest,
            changed_after_rest,
            removed_after_rest,
        })
    })
}

struct EventRun<'a> {
    scene: &'a Scene,
    nodes: usize,
    meter: Meter,
}

impl EventRun<'_> {
    /// Adds nodes, changes nodes of the first generation, spread over all of them, and removes the
    /// added ones.
    async fn events(&self, rested: bool) -> Result<[f64; 3]> {
        let round = if rested { "1" } else { "2" };
        let added = self.puts(rested, round, |number| id(number, 1)).await?;
        let changed = self
            .puts(rested, round, |number| id(number * self.nodes / EVENTS, 0))
            .await?;
        let mut costs = Vec::new();
        for number in rounds() {
            let key = RecordSet::key(&id(number, 1));
            let delete = || self.scene.registry.delete(&key);
            costs.push(if rested {
                self.meter.after_rest(delete).await
            } else {
                self.meter.in_stream(delete).await
            });
        }
        Ok([added, changed, micros(&costs)])
    }

    async fn puts(&self, rested: bool, round: &str, node: impl Fn(usize) -> String) -> Result<f64> {
        let mut costs = Vec::new();
        for number in rounds() {
            let node = node(number);
            let (key, record) = (
                RecordSet::key(&node),
                self.scene
                    .records
                    .json(&node, &self.scene.address, &[("round", round)]),
            );
            let mut put = Ok(());
            let work = || put = self.scene.registry.put(&key, record.as_bytes());
            costs.push(if rested {
                self.meter.after_rest(work).await
            } else {
                self.meter.in_stream(work).await
            });
            put?;
        }
        Ok(micros(&costs))
    }
}

/// Counts up to the number of events, or until the time is over.
fn rounds() -> impl Iterator<Item = usize> {
    let end = Instant::now() + AT_MOST;
    (0..EVENTS).take_while(move |_| Instant::now() < end)
}

fn micros(costs: &[Duration]) -> f64 {
    median(
        &costs
            .iter()
            .map(|cost| cost.as_secs_f64() * 1e6)
            .collect::<Vec<_>>(),
    )
}

/// Time from a new client to its first response.
pub(super) struct First {
    pub(super) wall: Duration,
    pub(super) cpu: Duration,
}

pub(super) fn first_answer(nodes: usize, peers: &Peers) -> Result<First> {
    one_thread()?.block_on(async {
        let scene = Scene::new(nodes, peers)?;
        cpu::idle().await;
        let (start, start_cpu) = (Instant::now(), cpu::thread_cpu());
        let channel = scene.channel()?;
        call(&channel).await?;
        let first = First {
            wall: start.elapsed(),
            cpu: cpu::thread_cpu() - start_cpu,
        };
        scene.client.close().await;
        Ok(first)
    })
}
