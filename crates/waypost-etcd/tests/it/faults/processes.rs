//! Faults of a node's own process, with real processes and signals.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use waypost_testkit::etcd::Options;

use crate::child::Process;
use crate::rig::{Figures, INTERVAL, Rig, TTL, each, url};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_for_longer_than_its_ttl() {
    each(async |binary| {
        let mut rig = Rig::start(&binary, &Options::one(), 2).await;
        let at = url(&rig.etcd.addresses());
        let mut process = Process::join(&mut rig, &at, "2").await;
        process.stop();
        let begun = Instant::now();
        rig.until_seen("its loss", |snapshot| snapshot.suspects().len() == 1)
            .await;
        sleep((TTL + Duration::from_secs(3)).saturating_sub(begun.elapsed())).await;
        assert_eq!(rig.count_registered().await, 2, "its record is gone");
        process.wake();
        let figures = rig
            .recovered("own process stopped for 8 s", Instant::now())
            .await;
        assert!(figures.registered() < Duration::from_secs(2), "{figures:?}");
        rig.others.clear();
        process.leave().await;
        rig.close().await;
    })
    .await;
}

/// The holder of an id keeps it. The other reports the holder, and gets the id when it is free: at
/// once after a leave, with the end of the lease after a kill.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_with_one_id() {
    each(async |binary| {
        let mut rig = Rig::start(&binary, &Options::one(), 2).await;
        let at = url(&rig.etcd.addresses());
        let first = Process::join(&mut rig, &at, "2").await;
        let mut second = Process::start(&at, "2", "127.0.0.1:1002");
        second.until_it_reports(&first.node().address).await;
        let mut figures = Figures::default();
        rig.observe(&mut figures, Instant::now(), INTERVAL * 2)
            .await;
        rig.report("two processes with one id: the holder keeps it", &figures)
            .await;

        first.kill().await;
        let begun = Instant::now();
        rig.others = vec![second.node()];
        rig.recovered("two processes with one id: the holder is killed", begun)
            .await;
        second.until_it_reports("Registered").await;

        let mut third = Process::start(&at, "2", "127.0.0.1:1003");
        third.until_it_reports(&second.node().address).await;
        let begun = Instant::now();
        rig.others = vec![third.node()];
        second.leave().await;
        let mut figures = Figures::default();
        rig.observe(&mut figures, begun, Duration::ZERO).await;
        rig.report_any("two processes with one id: the holder leaves", &figures)
            .await;
        rig.others.clear();
        third.leave().await;
        rig.close().await;
    })
    .await;
}

/// Both start concurrently: one holds the id, and the other reports it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_start_at_once_with_one_id() {
    each(async |binary| {
        let mut rig = Rig::start(&binary, &Options::one(), 2).await;
        let at = url(&rig.etcd.addresses());
        let begun = Instant::now();
        let mut two = [
            Process::start(&at, "2", "127.0.0.1:1002"),
            Process::start(&at, "2", "127.0.0.1:1003"),
        ];
        rig.until_seen("one of them", |snapshot| snapshot.confirmed().len() == 3)
            .await;
        let holder = rig
            .snapshot()
            .confirmed()
            .find(|entry| entry.node.id == "greeter-2")
            .unwrap()
            .node
            .address
            .clone();
        let (holds, waits) = if two[0].node().address == holder {
            (0, 1)
        } else {
            (1, 0)
        };
        two[waits].until_it_reports(&holder).await;
        two[holds].until_it_reports("Registered").await;
        rig.others = vec![two[holds].node()];
        let mut figures = Figures::default();
        rig.observe(&mut figures, begun, INTERVAL * 2).await;
        rig.report("two processes start at once with one id", &figures)
            .await;
        rig.assert_none_suspected();
        rig.others.clear();
        // The one that holds nothing leaves first: it must not remove the other's record.
        let [first, second] = two;
        let (holding, waiting) = if holds == 0 {
            (first, second)
        } else {
            (second, first)
        };
        let node = holding.node();
        waiting.leave().await;
        rig.others = vec![node];
        assert_eq!(rig.count_registered().await, 3);
        rig.others.clear();
        holding.leave().await;
        rig.close().await;
    })
    .await;
}
