//! Tests that a directory survives registries that panic, fail without a pause or end repeatedly;
//! runtimes that end; and settings without a bound.

use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::time::{Instant, sleep, timeout};
use waypost_core::directory::{Config, Directory, Snapshot, Subscription};
use waypost_core::memory::MemoryRegistry;
use waypost_core::record::{Key, Node, Service, ServiceName};
use waypost_core::registry::{AnyRegistry, Error, Event, Instance, RegisterOptions, Registry};

use super::scripted::{Counter, error, reset, scripted, watcher};

/// Timeout above any backoff of these tests, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn name() -> ServiceName {
    "greeter".parse().unwrap()
}

fn subscribe(registry: &AnyRegistry) -> (Directory, Subscription) {
    let directory = Directory::new(registry.clone(), Config::default());
    let subscription = directory.subscribe(&name()).unwrap();
    (directory, subscription)
}

async fn until(subscription: &mut Subscription, wanted: impl Fn(&Snapshot) -> bool) -> Snapshot {
    let wait = async {
        loop {
            let snapshot = subscription.snapshot();
            if wanted(&snapshot) {
                return snapshot;
            }
            assert!(
                subscription.changed().await,
                "the task has ended: {snapshot:?}"
            );
        }
    };
    timeout(PATIENCE, wait).await.expect("the snapshot comes")
}

fn is_out(snapshot: &Snapshot, why: &str) -> bool {
    snapshot
        .outage
        .as_ref()
        .is_some_and(|outage| outage.why.contains(why))
}

async fn register(memory: &MemoryRegistry, id: &str, ttl: Duration) {
    let mut service = Service::new("greeter");
    service
        .nodes
        .push(Node::with_id("greeter", id, "127.0.0.1:1"));
    let options = RegisterOptions {
        ttl,
        instance: Instance::from(id),
    };
    memory.register(&service, &options).await.unwrap();
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

#[tokio::test]
async fn a_panic_of_watch_is_an_outage_and_the_watch_is_opened_again() {
    let (registry, _) = scripted(|number| match number {
        0..2 => panic!("watch {number}"),
        _ => Ok(watcher(|item| (item == 0).then(|| reset(&["a"])))),
    });
    let (directory, mut subscription) = subscribe(&registry);
    until(&mut subscription, |snapshot| {
        is_out(snapshot, "registry panicked: watch 1")
    })
    .await;
    let snapshot = until(&mut subscription, |snapshot| snapshot.synced).await;
    assert_eq!(
        (snapshot.confirmed().len(), snapshot.outage.clone()),
        (1, None)
    );
    directory.close().await;
}

/// The nodes are kept. The drop of the stream may panic too.
#[tokio::test]
async fn a_panic_of_the_stream_is_an_outage_and_the_watch_is_opened_again() {
    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            assert!(std::thread::panicking(), "a drop panics");
        }
    }

    let (registry, watches) = scripted(|number| {
        let bomb = (number == 0).then(|| Bomb);
        Ok(watcher(move |item| match (item, &bomb) {
            (0, _) => Some(reset(&["a"])),
            (_, Some(_)) => panic!("poll {item}"),
            _ => None,
        }))
    });
    let (directory, mut subscription) = subscribe(&registry);
    let during = until(&mut subscription, |snapshot| {
        is_out(snapshot, "registry panicked: poll 1")
    })
    .await;
    assert_eq!(during.confirmed().len(), 1);
    let after = until(&mut subscription, |snapshot| snapshot.outage.is_none()).await;
    assert_eq!((after.generation, watches.get()), (during.generation, 2));
    directory.close().await;
}

#[tokio::test]
async fn an_error_whose_text_panics_is_an_outage() {
    #[derive(Debug)]
    struct Unspeakable;

    impl std::fmt::Display for Unspeakable {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            panic!("no text")
        }
    }

    impl std::error::Error for Unspeakable {}

    let unspeakable = || Error::Unavailable {
        registry: "scripted",
        what: String::new(),
        source: Some(Unspeakable.into()),
    };
    let (registry, _) = scripted(move |number| match number {
        0 => Err(unspeakable()),
        _ => Ok(watcher(|item| (item == 0).then(|| reset(&["a"])))),
    });
    let (directory, mut subscription) = subscribe(&registry);
    until(&mut subscription, |snapshot| snapshot.synced).await;
    directory.close().await;
}

/// On one thread, in real time: other tasks make progress, and the watcher is not polled in a busy
/// loop.
#[test]
fn a_watcher_of_endless_errors_starves_no_task() {
    let polls = Counter::default();
    let counted = polls.clone();
    let (registry, watches) = scripted(move |_| {
        let polls = counted.clone();
        Ok(watcher(move |_| {
            polls.add();
            Some(Some(Err(error("again"))))
        }))
    });
    let turns = runtime().block_on(async {
        let (directory, mut subscription) = subscribe(&registry);
        until(&mut subscription, |snapshot| is_out(snapshot, "again")).await;
        let (begun, mut turns) = (Instant::now(), 0);
        while begun.elapsed() < Duration::from_secs(1) {
            sleep(Duration::from_millis(1)).await;
            turns += 1;
        }
        directory.close().await;
        turns
    });
    assert!(turns > 20, "{turns} turns of another task");
    assert!(
        (1..=60).contains(&polls.get()),
        "{} polls in a second",
        polls.get()
    );
    assert_eq!(watches.get(), 1);
}

