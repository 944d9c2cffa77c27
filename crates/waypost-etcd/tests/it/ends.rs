//! Registrations that end without being removed: the record is gone within its ttl, although another
//! registration of the same handle keeps their common lease alive.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use waypost_core::record::{Node, Service};
use waypost_core::registrar::Registration;
use waypost_core::registry::{AnyRegistry, Event, WatchOptions};
use waypost_testkit::etcd::{Binary, Etcd, Options};

use crate::rig::{TTL, each, url};
use crate::server::registration;

/// Maximum time from the end of a registration to that of its record.
const GONE: Duration = TTL.saturating_add(Duration::from_secs(2));

/// Handle with two registrations, which share a lease.
struct Pair {
    etcd: Etcd,
    registry: AnyRegistry,
    ending: Registration,
    staying: Registration,
}

impl Pair {
    async fn start(binary: &Binary) -> Self {
        let etcd = Etcd::start(binary, &Options::one()).await.unwrap();
        let registry = AnyRegistry::new(crate::open(&url(&etcd.addresses())));
        let start = |service: &str| {
            let mut record = Service::new(service);
            record
                .nodes
                .push(Node::with_id(service, "1", "127.0.0.1:10"));
            registration(&registry, record)
        };
        let (ending, staying) = (start("ending"), start("staying"));
        ending.registered().await.unwrap();
        staying.registered().await.unwrap();
        assert_eq!(etcd.leases().await.unwrap().len(), 1);
        Self {
            etcd,
            registry,
            ending,
            staying,
        }
    }
}

async fn has(etcd: &Etcd, service: &str) -> bool {
    let key = format!("/micro/registry/{service}/{service}-1");
    etcd.get(&key).await.unwrap().is_some()
}

/// Waits until the record of the ended registration is gone, and checks that the other one stays.
async fn assert_gone(etcd: &Etcd, since: Instant) {
    while has(etcd, "ending").await {
        assert!(since.elapsed() < GONE, "the record stays");
        sleep(Duration::from_millis(50)).await;
    }
    assert!(has(etcd, "staying").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_dropped_is_gone_within_its_ttl() {
    each(async |binary| {
        let pair = Pair::start(&binary).await;
        drop(pair.ending);
        assert_gone(&pair.etcd, Instant::now()).await;
        // Its id is free.
        pair.staying.close().await.unwrap();
        pair.registry.close().await.unwrap();
        assert_eq!(pair.etcd.keys("/").await.unwrap(), Vec::<String>::new());
    })
    .await;
}

/// The deregistration fails, since etcd does not respond for some seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_closed_in_a_hiccup_is_removed_after_it() {
    each(async |binary| {
        let mut pair = Pair::start(&binary).await;
        pair.etcd.pause().unwrap();
        let closed = pair.ending.close().await;
        let ended = Instant::now();
        pair.etcd.resume().unwrap();
        crate::capture_error(&closed.unwrap_err());
        assert_gone(&pair.etcd, ended).await;
        pair.staying.close().await.unwrap();
        pair.registry.close().await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_whose_task_panics_is_gone_within_its_ttl() {
    each(async |binary| {
        let pair = Pair::start(&binary).await;
        let ending = pair.ending;
        let mut task = JoinSet::new();
        task.spawn(async move {
            let _ending = ending;
            panic!("intended panic");
        });
        assert!(task.join_next().await.unwrap().unwrap_err().is_panic());
        assert_gone(&pair.etcd, Instant::now()).await;
        pair.staying.close().await.unwrap();
        pair.registry.close().await.unwrap();
    })
    .await;
}

/// A runtime that is blocked for most of the ttl sends no heartbeat; its live registrations are not
/// taken for abandoned ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::disallowed_methods, reason = "it blocks a runtime on purpose")]
async fn one_whose_runtime_was_blocked_is_kept() {
    let binary = Binary::all().unwrap().pop().unwrap();
    let etcd = Etcd::start(&binary, &Options::one()).await.unwrap();
    let at = url(&etcd.addresses());
    let blocked = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let registry = AnyRegistry::new(crate::open(&at));
            let registration = registration(&registry, crate::server::service("1", "127.0.0.1:1"));
            registration.registered().await.unwrap();
            std::thread::sleep(TTL - Duration::from_secs(1));
            sleep(TTL).await;
            let is_registered = registration.state().is_registered();
            registration.close().await.unwrap();
            registry.close().await.unwrap();
            is_registered
        })
    });
    let begun = Instant::now();
    let mut seen = 0;
    while !blocked.is_finished() {
        let is_there = etcd
            .get("/micro/registry/greeter/greeter-1")
            .await
            .unwrap()
            .is_some();
        seen += u32::from(is_there);
        let lasts = (TTL / 2..TTL * 3 / 2).contains(&begun.elapsed());
        assert!(is_there || !lasts, "it was removed");
        sleep(Duration::from_millis(100)).await;
    }
    assert!(seen > 0 && blocked.join().unwrap());
}

