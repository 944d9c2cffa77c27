//! Three members: what happens to one of them happens to no registration.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use waypost_core::registry::Registry;
use waypost_testkit::Proxy;
use waypost_testkit::etcd::{Etcd, Options};

use super::rig::{INTERVAL, Rig, TTL, each, url};

/// A change that must come through, and how long it took.
async fn comes_through(rig: &mut Rig, mark: &str) -> Duration {
    let begun = Instant::now();
    for server in &rig.servers {
        server.registration.set_metadata("mark", mark).unwrap();
    }
    let marked = |entry: &waypost_core::record::Entry| entry.node.metadata.get("mark").is_some_and(|found| found == mark);
    rig.until_seen(mark, |snapshot| snapshot.confirmed.iter().filter(|entry| marked(entry)).count() == 3).await;
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_member_killed_in_turn() {
    each(async |binary| {
        let mut rig = Rig::start(&binary, &Options::three(), 3).await;
        for member in 0..3 {
            rig.etcd.member(member).kill().await.unwrap();
            let took = comes_through(&mut rig, &format!("without {member}")).await;
            println!("etcd {}: one of three killed: a change is seen by all after {took:?}", binary.version());
            rig.etcd.member(member).start().unwrap();
            rig.etcd.member(member).serving().await.unwrap();
        }
        rig.until_right().await;
        rig.never_suspected_one();
        rig.close().await;
    })
    .await;
}

/// Dropped, not refused: nothing arrives, in either direction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_cut_off() {
    each(async |binary| {
        let etcd = Etcd::start(&binary, &Options::three()).await.unwrap();
        let mut proxies = Vec::new();
        for address in etcd.addresses() {
            proxies.push(Proxy::start(address).await.unwrap());
        }
        let at = url(&proxies.iter().map(Proxy::address).collect::<Vec<_>>());
        let mut rig = Rig::on(etcd, &at, &at, 3).await;
        for (member, proxy) in proxies.iter().enumerate() {
            proxy.swallow(true);
            let took = comes_through(&mut rig, &format!("without {member}")).await;
            println!("etcd {}: one of three cut off: a change is seen by all after {took:?}", binary.version());
            assert!(took < Duration::from_secs(7), "{took:?}");
            sleep(INTERVAL * 2).await;
            proxy.swallow(false);
            proxy.cut();
        }
        rig.until_right().await;
        rig.never_suspected_one();
        rig.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_frozen_for_9_s() {
    each(async |binary| {
        let mut rig = Rig::start(&binary, &Options::three(), 3).await;
        let leader = rig.etcd.leader().await.unwrap();
        rig.etcd.member(leader).pause().unwrap();
        let took = comes_through(&mut rig, "without the leader").await;
        println!("etcd {}: leader frozen: a change is seen by all after {took:?}", binary.version());
        sleep(Duration::from_secs(9).saturating_sub(took)).await;
        rig.etcd.member(leader).resume().unwrap();
        sleep(TTL + INTERVAL).await;
        rig.until_right().await;
        rig.never_suspected_one();
        rig.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quorum_lost() {
    each(async |binary| {
        let mut rig = Rig::start(&binary, &Options::three(), 3).await;
        for member in [0, 1] {
            rig.etcd.member(member).pause().unwrap();
        }
        rig.until_seen("trouble", |snapshot| snapshot.trouble.is_some()).await;
        sleep(TTL * 2).await;
        rig.never_lost_one();
        for member in [0, 1] {
            rig.etcd.member(member).resume().unwrap();
        }
        rig.etcd.leader().await.unwrap();
        rig.well_again("quorum lost for more than 10 s", Instant::now()).await;
        rig.close().await;
    })
    .await;
}

/// A process that starts while two of three are down still finds the servers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_picture_without_quorum() {
    each(async |binary| {
        let mut rig = Rig::start(&binary, &Options::three(), 3).await;
        let leader = rig.etcd.leader().await.unwrap();
        let others: Vec<_> = (0..3).filter(|member| *member != leader).collect();
        for member in &others {
            rig.etcd.member(*member).kill().await.unwrap();
        }
        // Without a password: nobody can log in without a quorum.
        let addresses: Vec<_> = rig.etcd.addresses().iter().map(ToString::to_string).collect();
        let registry = super::open(&format!("etcd://{}", addresses.join(",")));
        let mut watcher = registry.watch(&waypost_core::registry::WatchOptions::service("greeter")).await.unwrap();
        let begun = Instant::now();
        let mut unwell = false;
        let found = loop {
            match watcher.next().await.unwrap() {
                Ok(waypost_core::registry::Event::Reset(entries)) => break entries.len(),
                Ok(other) => panic!("{other:?}"),
                Err(_) => unwell = true,
            }
        };
        println!("etcd {}: quorum lost: a first picture after {:?}", binary.version(), begun.elapsed());
        assert_eq!(found, 3);
        unwell |= watcher.next().await.unwrap().is_err();
        assert!(unwell, "nobody was told that the picture is not verified");
        for member in others {
            rig.etcd.member(member).start().unwrap();
        }
        rig.etcd.leader().await.unwrap();
        registry.close().await.unwrap();
        rig.until_right().await;
        rig.close().await;
    })
    .await;
}
