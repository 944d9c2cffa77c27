//! Compacted history, and lists and histories beyond the usual size of a message.

use std::net::SocketAddr;

use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep, timeout};
use waypost_core::record::{Key, Node, Service};
use waypost_core::registry::{AnyRegistry, NodeSet, Registry, WatchOptions, Watcher};
use waypost_testkit::Proxy;
use waypost_testkit::etcd::{Etcd, Options};

use crate::rig::{PATIENCE, Rig, Server, each, url};
use crate::{gateway, path};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compacted_under_a_watch() {
    each(async |binary| {
        let mut rig = Rig::start(&binary, &Options::one(), 3).await;
        let begun = Instant::now();
        for round in 0..10 {
            gateway::write(rig.up(), &[(b"/elsewhere".to_vec(), Some(b"x".to_vec()))]).await;
            gateway::compact(rig.up(), rig.etcd.revision().await.unwrap()).await;
            rig.servers[0]
                .registration
                .set_metadata("round", round.to_string())
                .unwrap();
        }
        rig.recovered("compacted under a watch, ten times", begun)
            .await;
        rig.assert_none_suspected();
        rig.close().await;
    })
    .await;
}

/// Compacts continuously until it is dropped.
fn compacting(address: SocketAddr) -> JoinSet<()> {
    let mut compacting = JoinSet::new();
    compacting.spawn(async move {
        loop {
            let revision =
                gateway::write(address, &[(b"/elsewhere".to_vec(), Some(Vec::new()))]).await;
            gateway::compact(address, revision).await;
        }
    });
    compacting
}

/// Writes records of another service directly, each of about this size.
async fn many(address: SocketAddr, service: &str, records: usize, bytes: usize) {
    let record = |number: &usize| {
        let mut node = Node::with_id(service, &number.to_string(), "10.0.0.1:1");
        node.metadata.insert("filling", "x".repeat(bytes));
        let mut record = Service::new(service);
        record.nodes.push(node);
        let key = Key {
            service: service.to_owned(),
            id: format!("{service}-{number}"),
        };
        (path(&key), Some(record.to_json().into_bytes()))
    };
    // Below etcd's limit for one request.
    let at_once = (1_000_000 / (bytes + 400)).clamp(1, 100);
    for numbers in (0..records).collect::<Vec<_>>().chunks(at_once) {
        gateway::write(address, &numbers.iter().map(record).collect::<Vec<_>>()).await;
    }
}

/// Compaction races lists of many pages, also those of the client, whose connection is reset
/// repeatedly.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compacted_during_lists() {
    each(async |binary| {
        const RECORDS: usize = 5_000;
        let etcd = Etcd::start(&binary, &Options::one()).await.unwrap();
        let address = etcd.addresses()[0];
        many(address, "many", RECORDS, 0).await;
        let proxy = Proxy::start(address).await.unwrap();
        let mut rig = Rig::on(etcd, &url(&[address]), &url(&[proxy.address()]), 3).await;
        let compacting = compacting(address);
        let begun = Instant::now();
        let registry = crate::open(&url(&[address]));
        for round in 0..20 {
            if round % 5 == 0 {
                proxy.cut();
                rig.servers[0]
                    .registration
                    .set_metadata("round", round.to_string())
                    .unwrap();
            }
            assert_eq!(
                registry.get_service("many").await.unwrap()[0].nodes.len(),
                RECORDS
            );
        }
        registry.close().await.unwrap();
        rig.recovered("compacted during 20 lists of 5 000 nodes", begun)
            .await;
        drop(compacting);
        rig.assert_none_suspected();
        rig.close().await;
    })
    .await;
}

/// The client is disconnected while changes are made and compacted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compacted_while_cut_off() {
    each(async |binary| {
        let etcd = Etcd::start(&binary, &Options::one()).await.unwrap();
        let (near, proxy) = (
            url(&etcd.addresses()),
            Proxy::start(etcd.addresses()[0]).await.unwrap(),
        );
        let mut rig = Rig::on(etcd, &near, &url(&[proxy.address()]), 3).await;
        proxy.freeze(true);
        rig.servers[0]
            .registration
            .set_metadata("zone", "b")
            .unwrap();
        rig.servers.push(Server::start(&near, "3").await);
        gateway::compact(rig.up(), rig.etcd.revision().await.unwrap()).await;
        rig.until_seen("an outage", |snapshot| snapshot.outage.is_some())
            .await;
        proxy.cut();
        proxy.freeze(false);
        rig.recovered("compacted while the client was cut off", Instant::now())
            .await;
        rig.assert_none_suspected();
        rig.close().await;
    })
    .await;
}

