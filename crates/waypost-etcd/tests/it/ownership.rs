//! Assignment of records to leases, and succession of a killed server. Ownership of keys after a
//! fault is tested in `faults`.

use std::time::Duration;

use tokio::time::Instant;
use waypost_core::record::Node;
use waypost_core::registry::{Instance, RegisterOptions, Registry};
use waypost_testkit::etcd::{Etcd, Options};

use super::rig::{Server, each, service, url};

fn options() -> RegisterOptions {
    RegisterOptions {
        ttl: Duration::from_secs(5),
        instance: Instance::random(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_of_one_service_have_a_lease_each_and_services_share() {
    each(async |binary| {
        let etcd = Etcd::start(&binary, &Options::one()).await.unwrap();
        let registry = super::open(&url(&etcd.addresses()));
        let (mut three, owner) = (service("1", "10.0.0.1:1"), options());
        for id in ["2", "3"] {
            three.nodes.push(Node::with_id("greeter", id, "10.0.0.1:1"));
        }
        let mut other = waypost_core::record::Service::new("other");
        other.nodes.push(Node::with_id("other", "1", "10.0.0.1:1"));
        registry.register(&three, &owner).await.unwrap();
        registry.register(&other, &owner).await.unwrap();
        assert_eq!(etcd.leases().await.unwrap().len(), 3);
        let lease = async |key: &str| {
            etcd.lease_of(&format!("/micro/registry/{key}"))
                .await
                .unwrap()
        };
        assert_eq!(
            lease("greeter/greeter-1").await,
            lease("other/other-1").await
        );
        let leave = waypost_core::registry::DeregisterOptions::ours(owner.instance.clone());
        registry.deregister(&three, &leave).await.unwrap();
        assert_eq!(
            etcd.leases().await.unwrap().len(),
            1,
            "a lease is revoked with its last key"
        );
        registry.deregister(&other, &leave).await.unwrap();
        assert_eq!(etcd.leases().await.unwrap(), [""; 0]);
        registry.close().await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_takes_over_from_a_killed_server_at_once() {
    each(async |binary| {
        let etcd = Etcd::start(&binary, &Options::one()).await.unwrap();
        let at = url(&etcd.addresses());
        let dead = Server::start(&at, "1").await;
        drop(dead);
        let begun = Instant::now();
        let successor = Server::start(&at, "1").await;
        assert!(
            begun.elapsed() < Duration::from_secs(2),
            "it waited for the lease of the dead"
        );
        successor.close().await;
    })
    .await;
}
