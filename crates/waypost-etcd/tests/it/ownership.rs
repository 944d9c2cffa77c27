//! Assignment of records to leases, and succession of a killed server. Ownership of keys after a
//! fault is tested in `faults`.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use waypost_core::record::Node;
use waypost_core::registrar::Registration;
use waypost_core::registry::{AnyRegistry, Instance, RegisterOptions, Registry};
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

/// The repair does not wait for the heartbeat, which comes after 30 s.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_is_deleted_or_overwritten_is_back_at_once() {
    each(async |binary| {
        let etcd = Etcd::start(&binary, &Options::one()).await.unwrap();
        let registry = AnyRegistry::new(super::open(&url(&etcd.addresses())));
        let registration = Registration::builder(registry.clone(), service("1", "10.0.0.1:1"))
            .ttl(Duration::from_secs(90))
            .interval(Duration::from_secs(30))
            .start()
            .unwrap();
        registration.registered().await.unwrap();
        let key = "/micro/registry/greeter/greeter-1";
        let record = etcd.get(key).await.unwrap().unwrap();
        // The watch of the own record is opened after the registration.
        sleep(Duration::from_secs(1)).await;
        for fault in 0..4 {
            let since = Instant::now();
            match fault % 2 {
                0 => etcd.delete(key).await.unwrap(),
                _ => etcd.put(key, b"garbage").await.unwrap(),
            }
            while etcd.get(key).await.unwrap().as_ref() != Some(&record) {
                assert!(since.elapsed() < Duration::from_secs(4), "fault {fault}");
                sleep(Duration::from_millis(20)).await;
            }
            assert!(registration.state().is_registered());
        }
        registration.close().await.unwrap();
        registry.close().await.unwrap();
        assert_eq!(etcd.keys("/").await.unwrap(), Vec::<String>::new());
    })
    .await;
}

/// etcd's minimum TTL is one and a half election timeouts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_longer_ttl_than_asked_is_logged_once() {
    each(async |binary| {
        let options = Options::one()
            .flag("--election-timeout=6000")
            .flag("--heartbeat-interval=500");
        let etcd = Etcd::start(&binary, &options).await.unwrap();
        let registry = super::open(&url(&etcd.addresses()));
        let before = super::logged("etcd grants longer TTLs than asked");
        for id in ["1", "2", "3"] {
            let node = service(id, "10.0.0.1:1");
            registry
                .register(&node, &super::ownership::options())
                .await
                .unwrap();
        }
        assert!(super::logged("asked_s=5 granted_s=9") > 0);
        let after = super::logged("etcd grants longer TTLs than asked");
        assert!((1..=2).contains(&(after - before)), "{before} {after}");
        registry.close().await.unwrap();
    })
    .await;
}