/// The server stops while etcd does not respond: its registration, the drain delay and the handle
/// take the timeout of one request, and a little more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_in_an_outage_takes_two_seconds_in_all() {
    each(async |binary| {
        for frozen in [true, false] {
            let mut pair = Pair::start(&binary).await;
            match frozen {
                true => pair.etcd.pause().unwrap(),
                false => pair.etcd.kill().await.unwrap(),
            }
            let since = Instant::now();
            let (ending, staying) = (&pair.ending, &pair.staying);
            tokio::join!(
                ending.drain_on(std::future::ready(())),
                staying.drain_on(std::future::ready(())),
            );
            let _ = pair.registry.close().await;
            let took = since.elapsed();
            assert!(took < Duration::from_millis(2_600), "{frozen}: {took:?}");
            assert!(took > Duration::from_millis(900), "it serves meanwhile");
            if frozen {
                pair.etcd.resume().unwrap();
            }
        }
    })
    .await;
}

/// Each node is marked as leaving before it is deleted, so that clients do not take it for a lost
/// one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_with_a_thousand_registrations_leaves_whole() {
    const COUNT: usize = 1_000;
    each(async |binary| {
        let etcd = Etcd::start(&binary, &Options::one()).await.unwrap();
        // Two seconds suffice on a machine that does nothing else.
        let at = format!("{}?timeout=10s", url(&etcd.addresses()));
        let registry = AnyRegistry::new(crate::open(&at));
        let mut registrations = Vec::new();
        for number in 0..COUNT {
            let name = format!("service-{number}");
            let mut record = Service::new(&name);
            let node = Node::with_id(&name, "1", "127.0.0.1:10");
            record.nodes.push(node);
            let builder = Registration::builder(registry.clone(), record);
            registrations.push(builder.start().unwrap());
        }
        for registration in &registrations {
            registration.registered().await.unwrap();
        }
        let client = AnyRegistry::new(crate::open(&at));
        let mut watcher = client.watch(&WatchOptions::all()).await.unwrap();
        let first = watcher.next().await.unwrap().unwrap();
        assert!(matches!(first, Event::Reset(all) if all.len() == COUNT));
        let mut watching = JoinSet::new();
        watching.spawn(async move {
            let (mut leaving, mut deleted) = (0, 0);
            while deleted < COUNT {
                match watcher.next().await.unwrap().unwrap() {
                    Event::Updated(entry) if entry.node.is_leaving() => leaving += 1,
                    Event::Deleted(_) => deleted += 1,
                    event => panic!("{event:?}"),
                }
            }
            leaving
        });
        let mut closing = JoinSet::new();
        for registration in registrations {
            closing.spawn(registration.close());
        }
        for closed in closing.join_all().await {
            closed.unwrap();
        }
        assert_eq!(watching.join_all().await, [COUNT]);
        client.close().await.unwrap();
        registry.close().await.unwrap();
        assert_eq!(etcd.leases().await.unwrap(), [""; 0]);
    })
    .await;
}
