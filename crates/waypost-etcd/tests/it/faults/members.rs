//! Three members: a fault of one of them affects no registration.

use tokio::time::Instant;
use waypost_testkit::etcd::{Binary, Options};

use super::cluster::{Cluster, Fault, Phase, heartbeats};
use crate::rig::{Figures, INTERVAL, Rig, TTL, each};

/// One of three members fails during an activity; no node vanishes, and none is a suspect.
async fn one_gone(binary: Binary, fault: Fault, phase: Phase, name: &'static str) {
    let mut cluster = Cluster::start(&binary).await;
    assert_eq!(
        cluster.round(fault, &[phase], name).await,
        0,
        "nodes vanished"
    );
    cluster.rig.assert_none_suspected();
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_registering() {
    each(|binary| {
        one_gone(
            binary,
            Fault::Killed,
            Phase::Registering,
            "one of three killed while registering",
        )
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_watching() {
    each(|binary| {
        one_gone(
            binary,
            Fault::Killed,
            Phase::Watching,
            "one of three killed while watching",
        )
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_renewing() {
    each(|binary| {
        one_gone(
            binary,
            Fault::Killed,
            Phase::Renewing,
            "one of three killed while renewing",
        )
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_off_while_registering() {
    each(|binary| {
        one_gone(
            binary,
            Fault::CutOff,
            Phase::Registering,
            "one of three cut off while registering",
        )
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_off_while_watching() {
    each(|binary| {
        one_gone(
            binary,
            Fault::CutOff,
            Phase::Watching,
            "one of three cut off while watching",
        )
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_off_while_renewing() {
    each(|binary| {
        one_gone(
            binary,
            Fault::CutOff,
            Phase::Renewing,
            "one of three cut off while renewing",
        )
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_frozen_for_less_than_the_ttl() {
    each(async |binary| {
        let mut rig = Rig::start(&binary, &Options::three(), 3).await;
        let leader = rig.etcd.leader().await.unwrap();
        rig.etcd.member(leader).pause().unwrap();
        let (begun, mut figures) = (Instant::now(), Figures::without_outage());
        rig.observe(&mut figures, begun, TTL - INTERVAL).await;
        rig.etcd.member(leader).resume().unwrap();
        rig.observe(&mut figures, begun, INTERVAL * 2).await;
        let vanished = rig.report("the leader frozen for 4 s", &figures).await;
        assert_eq!(vanished, Some(0), "nodes vanished");
        rig.assert_none_suspected();
        rig.close().await;
    })
    .await;
}

/// A leader frozen for longer than the ttl wakes up with leases that expired by its own clock, and
/// may have them revoked before it learns of its successor (its proposal is forwarded). By then no
/// record may be attached to a lease that it knows.
async fn the_leader_frozen(binary: Binary, phases: &'static [Phase], name: &str, rounds: usize) {
    let mut cluster = Cluster::start(&binary).await;
    let mut vanished = Vec::new();
    for _ in 0..rounds {
        heartbeats(1).await;
        let before = cluster.rig.etcd.leases().await.unwrap();
        vanished.push(cluster.round(Fault::LeaderFrozen, phases, name).await);
        let after = cluster.rig.etcd.leases().await.unwrap();
        assert!(
            before.iter().all(|lease| !after.contains(lease)),
            "a lease outlived its leader: {before:?} {after:?}"
        );
    }
    println!(
        "etcd {}: {name}: vanished in each round: {vanished:?}",
        binary.version()
    );
    assert!(
        vanished.iter().all(|vanished| *vanished == 0),
        "nodes vanished: {vanished:?}"
    );
    cluster.rig.assert_none_suspected();
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_frozen_for_longer_than_the_ttl() {
    const ALL: &[Phase] = &[Phase::Registering, Phase::Watching, Phase::Renewing];
    each(|binary| the_leader_frozen(binary, ALL, "the leader frozen for 9 s, all at once", 1))
        .await;
}

/// Number of rounds of each test in `cargo xtask etcd-faults`: nine in all.
const ROUNDS: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: cargo xtask etcd-faults"]
async fn the_leader_frozen_while_registering() {
    const NAME: &str = "the leader frozen for 9 s while registering";
    each(|binary| the_leader_frozen(binary, &[Phase::Registering], NAME, ROUNDS)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: cargo xtask etcd-faults"]
async fn the_leader_frozen_while_watching() {
    const NAME: &str = "the leader frozen for 9 s while watching";
    each(|binary| the_leader_frozen(binary, &[Phase::Watching], NAME, ROUNDS)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: cargo xtask etcd-faults"]
async fn the_leader_frozen_while_renewing() {
    const NAME: &str = "the leader frozen for 9 s while renewing";
    each(|binary| the_leader_frozen(binary, &[Phase::Renewing], NAME, ROUNDS)).await;
}