/// On one thread, in real time: events without a pause, each of which changes the set.
#[test]
fn a_watcher_of_endless_events_starves_no_task() {
    let (registry, _) = scripted(|_| {
        Ok(watcher(|item| match item % 2 {
            0 => Some(reset(&["a"])),
            _ => Some(reset(&["a", "b"])),
        }))
    });
    runtime().block_on(async {
        let (directory, _subscription) = subscribe(&registry);
        let turns = async {
            for _ in 0..20 {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, turns)
            .await
            .expect("another task gets its turn");
        directory.close().await;
    });
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_ends_again_and_again_backs_off_until_it_lives() {
    let (registry, watches) = scripted(|number| {
        Ok(watcher(move |item| match item {
            0 => Some(reset(&["a"])),
            _ if number < 40 => Some(None),
            _ => None,
        }))
    });
    let (directory, mut subscription) = subscribe(&registry);
    let begun = Instant::now();
    assert!(subscription.synced().await);
    while watches.get() <= 40 {
        sleep(Duration::from_millis(10)).await;
    }
    // There are 40 delays: five while the bound doubles, the others drawn from up to 2 s.
    assert!(
        begun.elapsed() > Duration::from_secs(15),
        "{:?}",
        begun.elapsed()
    );
    let snapshot = until(&mut subscription, |snapshot| snapshot.outage.is_none()).await;
    assert_eq!((snapshot.len(), snapshot.generation), (1, 1));
    directory.close().await;
}

/// A directory in a `static`, used by one test after another.
#[test]
fn a_directory_outlives_each_runtime_it_is_used_on() {
    let memory = MemoryRegistry::new();
    let directory = Directory::new(AnyRegistry::new(memory.open()), Config::default());
    let mut old: Vec<Subscription> = Vec::new();
    for number in 1..=10 {
        let subscription = runtime().block_on(async {
            register(&memory, &number.to_string(), Duration::from_secs(3600)).await;
            assert!(old.iter().all(Subscription::is_closed));
            for closed in &mut old {
                while closed.changed().await {}
            }
            let mut subscription = directory.subscribe(&name()).unwrap();
            until(&mut subscription, |snapshot| {
                snapshot.confirmed().len() == number
            })
            .await;
            assert!(!subscription.is_closed());
            subscription
        });
        assert!(subscription.is_closed());
        assert_eq!(subscription.snapshot().len(), number);
        old.push(subscription);
    }
    runtime().block_on(directory.close());
}

/// Another runtime resumes with the nodes of the first one, before the registry has responded.
#[test]
fn another_runtime_goes_on_with_the_nodes_of_the_first() {
    let (registry, _) = scripted(|number| match number {
        0 => Ok(watcher(|item| (item == 0).then(|| reset(&["a", "b"])))),
        _ => Err(error("down")),
    });
    let directory = Directory::new(registry, Config::default());
    let generation = runtime().block_on(async {
        let mut subscription = directory.subscribe(&name()).unwrap();
        until(&mut subscription, |snapshot| snapshot.len() == 2)
            .await
            .generation
    });
    runtime().block_on(async {
        let mut subscription = directory.subscribe(&name()).unwrap();
        assert_eq!(
            (
                subscription.snapshot().len(),
                subscription.snapshot().generation
            ),
            (2, generation)
        );
        let snapshot = until(&mut subscription, |snapshot| is_out(snapshot, "down")).await;
        assert!(snapshot.synced && snapshot.len() == 2);
        directory.close().await;
    });
}

/// The task itself panics, here because the runtime has no timers. Its subscription ends, and the
/// next one starts another task.
#[test]
fn a_task_that_panics_is_started_again() {
    let (registry, _) = scripted(|number| {
        Ok(watcher(move |item| match item {
            0 => Some(reset(&["a"])),
            _ => (number == 0).then_some(None),
        }))
    });
    let directory = Directory::new(registry, Config::default());
    let closed = Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(async {
            let mut subscription = directory.subscribe(&name()).unwrap();
            while subscription.changed().await {}
            subscription
        });
    assert!(closed.is_closed());
    runtime().block_on(async {
        let mut subscription = directory.subscribe(&name()).unwrap();
        until(&mut subscription, |snapshot| {
            snapshot.len() == 1 && snapshot.outage.is_none()
        })
        .await;
        assert!(!subscription.is_closed());
        directory.close().await;
    });
}

#[test]
fn a_subscription_outside_a_runtime_is_an_error_and_leaves_nothing_behind() {
    let memory = MemoryRegistry::new();
    let directory = Directory::new(AnyRegistry::new(memory.open()), Config::default());
    for _ in 0..2 {
        assert!(matches!(
            directory.subscribe(&name()),
            Err(Error::Invalid { .. })
        ));
    }
    runtime().block_on(async {
        let mut first = directory.subscribe(&name()).unwrap();
        assert!(first.synced().await);
    });
    assert!(matches!(
        directory.subscribe(&name()),
        Err(Error::Invalid { .. })
    ));
    let runtime = runtime();
    runtime.block_on(async {
        let mut again = directory.subscribe(&name()).unwrap();
        assert!(again.synced().await);
    });
    // A subscription to a running watch needs no runtime of its own.
    assert!(directory.subscribe(&name()).unwrap().snapshot().synced);
    runtime.block_on(directory.close());
}

/// Longest TTL of a registration.
const LONGEST_TTL: Duration = Duration::from_secs(9_000_000_000);

#[tokio::test(start_paused = true)]
async fn settings_without_a_bound_panic_nowhere() {
    let memory = MemoryRegistry::new();
    register(&memory, "a", LONGEST_TTL).await;
    register(&memory, "b", LONGEST_TTL).await;
    let mut config = Config::default();
    (config.suspect_grace, config.idle_watch) = (Duration::MAX, Duration::MAX);
    (config.backoff.initial, config.backoff.max) = (Duration::MAX, Duration::MAX);
    let directory = Directory::new(AnyRegistry::new(memory.open()), config);
    let mut subscription = directory.subscribe(&name()).unwrap();
    assert!(subscription.synced().await);
    memory.faults().expire(&Key {
        service: "greeter".into(),
        id: "greeter-a".into(),
    });
    until(&mut subscription, |snapshot| snapshot.suspects().len() == 1).await;
    drop(subscription);
    sleep(Duration::from_secs(86_400 * 365)).await;
    let mut subscription = directory.subscribe(&name()).unwrap();
    assert_eq!(
        (
            subscription.snapshot().confirmed().len(),
            subscription.snapshot().suspects().len()
        ),
        (1, 1)
    );
    register(&memory, "a", LONGEST_TTL).await;
    until(&mut subscription, |snapshot| {
        snapshot.confirmed().len() == 2 && snapshot.suspects().len() == 0
    })
    .await;
    directory.close().await;
}

/// An event per minute does not keep a watch without a subscription alive.
#[tokio::test(start_paused = true)]
async fn an_idle_watch_ends_although_events_come() {
    let before = Handle::current().metrics().num_alive_tasks();
    let memory = MemoryRegistry::new();
    let (directory, mut subscription) = subscribe(&AnyRegistry::new(memory.open()));
    assert!(subscription.synced().await);
    drop(subscription);
    for minute in 0..9 {
        sleep(Duration::from_secs(60)).await;
        register(&memory, &minute.to_string(), Duration::from_secs(86_400)).await;
    }
    assert_eq!(Handle::current().metrics().num_alive_tasks(), before + 1);
    for minute in 9..12 {
        sleep(Duration::from_secs(60)).await;
        register(&memory, &minute.to_string(), Duration::from_secs(86_400)).await;
    }
    sleep(Duration::from_millis(5)).await;
    assert_eq!(Handle::current().metrics().num_alive_tasks(), before);
    directory.close().await;
}

/// A short subscription during the idle time restarts the idle time.
#[tokio::test(start_paused = true)]
async fn the_idle_time_counts_from_the_last_subscription() {
    let before = Handle::current().metrics().num_alive_tasks();
    let memory = MemoryRegistry::new();
    let (directory, subscription) = subscribe(&AnyRegistry::new(memory.open()));
    drop(subscription);
    sleep(Duration::from_secs(590)).await;
    drop(directory.subscribe(&name()).unwrap());
    sleep(Duration::from_secs(580)).await;
    assert_eq!(Handle::current().metrics().num_alive_tasks(), before + 1);
    sleep(Duration::from_secs(610)).await;
    assert_eq!(Handle::current().metrics().num_alive_tasks(), before);
    directory.close().await;
}

/// A burst is published as one snapshot or a few, and no event is lost.
#[tokio::test]
async fn a_burst_of_events_is_published_at_once() {
    let (registry, _) = scripted(|_| {
        Ok(watcher(|item| match item {
            0 => Some(reset(&[])),
            1..=2_000 => {
                let Some(Ok(Event::Reset(mut entries))) = reset(&[&item.to_string()]) else {
                    return None;
                };
                Some(Some(Ok(Event::Created(entries.remove(0)))))
            }
            _ => None,
        }))
    });
    let (directory, mut subscription) = subscribe(&registry);
    let mut seen = 0;
    while subscription.snapshot().len() < 2_000 {
        assert!(
            timeout(PATIENCE, subscription.changed())
                .await
                .expect("it changes")
        );
        seen += 1;
    }
    assert!(seen <= 20, "{seen} snapshots");
    directory.close().await;
}
