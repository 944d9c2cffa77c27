//! Tests of timing, with a paused clock that advances to the next check.

use std::fs;
use std::path::Path;

use waypost_core::record::{Key, Node};
use waypost_core::registry::{Event, Instance};

use super::*;

fn open(dir: &Path, kind: SignalSource) -> LocalRegistry {
    LocalRegistry::open_as(LocalOptions::new(dir), kind).unwrap()
}

fn registration() -> (Service, RegisterOptions, Key) {
    let mut service = Service::new("greeter");
    service
        .nodes
        .push(Node::with_id("greeter", "1", "127.0.0.1:1"));
    let key = service.entries()[0].key();
    (
        service,
        RegisterOptions {
            ttl: Duration::from_secs(15),
            instance: Instance::random(),
        },
        key,
    )
}

async fn next(watcher: &mut Watcher) -> Event {
    watcher.next().await.unwrap().unwrap()
}

#[tokio::test(start_paused = true)]
async fn polled_changes_are_seen_within_a_second() {
    let dir = tempfile::tempdir().unwrap();
    let (reader, owner) = (
        open(dir.path(), SignalSource::Polled),
        open(dir.path(), SignalSource::Polled),
    );
    let mut watcher = reader.watch(&WatchOptions::all()).await.unwrap();
    assert_eq!(next(&mut watcher).await, Event::Reset(Vec::new()));
    let (service, options, key) = registration();
    let begun = Instant::now();
    owner.register(&service, &options).await.unwrap();
    assert!(matches!(next(&mut watcher).await, Event::Created(entry) if entry.key() == key));
    assert!(
        begun.elapsed() <= Duration::from_secs(1) + Duration::from_millis(10),
        "{:?}",
        begun.elapsed()
    );
    owner
        .deregister(&service, &DeregisterOptions::ours(options.instance.clone()))
        .await
        .unwrap();
    assert_eq!(
        next(&mut watcher).await,
        Event::Reset(Vec::new()),
        "an unsignalled deregistration is not a loss"
    );
    owner.register(&service, &options).await.unwrap();
    assert!(matches!(next(&mut watcher).await, Event::Created(_)));
    drop(owner);
    assert_eq!(next(&mut watcher).await, Event::Deleted(key));
    reader.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_unsignalled_death_is_found_within_five_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let (service, options, key) = registration();
    fs::create_dir(dir.path().join("greeter")).unwrap();
    let path = |ending: &str| dir.path().join(format!("greeter/greeter-1.{ending}"));
    fs::write(path("lock"), "").unwrap();
    // The close of a read-only handle is not signalled.
    let lock = fs::File::open(path("lock")).unwrap();
    lock.lock().unwrap();
    fs::write(path("json"), options.stamp(&service).to_json()).unwrap();
    let registry = open(dir.path(), SignalSource::best());
    let mut watcher = registry.watch(&WatchOptions::all()).await.unwrap();
    assert!(matches!(next(&mut watcher).await, Event::Reset(entries) if entries.len() == 1));
    let begun = Instant::now();
    drop(lock);
    assert_eq!(next(&mut watcher).await, Event::Deleted(key));
    assert!(
        begun.elapsed() <= Duration::from_secs(5) + Duration::from_millis(10),
        "{:?}",
        begun.elapsed()
    );
    assert!(!path("json").exists(), "not swept");
    registry.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn no_task_runs_without_watchers() {
    let dir = tempfile::tempdir().unwrap();
    let registry = open(dir.path(), SignalSource::best());
    for _ in 0..2 {
        let mut watcher = registry.watch(&WatchOptions::all()).await.unwrap();
        assert!(matches!(next(&mut watcher).await, Event::Reset(_)));
        drop(watcher);
        let metrics = tokio::runtime::Handle::current().metrics();
        assert_eq!(metrics.num_alive_tasks(), 1);
        sleep(Duration::from_secs(11)).await;
        assert_eq!(metrics.num_alive_tasks(), 0);
    }
    let (service, options, _) = registration();
    registry.register(&service, &options).await.unwrap();
    let mut watcher = registry.watch(&WatchOptions::all()).await.unwrap();
    assert!(matches!(next(&mut watcher).await, Event::Reset(entries) if entries.len() == 1));
    registry.close().await.unwrap();
}

/// A watcher outlives the runtime of the task. It restarts the task on its own runtime, and
/// misses no change.
#[test]
fn watchers_continue_when_the_runtime_of_the_task_ends() {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap()
    };
    let dir = tempfile::tempdir().unwrap();
    let (reader, owner) = (
        open(dir.path(), SignalSource::best()),
        open(dir.path(), SignalSource::best()),
    );
    let (mut first, second) = (runtime(), runtime());
    let mut early = first.block_on(async {
        let mut early = reader.watch(&WatchOptions::all()).await.unwrap();
        assert_eq!(next(&mut early).await, Event::Reset(Vec::new()));
        early
    });
    let (service, options, key) = registration();
    for _ in 0..3 {
        drop(first);
        first = runtime();
        second.block_on(owner.register(&service, &options)).unwrap();
        first.block_on(async {
            let mut late = reader.watch(&WatchOptions::all()).await.unwrap();
            for watcher in [&mut early, &mut late] {
                let registered = async {
                    loop {
                        // File operations that end with their runtime are an error, which the reset
                        // ends.
                        match watcher.next().await.unwrap() {
                            Ok(Event::Reset(entries))
                                if entries.iter().any(|entry| entry.key() == key) =>
                            {
                                break;
                            }
                            Ok(Event::Created(entry)) if entry.key() == key => break,
                            _ => {}
                        }
                    }
                };
                tokio::time::timeout(Duration::from_secs(10), registered)
                    .await
                    .expect("the registration is never emitted");
            }
            owner
                .deregister(&service, &DeregisterOptions::ours(options.instance.clone()))
                .await
                .unwrap();
        });
    }
    second.block_on(reader.close()).unwrap();
}
