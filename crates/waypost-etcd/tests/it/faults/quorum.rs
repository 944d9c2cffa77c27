//! Loss of quorum: two of three members are down. No write succeeds, and no registration may be
//! lost.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use waypost_core::registry::{Event, Registry, WatchOptions};
use waypost_testkit::etcd::{Binary, Options};

use crate::rig::{Figures, INTERVAL, Rig, TTL, each};

/// Frozen members wake up and consider leases expired; a change made meanwhile is written when they
/// are back.
async fn lost(binary: Binary, lasting: Duration, name: &str) {
    let mut rig = Rig::start(&binary, &Options::three(), 3).await;
    for member in [0, 1] {
        rig.etcd.member(member).pause().unwrap();
    }
    let begun = Instant::now();
    rig.until_seen("an outage", |snapshot| snapshot.outage.is_some())
        .await;
    rig.servers[0]
        .registration
        .set_metadata("zone", "f")
        .unwrap();
    sleep(lasting.saturating_sub(begun.elapsed())).await;
    rig.assert_none_suspected();
    for member in [0, 1] {
        rig.etcd.member(member).resume().unwrap();
    }
    let (back, mut figures) = (Instant::now(), Figures::default());
    rig.observe(&mut figures, back, INTERVAL * 3).await;
    rig.report(name, &figures).await;
    rig.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_for_longer_than_the_ttl() {
    each(|binary| lost(binary, TTL * 2, "quorum lost for 10 s")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: cargo xtask etcd-faults"]
async fn lost_for_30_s() {
    each(|binary| lost(binary, Duration::from_secs(30), "quorum lost for 30 s")).await;
}

/// A process that starts while two of three members are down still finds the servers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_snapshot_without_it() {
    each(async |binary| {
        let mut rig = Rig::start(&binary, &Options::three(), 3).await;
        let leader = rig.etcd.leader().await.unwrap();
        let others: Vec<_> = (0..3).filter(|member| *member != leader).collect();
        for member in &others {
            rig.etcd.member(*member).kill().await.unwrap();
        }
        // Without a password: a login needs a quorum.
        let addresses: Vec<_> = rig
            .etcd
            .addresses()
            .iter()
            .map(ToString::to_string)
            .collect();
        let registry = crate::open(&format!("etcd://{}", addresses.join(",")));
        let mut watcher = registry
            .watch(&WatchOptions::service("greeter"))
            .await
            .unwrap();
        let begun = Instant::now();
        let mut has_error = false;
        let found = loop {
            match watcher.next().await.unwrap() {
                Ok(Event::Reset(entries)) => break entries.len(),
                Ok(other) => panic!("{other:?}"),
                Err(error) => {
                    crate::capture_error(&error);
                    has_error = true;
                }
            }
        };
        println!(
            "etcd {}: quorum lost: a first snapshot after {:?}",
            binary.version(),
            begun.elapsed()
        );
        assert_eq!(found, 3);
        has_error |= watcher.next().await.unwrap().is_err();
        assert!(
            has_error,
            "no error reports that the snapshot is from one member"
        );
        for member in &others {
            rig.etcd.member(*member).start().unwrap();
        }
        for member in others {
            rig.etcd.member(member).serving().await.unwrap();
        }
        let begun = Instant::now();
        registry.close().await.unwrap();
        rig.recovered("two of three killed and restarted", begun)
            .await;
        rig.close().await;
    })
    .await;
}