/// Together more than gRPC's default limit of 4 MiB.
const BIG: usize = 400;
const BIG_BYTES: usize = 20_000;

async fn big(address: SocketAddr) {
    many(address, "big", BIG, BIG_BYTES).await;
}

/// 8 MB do not arrive within the 2 s of one page's timeout, since at most 1 MiB arrives in 300 ms:
/// smaller pages are requested.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_list_over_a_slow_connection() {
    each(async |binary| {
        let etcd = Etcd::start(&binary, &Options::one()).await.unwrap();
        big(etcd.addresses()[0]).await;
        let proxy = Proxy::start(etcd.addresses()[0]).await.unwrap();
        let registry = crate::open(&url(&[proxy.address()]));
        proxy.delay(Duration::from_millis(300));
        assert_eq!(
            registry.get_service("big").await.unwrap()[0].nodes.len(),
            BIG
        );
        proxy.delay(Duration::ZERO);
        registry.close().await.unwrap();
    })
    .await;
}

/// Receives events until all big records are seen.
async fn until_big(watcher: &mut Watcher, nodes: &mut NodeSet) {
    let following = async {
        while nodes.len() < BIG {
            match watcher.next().await.unwrap() {
                Ok(event) => nodes.apply(event),
                Err(error) => crate::capture_error(&error),
            }
        }
    };
    timeout(PATIENCE, following).await.expect("all are seen");
}

/// Etcd restarts while there is a list of 8 MiB: all is listed again, and other events continue.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_beyond_4_mib() {
    each(async |binary| {
        let mut rig = Rig::start(&binary, &Options::one(), 3).await;
        big(rig.up()).await;
        rig.etcd
            .restart(waypost_testkit::etcd::Data::Kept)
            .await
            .unwrap();
        let begun = Instant::now();
        let registry = AnyRegistry::new(crate::open(&url(&rig.etcd.addresses())));
        let mut watcher = registry.watch(&WatchOptions::all()).await.unwrap();
        until_big(&mut watcher, &mut NodeSet::default()).await;
        let listed = registry.get_service("big").await.unwrap();
        assert_eq!(listed[0].nodes.len(), BIG);
        rig.recovered("a list of 8 MiB", begun).await;
        registry.close().await.unwrap();
        rig.assert_none_suspected();
        rig.close().await;
    })
    .await;
}

/// A disconnected watch must catch up with 8 MiB, among them a change of an own record. The
/// connection is reset, so that the watch starts again, or only frozen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_catch_up_beyond_4_mib() {
    each(async |binary| {
        for cut in [true, false] {
            let etcd = Etcd::start(&binary, &Options::one()).await.unwrap();
            let (near, proxy) = (
                url(&etcd.addresses()),
                Proxy::start(etcd.addresses()[0]).await.unwrap(),
            );
            let mut rig = Rig::on(etcd, &near, &url(&[proxy.address()]), 3).await;
            let (mut watcher, mut nodes) = (
                rig.client.watch(&WatchOptions::all()).await.unwrap(),
                NodeSet::default(),
            );
            nodes.apply(watcher.next().await.unwrap().unwrap());
            proxy.freeze(true);
            // Let responses in flight arrive.
            sleep(Duration::from_millis(100)).await;
            big(rig.up()).await;
            rig.servers[0]
                .registration
                .set_metadata("zone", "e")
                .unwrap();
            if cut {
                proxy.cut();
            }
            let begun = Instant::now();
            proxy.freeze(false);
            until_big(&mut watcher, &mut nodes).await;
            let fault = if cut {
                "8 MiB to catch up with after a cut"
            } else {
                "8 MiB to catch up with after a pause"
            };
            rig.recovered(fault, begun).await;
            rig.assert_none_suspected();
            rig.close().await;
        }
    })
    .await;
}
