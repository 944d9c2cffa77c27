//! Killed owners: each is seen as lost, once.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc::{Receiver, channel};
use tokio::task::JoinSet;
use tokio::time::timeout;
use waypost_core::record::Key;
use waypost_core::registry::{Event, Registry, WatchOptions};

use super::child::Process;

const KILLS: usize = 3_000;
const AT_ONCE: usize = 6;
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts owners one after the other, and kills each as soon as it was seen.
async fn kill_owners(dir: PathBuf, first: usize, mut seen: Receiver<Key>) {
    for number in (first..KILLS).step_by(AT_ONCE) {
        let mut process = Process::start(&dir);
        assert_eq!(process.call(&format!("register {number}")).await, "held");
        assert_eq!(seen.recv().await.unwrap(), super::key(&number.to_string()));
        process.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owner_kills() {
    let parent = tempfile::tempdir().unwrap();
    let registry = super::open(&parent.path().join("registry"));
    let mut watcher = registry.watch(&WatchOptions::all()).await.unwrap();
    assert_eq!(
        watcher.next().await.unwrap().unwrap(),
        Event::Reset(Vec::new())
    );
    let (mut killers, mut seen_senders) = (JoinSet::new(), Vec::new());
    for first in 0..AT_ONCE {
        let (sender, seen) = channel(1);
        killers.spawn(kill_owners(parent.path().to_owned(), first, seen));
        seen_senders.push(sender);
    }
    let (mut live, mut lost) = (BTreeSet::<Key>::new(), BTreeSet::new());
    while lost.len() < KILLS {
        match timeout(PATIENCE, watcher.next())
            .await
            .unwrap_or_else(|_| panic!("no loss emitted for {live:?}"))
            .unwrap()
            .unwrap()
        {
            Event::Created(entry) => {
                assert!(
                    live.insert(entry.key()) && !lost.contains(&entry.key()),
                    "emitted twice: {entry:?}"
                );
                let number: usize = entry
                    .node
                    .id
                    .strip_prefix("greeter-")
                    .unwrap()
                    .parse()
                    .unwrap();
                seen_senders[number % AT_ONCE]
                    .send(entry.key())
                    .await
                    .unwrap();
            }
            Event::Deleted(key) => {
                assert!(live.remove(&key), "never there, or lost twice: {key:?}");
                lost.insert(key);
            }
            other => panic!("neither a registration nor a loss: {other:?}"),
        }
    }
    while let Some(ended) = killers.join_next().await {
        ended.unwrap();
    }
    // All earlier events have been received: the next one is that of the new node.
    registry
        .register(&super::service("last", "127.0.0.1:1"), &super::owner())
        .await
        .unwrap();
    let last = timeout(PATIENCE, watcher.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(
        matches!(&last, Event::Created(entry) if entry.key() == super::key("last")),
        "{last:?}"
    );
    registry.close().await.unwrap();
    assert_eq!(super::files::count(&parent.path().join("registry")), 0);
}
