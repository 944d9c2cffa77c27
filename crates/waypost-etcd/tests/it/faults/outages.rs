//! Faults of a single member: down, frozen, empty, full or unreachable.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use waypost_core::directory::Config;
use waypost_testkit::Proxy;
use waypost_testkit::etcd::{Data, Etcd, Options};

use crate::rig::{Figures, INTERVAL, Rig, Server, TTL, each, url};
use crate::{gateway, path};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_restarted_with_its_data() {
    each(async |binary| {
        let mut rig = Rig::start(&binary, &Options::one(), 3).await;
        rig.etcd.kill().await.unwrap();
        rig.until_seen("an outage", |snapshot| snapshot.outage.is_some())
            .await;
        rig.etcd.restart(Data::Kept).await.unwrap();
        rig.recovered("killed and restarted with its data", Instant::now())
            .await;
        rig.assert_none_suspected();
        rig.close().await;
    })
    .await;
}

/// The nodes are suspects when the outage begins, and cannot register again while it lasts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: cargo xtask etcd-faults"]
async fn killed_for_longer_than_the_grace_of_lost_nodes() {
    each(async |binary| {
        let etcd = Etcd::start(&binary, &Options::one()).await.unwrap();
        let proxy = Proxy::start(etcd.addresses()[0]).await.unwrap();
        let (servers_at, client_at) = (url(&[proxy.address()]), url(&etcd.addresses()));
        let mut rig = Rig::on(etcd, &servers_at, &client_at, 3).await;
        proxy.freeze(true);
        for lease in rig.etcd.leases().await.unwrap() {
            rig.etcd.revoke(&lease).await.unwrap();
        }
        rig.until_seen("three suspects", |snapshot| snapshot.suspects().len() == 3)
            .await;
        rig.etcd.kill().await.unwrap();
        sleep(Config::default().suspect_grace + Duration::from_secs(5)).await;
        assert_eq!(rig.snapshot().suspects().len(), 3);
        rig.etcd.restart(Data::Kept).await.unwrap();
        proxy.freeze(false);
        rig.recovered("lost, then killed for 20 s", Instant::now())
            .await;
        rig.close().await;
    })
    .await;
}

/// The old watch is accepted, and waits silently for a revision far in the future.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarted_empty() {
    each(async |binary| {
        let mut rig = Rig::start(&binary, &Options::one(), 3).await;
        for _ in 0..100 {
            gateway::write(rig.up(), &[(b"/elsewhere".to_vec(), Some(Vec::new()))]).await;
        }
        rig.begin().await;
        let before = rig.etcd.revision().await.unwrap();
        rig.etcd.restart(Data::Lost).await.unwrap();
        rig.recovered("restarted empty", Instant::now()).await;
        assert!(
            rig.etcd.revision().await.unwrap() < before,
            "its history is another"
        );
        rig.close().await;
    })
    .await;
}

/// On its return, the member considers all leases expired.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_for_longer_than_the_ttl() {
    each(async |binary| {
        let mut rig = Rig::start(&binary, &Options::one(), 3).await;
        rig.etcd.pause().unwrap();
        sleep(TTL + Duration::from_secs(2)).await;
        rig.etcd.resume().unwrap();
        let mut figures = Figures::default();
        rig.observe(&mut figures, Instant::now(), INTERVAL * 2)
            .await;
        rig.report("stopped for 7 s at a ttl of 5 s", &figures)
            .await;
        rig.close().await;
    })
    .await;
}

/// Established connections deliver nothing any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_are_replaced() {
    each(async |binary| {
        let etcd = Etcd::start(&binary, &Options::one()).await.unwrap();
        let proxy = Proxy::start(etcd.addresses()[0]).await.unwrap();
        let at = url(&[proxy.address()]);
        let mut rig = Rig::on(etcd, &at, &at, 3).await;
        let begun = Instant::now();
        // Existing connections are silent for good; new ones work.
        proxy.half_open();
        rig.servers[0]
            .registration
            .set_metadata("zone", "c")
            .unwrap();
        rig.recovered("connections half open", begun).await;
        rig.assert_none_suspected();
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
        rig.servers.push(Server::begin(&at, "3"));
        rig.servers[3].until_it_reports("space exceeded").await;
        rig.servers[0]
            .registration
            .set_metadata("zone", "d")
            .unwrap();
        rig.servers[0].until_it_reports("space exceeded").await;
        sleep(TTL + INTERVAL).await;
        rig.assert_none_suspected();
        rig.etcd.make_room().await.unwrap();
        rig.recovered("out of space, then room", Instant::now())
            .await;
        rig.assert_none_suspected();
        rig.close().await;
    })
    .await;
}

/// The key of a record is go-micro's.
#[test]
fn keys_are_text() {
    assert_eq!(
        path(&crate::server::key("1")),
        b"/micro/registry/greeter/greeter-1"
    );
}
