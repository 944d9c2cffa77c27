//! Several processes with one id: never do two hold it, and a frozen one still holds it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use rustix::process::Signal;
use tokio::task::JoinSet;
use waypost_core::registry::{Error, Registry};

use super::child::Process;

const PROCESSES: usize = 4;
const ROUNDS: usize = 120;

/// Claims the id repeatedly; half of the holds end in a kill. Returns the number of holds.
///
/// `holders` counts the processes that certainly hold it: from the response until just before the
/// release is requested. A lock of the dying process could not separate them: the kernel releases
/// the locks of a killed process one after the other, the last one first.
async fn claim(dir: &Path, seed: u64, holders: Arc<AtomicUsize>) -> usize {
    let mut rng = fastrand::Rng::with_seed(seed);
    let (mut process, mut holds) = (Process::start(dir), 0);
    let reader = super::open(&dir.join("registry"));
    for _ in 0..ROUNDS {
        match process.call("register 1").await.as_str() {
            "held" => holds += 1,
            "taken" => continue,
            other => panic!("{other}"),
        }
        assert_eq!(holders.fetch_add(1, SeqCst), 0, "two hold it");
        let seen = reader.get_service("greeter").await;
        assert!(seen.is_ok(), "it is held, and was swept: {seen:?}");
        holders.fetch_sub(1, SeqCst);
        if rng.bool() {
            assert_eq!(process.call("deregister").await, "left");
        } else {
            process.kill().await;
            process = Process::start(dir);
        }
    }
    holds
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_one_id() {
    let parent = tempfile::tempdir().unwrap();
    let observer = super::open(&parent.path().join("registry"));
    let holders = Arc::new(AtomicUsize::new(0));
    let mut claimers = JoinSet::new();
    for seed in 0..PROCESSES as u64 {
        let (dir, holders) = (parent.path().to_owned(), Arc::clone(&holders));
        claimers.spawn(async move { claim(&dir, seed, holders).await });
    }
    let mut holds = 0;
    while !claimers.is_empty() {
        // Readers probe and sweep meanwhile, as in production.
        let seen = observer.list_services().await.unwrap();
        assert!(
            seen.iter()
                .map(|service| service.nodes.len())
                .sum::<usize>()
                <= 1,
            "{seen:?}"
        );
        while let Some(ended) = claimers.try_join_next() {
            holds += ended.unwrap();
        }
        tokio::task::yield_now().await;
    }
    assert!(holds >= PROCESSES, "it was hardly ever held: {holds}");
}

#[tokio::test]
async fn a_frozen_owner_stays_registered() {
    let parent = tempfile::tempdir().unwrap();
    let registry = super::open(&parent.path().join("registry"));
    let mut frozen = Process::start(parent.path());
    assert_eq!(frozen.call("register 1").await, "held");
    frozen.signal(Signal::STOP);
    let refused = registry
        .register(&super::service("1", "127.0.0.1:1"), &super::owner())
        .await;
    assert!(matches!(refused, Err(Error::IdTaken { .. })), "{refused:?}");
    assert_eq!(
        registry.get_service("greeter").await.unwrap()[0]
            .nodes
            .len(),
        1
    );
    frozen.signal(Signal::CONT);
    assert_eq!(frozen.call("deregister").await, "left");
    registry
        .register(&super::service("1", "127.0.0.1:1"), &super::owner())
        .await
        .unwrap();
    registry.close().await.unwrap();
}

#[tokio::test]
async fn a_killed_owner_frees_its_id() {
    let parent = tempfile::tempdir().unwrap();
    let registry = super::open(&parent.path().join("registry"));
    let mut killed = Process::start(parent.path());
    assert_eq!(killed.call("register 1").await, "held");
    killed.kill().await;
    assert!(registry.list_services().await.unwrap().is_empty());
    assert_eq!(
        super::files::count(&parent.path().join("registry")),
        0,
        "not swept"
    );
    registry
        .register(&super::service("1", "127.0.0.1:1"), &super::owner())
        .await
        .unwrap();
}
