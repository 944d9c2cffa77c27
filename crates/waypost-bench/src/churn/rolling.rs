//! CPU time of a rolling replacement: each node in turn is marked as leaving, deleted, and created
//! elsewhere under a new id.

use std::time::Duration;

use waypost::record::keys;
use waypost_testkit::report::{Result, one_thread};

use super::scene::Scene;
use crate::cpu::{idle, thread_cpu, turns};
use crate::peers::Peers;
use crate::records::{RecordSet, id};

/// Maximum cost of the replacement; it then stops, and the remaining nodes are assumed to cost the
/// same.
const AT_MOST: Duration = Duration::from_secs(20);

pub(super) struct Rolling {
    /// CPU time of replacing all nodes, in seconds.
    pub(super) seconds: f64,
    /// Share of the nodes that were really replaced.
    pub(super) share: f64,
}

pub(super) fn measure(nodes: usize, peers: &Peers) -> Result<Rolling> {
    one_thread()?.block_on(async {
        let scene = Scene::new(nodes, peers)?;
        let _channel = scene.connected().await?;
        let mut cost = Duration::ZERO;
        let mut replaced = 0;
        while replaced < nodes && cost < AT_MOST {
            cost += replace(&scene, replaced).await?;
            replaced += 1;
        }
        let start = thread_cpu();
        idle().await;
        cost += thread_cpu() - start;
        scene.client.close().await;
        let share = replaced as f64 / nodes as f64;
        Ok(Rolling {
            seconds: cost.as_secs_f64() / share,
            share,
        })
    })
}

async fn replace(scene: &Scene, number: usize) -> Result<Duration> {
    let (old, new) = (id(number, 0), id(number, 1));
    let (old_key, new_key) = (RecordSet::key(&old), RecordSet::key(&new));
    let leaving = scene
        .records
        .json(&old, &scene.address, &[(keys::STATE, keys::LEAVING)]);
    let created = scene.records.json(&new, &scene.address, &[]);
    let start = thread_cpu();
    scene.registry.put(&old_key, leaving.as_bytes())?;
    turns().await;
    scene.registry.delete(&old_key);
    turns().await;
    scene.registry.put(&new_key, created.as_bytes())?;
    turns().await;
    Ok(thread_cpu() - start)
}
