//! Changes of our keys and leases by others, and the ownership of the keys afterwards.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use waypost_core::record::Service;
use waypost_core::registrar::State;
use waypost_core::registry::{Instance, RegisterOptions, Registry};
use waypost_testkit::etcd::Options;

use crate::rig::{Figures, INTERVAL, Rig, TTL, each, key, service, url};
use crate::{gateway, path};

/// Address of another instance, as errors name it.
const ELSEWHERE: &str = "10.9.9.9:9";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_by_etcdctl() {
    each(async |binary| {
        let mut rig = Rig::start(&binary, &Options::one(), 3).await;
        let begun = Instant::now();
        rig.etcd
            .ctl(&["del", "--prefix", "/micro/registry/greeter/"])
            .await
            .unwrap();
        let figures = rig.recovered("own key deleted by etcdctl", begun).await;
        assert!(
            figures.registered() < INTERVAL * 2,
            "it took more than an interval"
        );
        rig.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overwritten_by_garbage() {
    each(async |binary| {
        let mut rig = Rig::start(&binary, &Options::one(), 3).await;
        for garbage in [&b"{"[..], b"\xff\xfe", b"{\"name\":\"other\"}"] {
            let lease = gateway::grant(rig.up(), 600).await;
            for (lease, fault) in [
                (0, "overwritten by garbage"),
                (lease, "overwritten by garbage on a lease"),
            ] {
                let begun = Instant::now();
                gateway::put(rig.up(), &path(&key("0")), garbage, lease).await;
                rig.recovered(fault, begun).await;
            }
            gateway::revoke(rig.up(), lease).await;
        }
        assert_eq!(
            rig.count_registered().await,
            3,
            "it is on a lease of its own"
        );
        rig.close().await;
    })
    .await;
}

/// The record is unchanged, but has no lease or that of another: it is written again with our own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn own_record_on_another_lease() {
    each(async |binary| {
        let mut rig = Rig::start(&binary, &Options::one(), 3).await;
        let (address, key) = (rig.up(), path(&key("0")));
        let ours = rig
            .etcd
            .get("/micro/registry/greeter/greeter-0")
            .await
            .unwrap()
            .unwrap();
        let lease = gateway::lease_of(address, &key).await.unwrap();
        let foreign = gateway::grant(address, 600).await;
        for (other, fault) in [
            (0, "own record, its lease taken away"),
            (foreign, "own record on another's lease"),
        ] {
            let begun = Instant::now();
            gateway::put(address, &key, &ours, other).await;
            while gateway::lease_of(address, &key).await != Some(lease) {
                assert!(
                    begun.elapsed() < Duration::from_secs(20),
                    "it is not on its own lease"
                );
                sleep(Duration::from_millis(20)).await;
            }
            rig.recovered(fault, begun).await;
        }
        gateway::revoke(address, foreign).await;
        rig.assert_none_suspected();
        rig.close().await;
    })
    .await;
}

/// Returns the record of another instance of the node, at this address.
fn anothers(address: &str) -> Vec<u8> {
    let options = RegisterOptions {
        ttl: TTL,
        instance: Instance::random(),
    };
    options.stamp(&service("0", address)).to_json().into_bytes()
}

/// A record without a lease has no live owner, whatever its content.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overwritten_by_anothers_record_without_a_lease() {
    each(async |binary| {
        let mut rig = Rig::start(&binary, &Options::one(), 2).await;
        for record in [
            anothers(ELSEWHERE),
            service("0", ELSEWHERE).to_json().into_bytes(),
        ] {
            let begun = Instant::now();
            gateway::put(rig.up(), &path(&key("0")), &record, 0).await;
            rig.recovered("overwritten by another's record without a lease", begun)
                .await;
        }
        rig.assert_none_suspected();
        rig.close().await;
    })
    .await;
}

/// A record with a lease has a live owner for as long as the lease exists. This also holds at our
/// own address, since it is not our first write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overwritten_by_a_record_whose_owner_dies() {
    each(async |binary| {
        let mut rig = Rig::start(&binary, &Options::one(), 2).await;
        for address in [ELSEWHERE, "127.0.0.1:10"] {
            let record = anothers(address);
            let instance = Service::from_json(&record).unwrap().nodes[0]
                .instance()
                .unwrap()
                .to_owned();
            let lease = gateway::grant(rig.up(), 2).await;
            let begun = Instant::now();
            gateway::put(rig.up(), &path(&key("0")), &record, lease).await;
            rig.servers[0].until_it_reports(&instance).await;
            rig.recovered("overwritten by a record whose owner dies in 2 s", begun)
                .await;
        }
        rig.close().await;
    })
    .await;
}

/// Instances do not fight over an id: the holder keeps it, and we register again when it is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overwritten_by_a_record_whose_owner_lives() {
    each(async |binary| {
        let mut rig = Rig::start(&binary, &Options::one(), 2).await;
        let (address, key) = (rig.up(), path(&key("0")));
        // Live process, whose lease our key is attached to, too.
        let other = crate::open(&url(&[address]));
        let options = RegisterOptions {
            ttl: TTL,
            instance: Instance::random(),
        };
        let mut theirs = Service::new("other");
        theirs
            .nodes
            .push(waypost_core::record::Node::with_id("other", "1", ELSEWHERE));
        other.register(&theirs, &options).await.unwrap();
        let lease = gateway::lease_of(address, b"/micro/registry/other/other-1")
            .await
            .unwrap();
        gateway::put(address, &key, &anothers(ELSEWHERE), lease).await;
        let written = gateway::written_at(address, &key).await;
        rig.servers[0].until_it_reports(ELSEWHERE).await;
        for _ in 0..TTL.as_secs() + 2 {
            sleep(Duration::from_secs(1)).await;
            other.register(&theirs, &options).await.unwrap();
            assert!(matches!(
                rig.servers[0].registration.state(),
                State::Failing { .. }
            ));
        }
        assert_eq!(
            gateway::written_at(address, &key).await,
            written,
            "we fought over an id"
        );
        let begun = Instant::now();
        other.close().await.unwrap();
        rig.recovered(
            "overwritten by a record whose owner lives, then leaves",
            begun,
        )
        .await;
        rig.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_revoked() {
    each(async |binary| {
        let mut rig = Rig::start(&binary, &Options::one(), 3).await;
        let begun = Instant::now();
        for lease in rig.etcd.leases().await.unwrap() {
            rig.etcd.revoke(&lease).await.unwrap();
        }
        rig.recovered("leases revoked", begun).await;
        rig.close().await;
    })
    .await;
}

/// Changed metadata survives heartbeats and the loss of all data.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_changed_while_registered() {
    each(async |binary| {
        let mut rig = Rig::start(&binary, &Options::one(), 3).await;
        let begun = Instant::now();
        rig.servers[0]
            .registration
            .set_metadata("zone", "a")
            .unwrap();
        let mut figures = Figures::default();
        rig.observe(&mut figures, begun, TTL * 3).await;
        rig.report("metadata changed, observed for 3 × ttl", &figures)
            .await;
        let zoned =
            |entry: &waypost_core::record::Entry| entry.node.metadata.get("zone") == Some("a");
        assert!(
            rig.snapshot().confirmed().any(zoned),
            "{:?}",
            rig.snapshot()
        );
        rig.assert_none_suspected();
        rig.close().await;
    })
    .await;
}
