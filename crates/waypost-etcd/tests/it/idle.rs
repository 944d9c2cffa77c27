//! Idle registrations write nothing, and leave nothing after their close.

use tokio::time::sleep;
use waypost_testkit::etcd::Options;

use super::rig::{INTERVAL, Rig, each};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_heartbeats_write_nothing_and_close_leaves_nothing() {
    each(async |binary| {
        let mut rig = Rig::start(&binary, &Options::one(), 3).await;
        let before = rig.etcd.revision().await.unwrap();
        sleep(INTERVAL * 4).await;
        assert_eq!(
            rig.etcd.revision().await.unwrap(),
            before,
            "a heartbeat wrote"
        );
        assert_eq!(rig.etcd.leases().await.unwrap().len(), 3);
        let watched = rig
            .etcd
            .member(0)
            .metrics()
            .await
            .unwrap()
            .get("etcd_debugging_mvcc_watcher_total", &[]);
        assert_eq!(watched, Some(4.0), "three own keys and one service");
        let Rig {
            mut etcd,
            servers,
            client,
            ..
        } = rig;
        for server in servers {
            // Not deregistered: the close of the registry releases it.
            drop(server.registration);
            server.registry.close().await.unwrap();
        }
        client.close().await.unwrap();
        assert_eq!(etcd.leases().await.unwrap(), [""; 0]);
        assert_eq!(etcd.keys("/").await.unwrap(), [""; 0]);
        let metrics = etcd.member(0).metrics().await.unwrap();
        assert_eq!(
            metrics.get("etcd_debugging_mvcc_watcher_total", &[]),
            Some(0.0)
        );
        assert_eq!(
            metrics.get("etcd_debugging_mvcc_watch_stream_total", &[]),
            Some(0.0)
        );
    })
    .await;
}
