//! What etcd does to registrations and pictures, on one member. After each fault everything must be well again by itself, and meanwhile the
//! client must never have lost sight of a node.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use waypost_core::record::Key;
use waypost_core::registrar::State;
use waypost_core::registry::{AnyRegistry, Registry};
use waypost_testkit::Proxy;
use waypost_testkit::etcd::{Data, Options};

use super::rig::{INTERVAL, Rig, Server, TTL, each, key, url};
use super::{hand, path};

fn text(key: &Key) -> String {
    String::from_utf8(path(key)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_restarted_with_its_data() {
    each(async |binary| {
        let mut rig = Rig::start(&binary, &Options::one(), 3).await;
        rig.etcd.kill().await.unwrap();
        rig.until_seen("trouble", |snapshot| snapshot.trouble.is_some()).await;
        rig.etcd.restart(Data::Kept).await.unwrap();
        rig.well_again("killed and restarted", Instant::now()).await;
        rig.never_suspected_one();
        rig.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarted_empty() {
    each(async |binary| {
        let mut rig = Rig::start(&binary, &Options::one(), 3).await;
        rig.etcd.restart(Data::Lost).await.unwrap();
        rig.well_again("restarted empty", Instant::now()).await;
        rig.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_keys_deleted_by_hand() {
    each(async |binary| {
        let mut rig = Rig::start(&binary, &Options::one(), 3).await;
        let begun = Instant::now();
        rig.etcd.ctl(&["del", "--prefix", "/micro/registry/greeter/"]).await.unwrap();
        rig.well_again("keys deleted", begun).await;
        assert!(begun.elapsed() < INTERVAL * 2, "it took more than an interval");
        rig.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_keys_overwritten_by_garbage() {
    each(async |binary| {
        let mut rig = Rig::start(&binary, &Options::one(), 3).await;
        for garbage in [&b"{"[..], b"\xff\xfe", b"{\"name\":\"other\"}"] {
            let begun = Instant::now();
            hand::write(rig.etcd.addresses()[0], &[(path(&key("0")), Some(garbage.to_vec()))]).await;
            rig.well_again("key overwritten by garbage", begun).await;
        }
        rig.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_leases_revoked() {
    each(async |binary| {
        let mut rig = Rig::start(&binary, &Options::one(), 3).await;
        let begun = Instant::now();
        for lease in rig.etcd.leases().await.unwrap() {
            rig.etcd.revoke(&lease).await.unwrap();
        }
        rig.well_again("leases revoked", begun).await;
        rig.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_changed_while_registered() {
    each(async |binary| {
        let mut rig = Rig::start(&binary, &Options::one(), 3).await;
        let changed = Instant::now();
        rig.servers[0].registration.set_metadata("zone", "a").unwrap();
        let zoned = |snapshot: &waypost_core::directory::Snapshot| {
            snapshot.confirmed.iter().any(|entry| entry.node.metadata.get("zone").is_some_and(|zone| zone == "a"))
        };
        rig.until_seen("the change", zoned).await;
        assert!(changed.elapsed() < INTERVAL);
        sleep(TTL * 3).await;
        assert!(zoned(&rig.snapshot()), "{:?}", rig.snapshot());
        rig.never_suspected_one();
        rig.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_for_longer_than_the_ttl() {
    each(async |binary| {
        let mut rig = Rig::start(&binary, &Options::one(), 3).await;
        rig.etcd.pause().unwrap();
        sleep(TTL + Duration::from_secs(2)).await;
        rig.etcd.resume().unwrap();
        rig.well_again("frozen for 7 s", Instant::now()).await;
        rig.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_frozen_for_longer_than_its_ttl() {
    each(async |binary| {
        let mut rig = Rig::start(&binary, &Options::one(), 2).await;
        let at = url(&rig.etcd.addresses());
        // A server whose whole runtime stands still, as that of a stopped process does.
        let (freeze, frozen) = std::sync::mpsc::channel::<()>();
        let (woken, wakes) = tokio::sync::oneshot::channel();
        let (leave, left) = tokio::sync::oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let server = Server::start(&at, "frozen").await;
                #[expect(clippy::disallowed_methods, reason = "it is to stand still")]
                frozen.recv().map(|()| std::thread::sleep(TTL + Duration::from_secs(3))).unwrap();
                woken.send(Instant::now()).unwrap();
                left.await.unwrap();
                server.close().await;
            });
        });
        let there = |snapshot: &waypost_core::directory::Snapshot| snapshot.confirmed.len() == 3;
        rig.until_seen("the third", there).await;
        freeze.send(()).unwrap();
        rig.until_seen("its loss", |snapshot| snapshot.suspects.len() == 1).await;
        let woken: Instant = wakes.await.unwrap();
        rig.until_seen("its return", there).await;
        println!("etcd {}: a server frozen for 8 s: back after {:?}", binary.version(), woken.elapsed());
        assert!(woken.elapsed() < Duration::from_secs(2));
        leave.send(()).unwrap();
        tokio::task::spawn_blocking(move || thread.join()).await.unwrap().unwrap();
        rig.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compacted_under_a_watch() {
    each(async |binary| {
        let mut rig = Rig::start(&binary, &Options::one(), 3).await;
        let begun = Instant::now();
        for _ in 0..10 {
            hand::write(rig.etcd.addresses()[0], &[(b"/elsewhere".to_vec(), Some(b"x".to_vec()))]).await;
            hand::compact(rig.etcd.addresses()[0], rig.etcd.revision().await.unwrap()).await;
        }
        rig.well_again("compacted ten times", begun).await;
        rig.never_suspected_one();
        rig.close().await;
    })
    .await;
}

/// The client is away while things happen and their history is compacted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compacted_while_cut_off() {
    each(async |binary| {
        let etcd = waypost_testkit::etcd::Etcd::start(&binary, &Options::one()).await.unwrap();
        let (near, proxy) = (url(&etcd.addresses()), Proxy::start(etcd.addresses()[0]).await.unwrap());
        let mut rig = Rig::on(etcd, &near, &url(&[proxy.address()]), 3).await;
        proxy.freeze(true);
        rig.servers[0].registration.set_metadata("zone", "b").unwrap();
        let fourth = Server::start(&near, "late").await;
        hand::compact(rig.etcd.addresses()[0], rig.etcd.revision().await.unwrap()).await;
        rig.until_seen("trouble", |snapshot| snapshot.trouble.is_some()).await;
        proxy.cut();
        proxy.freeze(false);
        let begun = Instant::now();
        rig.until_seen("all four", |snapshot| snapshot.confirmed.len() == 4 && snapshot.trouble.is_none()).await;
        println!("etcd {}: cut off and compacted: picture right after {:?}", binary.version(), begun.elapsed());
        assert!(rig.snapshot().confirmed.iter().any(|entry| entry.node.metadata.contains_key("zone")));
        rig.never_suspected_one();
        fourth.close().await;
        rig.close().await;
    })
    .await;
}

/// A connection on which nothing arrives any more, while it stands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_connection_is_left() {
    each(async |binary| {
        let etcd = waypost_testkit::etcd::Etcd::start(&binary, &Options::one()).await.unwrap();
        let proxy = Proxy::start(etcd.addresses()[0]).await.unwrap();
        let at = url(&[proxy.address()]);
        let mut rig = Rig::on(etcd, &at, &at, 3).await;
        let begun = Instant::now();
        // Those there are go silent for good; new ones are served.
        proxy.half_open();
        rig.servers[0].registration.set_metadata("zone", "c").unwrap();
        let zoned = |snapshot: &waypost_core::directory::Snapshot| {
            snapshot.confirmed.iter().any(|entry| entry.node.metadata.contains_key("zone"))
        };
        rig.until_seen("the change", zoned).await;
        println!("etcd {}: half-open connections: seen through after {:?}", binary.version(), begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
        rig.well_again("half-open connections", begun).await;
        rig.never_suspected_one();
        rig.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn out_of_space() {
    each(async |binary| {
        let mut rig = Rig::start(&binary, &Options::one().quota_bytes(4 << 20), 3).await;
        let at = url(&rig.etcd.addresses());
        rig.etcd.fill().await.unwrap();
        let late = Server::begin(&at, "late");
        late.until("it says why", |state| matches!(state, State::Failing { why, .. } if why.contains("space exceeded"))).await;
        sleep(TTL + INTERVAL).await;
        rig.never_suspected_one();
        rig.etcd.make_room().await.unwrap();
        let begun = Instant::now();
        late.until("it is in", State::is_registered).await;
        println!("etcd {}: out of space, then room: registered after {:?}", binary.version(), begun.elapsed());
        late.close().await;
        rig.until_right().await;
        rig.close().await;
    })
    .await;
}

/// More than gRPC's usual 4 MiB in one answer, and in what a watch has to catch up with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_and_catching_up_beyond_4_mib() {
    each(async |binary| {
        const RECORDS: usize = 400;
        let etcd = waypost_testkit::etcd::Etcd::start(&binary, &Options::one()).await.unwrap();
        let (address, proxy) = (etcd.addresses()[0], Proxy::start(etcd.addresses()[0]).await.unwrap());
        let registry = AnyRegistry::new(super::open(&url(&[proxy.address()])));
        let mut watcher = registry.watch(&waypost_core::registry::WatchOptions::service("big")).await.unwrap();
        let mut picture = waypost_core::registry::Picture::default();
        picture.apply(watcher.next().await.unwrap().unwrap());
        proxy.freeze(true);
        let big = |number: usize| {
            let mut service = waypost_core::record::Service::new("big");
            let mut node = waypost_core::record::Node::with_id("big", &number.to_string(), "10.0.0.1:1");
            node.metadata.insert("filling", "x".repeat(20_000));
            service.nodes.push(node);
            let key = Key { service: "big".into(), id: format!("big-{number}") };
            (path(&key), Some(service.to_json().into_bytes()))
        };
        for chunk in (0..RECORDS).collect::<Vec<_>>().chunks(40) {
            hand::write(address, &chunk.iter().map(|number| big(*number)).collect::<Vec<_>>()).await;
        }
        proxy.cut();
        proxy.freeze(false);
        while picture.len() < RECORDS {
            match watcher.next().await.unwrap() {
                Ok(event) => picture.apply(event),
                Err(error) => println!("trouble: {}", error.chain()),
            }
        }
        let listed = registry.get_service("big").await.unwrap();
        assert_eq!(listed[0].nodes.len(), RECORDS);
        registry.close().await.unwrap();
    })
    .await;
}

/// Compaction races a list of many pages.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compacted_during_lists() {
    each(async |binary| {
        const RECORDS: usize = 5_000;
        let etcd = waypost_testkit::etcd::Etcd::start(&binary, &Options::one()).await.unwrap();
        let address = etcd.addresses()[0];
        let record = |number: usize| {
            let mut service = waypost_core::record::Service::new("many");
            service.nodes.push(waypost_core::record::Node::with_id("many", &number.to_string(), "10.0.0.1:1"));
            (path(&Key { service: "many".into(), id: format!("many-{number}") }), Some(service.to_json().into_bytes()))
        };
        for chunk in (0..RECORDS).collect::<Vec<_>>().chunks(100) {
            hand::write(address, &chunk.iter().map(|number| record(*number)).collect::<Vec<_>>()).await;
        }
        let mut compacting = tokio::task::JoinSet::new();
        compacting.spawn(async move {
            loop {
                let revision = hand::write(address, &[(b"/elsewhere".to_vec(), Some(Vec::new()))]).await;
                hand::compact(address, revision).await;
            }
        });
        let registry = super::open(&url(&[address]));
        for _ in 0..20 {
            assert_eq!(registry.get_service("many").await.unwrap()[0].nodes.len(), RECORDS);
        }
        registry.close().await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beats_at_rest_write_nothing_and_close_leaves_nothing() {
    each(async |binary| {
        let mut rig = Rig::start(&binary, &Options::one(), 3).await;
        let before = rig.etcd.revision().await.unwrap();
        sleep(INTERVAL * 4).await;
        assert_eq!(rig.etcd.revision().await.unwrap(), before, "a beat wrote");
        assert_eq!(rig.etcd.leases().await.unwrap().len(), 3);
        let watched = rig.etcd.member(0).metrics().await.unwrap().get("etcd_debugging_mvcc_watcher_total", &[]);
        assert_eq!(watched, Some(4.0), "three own keys and one service");
        let Rig { mut etcd, servers, client, .. } = rig;
        for server in servers {
            // Not deregistered: closing lets go of it.
            drop(server.registration);
            server.registry.close().await.unwrap();
        }
        client.close().await.unwrap();
        assert_eq!(etcd.leases().await.unwrap(), [""; 0]);
        assert_eq!(etcd.keys("/").await.unwrap(), [""; 0]);
        let metrics = etcd.member(0).metrics().await.unwrap();
        assert_eq!(metrics.get("etcd_debugging_mvcc_watcher_total", &[]), Some(0.0));
        assert_eq!(metrics.get("etcd_debugging_mvcc_watch_stream_total", &[]), Some(0.0));
    })
    .await;
}

#[test]
fn keys_are_text() {
    assert_eq!(text(&key("1")), "/micro/registry/greeter/greeter-1");
}
