//! Changes that a watch has not delivered are found by a list, and logged.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use waypost_core::record::{Key, Node, Service};
use waypost_core::registry::{Event, NodeSet, Registry, WatchOptions};
use waypost_testkit::Proxy;
use waypost_testkit::etcd::{Data, Etcd, Options};

use super::rig::{each, url};
use super::{gateway, path};

const PATIENCE: Duration = Duration::from_secs(20);

/// Creates key and value of a record, to be written directly.
fn record(id: &str) -> (Vec<u8>, Option<Vec<u8>>) {
    let mut service = Service::new("missed");
    service.nodes.push(Node {
        id: id.to_owned(),
        address: "10.0.0.1:1".into(),
        ..Node::default()
    });
    (
        path(&Key {
            service: "missed".into(),
            id: id.into(),
        }),
        Some(service.to_json().into_bytes()),
    )
}

async fn stray(address: std::net::SocketAddr, count: usize) {
    for _ in 0..count {
        gateway::write(address, &[(b"/elsewhere".to_vec(), Some(Vec::new()))]).await;
    }
}

/// Another etcd replaces the one that was watched, with other records and a higher revision. The
/// watch resumes there, and reports no change before the revision that it requests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missed_changes_are_logged_and_counted() {
    each(async |binary| {
        let mut etcd = Etcd::start(&binary, &Options::one()).await.unwrap();
        let (address, proxy) = (
            etcd.addresses()[0],
            Proxy::start(etcd.addresses()[0]).await.unwrap(),
        );
        let registry = super::open(&url(&[proxy.address()]));
        let mut watcher = registry
            .watch(&WatchOptions::service("missed"))
            .await
            .unwrap();
        stray(address, 30).await;
        let version = binary.version();
        let (old, older) = (
            format!("missed-old-{version}"),
            format!("missed-older-{version}\u{1b}[2J"),
        );
        gateway::write(address, &[record(&old), record(&older)]).await;
        let mut nodes = NodeSet::default();
        while nodes.len() < 2 {
            nodes.apply(
                timeout(PATIENCE, watcher.next())
                    .await
                    .unwrap()
                    .unwrap()
                    .unwrap(),
            );
        }
        proxy.freeze(true);
        etcd.restart(Data::Lost).await.unwrap();
        let new = format!("missed-new-{version}");
        gateway::write(address, &[record(&new)]).await;
        stray(address, 60).await;
        proxy.cut();
        proxy.freeze(false);
        let begun = Instant::now();
        loop {
            match timeout(PATIENCE, watcher.next()).await.unwrap().unwrap() {
                Ok(Event::Reset(entries)) if entries.iter().all(|entry| entry.node.id == new) => {
                    break;
                }
                Ok(event) => nodes.apply(event),
                Err(error) => println!("outage: {}", error.chain()),
            }
        }
        println!(
            "etcd {version}: another history, further than the old: found after {:.2} s",
            begun.elapsed().as_secs_f64()
        );
        let lines = super::MISSED.lock().unwrap().clone();
        let line = lines
            .iter()
            .find(|line| line.contains(&new))
            .expect("it is logged");
        for text in [
            "WARN",
            "service=\"missed\"",
            "created=1",
            "updated=0",
            "deleted=2",
            &format!("deleted missed/{old}"),
            "\\u{1b}",
        ] {
            assert!(line.contains(text), "{text:?} is missing: {line}");
        }
        assert!(!line.contains('\u{1b}'), "it is not escaped");
        assert_eq!(registry.missed(), 3);
        registry.close().await.unwrap();
    })
    .await;
}
