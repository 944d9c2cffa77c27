//! Bytes that a client holds for each node that it knows: the copies of the watcher, the directory
//! and the pool, counted by the allocator. All of the client runs on this thread, so that the
//! counts of this thread are those of the client.

use tokio::runtime::Runtime;
use waypost::Channel;
use waypost_testkit::report::{Result, one_thread};

use super::scene::Scene;
use crate::cpu;
use crate::peers::Peers;
use crate::records::SERVICE;

/// Returns the bytes per node of a service that is watched and that no channel uses.
pub(super) fn idle(nodes: usize, peers: &Peers) -> Result<f64> {
    counted(nodes, || {
        let runtime = one_thread()?;
        let (scene, subscription) = runtime.block_on(async {
            let scene = Scene::new(nodes, peers)?;
            let mut subscription = scene.client.directory().subscribe(&SERVICE.parse()?)?;
            while !subscription.snapshot().synced && subscription.changed().await {}
            cpu::idle().await;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>((scene, subscription))
        })?;
        Ok((runtime, scene, subscription))
    })
}

/// Returns the bytes per node of a service with a channel whose peers are connected.
pub(super) fn channel(nodes: usize, peers: &Peers) -> Result<f64> {
    counted(nodes, || {
        let runtime = one_thread()?;
        let (scene, channel) = runtime.block_on(connect(nodes, peers))?;
        Ok::<(Runtime, Scene, Channel), _>((runtime, scene, channel))
    })
}

async fn connect(nodes: usize, peers: &Peers) -> Result<(Scene, Channel)> {
    let scene = Scene::new(nodes, peers)?;
    let channel = scene.connected().await?;
    Ok((scene, channel))
}

/// Returns the bytes per node that `build` leaves allocated.
fn counted<T>(nodes: usize, build: impl FnOnce() -> Result<T>) -> Result<f64> {
    let mut built = None;
    let counts = allocation_counter::measure(|| built = Some(build()));
    // The value lives until it is counted.
    drop(built.transpose()?);
    Ok(counts.bytes_current as f64 / nodes as f64)
}
