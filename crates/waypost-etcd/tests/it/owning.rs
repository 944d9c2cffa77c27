//! Whose key it is.

use std::time::Duration;

use tokio::time::Instant;
use waypost_core::record::Node;
use waypost_core::registrar::State;
use waypost_core::registry::{Error, Instance, RegisterOptions, Registry};
use waypost_testkit::etcd::{Etcd, Options};

use super::rig::{Rig, Server, each, key, service, url};
use super::{hand, path};

fn options() -> RegisterOptions {
    RegisterOptions { ttl: Duration::from_secs(5), instance: Instance::random() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_with_one_id() {
    each(async |binary| {
        let mut rig = Rig::start(&binary, &Options::one(), 1).await;
        let at = url(&rig.etcd.addresses());
        let registry = super::open(&at);
        let second = waypost_core::registrar::Registration::builder(
            waypost_core::registry::AnyRegistry::new(registry),
            service("0", "127.0.0.1:2"),
        );
        let second = second.ttl(Duration::from_secs(5)).interval(Duration::from_secs(1)).start().unwrap();
        let mut states = second.watch();
        let told = |state: &State| matches!(state, State::Failing { why, .. } if why.contains("127.0.0.1:10"));
        tokio::time::timeout(Duration::from_secs(20), states.wait_for(|state| told(state))).await.unwrap().unwrap();
        rig.never_suspected_one();
        rig.servers.pop().unwrap().close().await;
        let begun = Instant::now();
        second.registered().await.unwrap();
        println!("etcd {}: a taken id is free: registered after {:?}", binary.version(), begun.elapsed());
        second.close().await.unwrap();
        rig.client.close().await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anothers_record_without_a_lease_is_repaired_and_with_one_is_not() {
    each(async |binary| {
        let mut rig = Rig::start(&binary, &Options::one(), 2).await;
        let address = rig.etcd.addresses()[0];
        let begun = Instant::now();
        hand::write(address, &[(path(&key("0")), Some(service("0", "10.9.9.9:9").to_json().into_bytes()))]).await;
        rig.well_again("overwritten by another's record without a lease", begun).await;
        // Another who lives: forced in, as only a hand can.
        let other = super::open(&url(&[address]));
        rig.etcd.delete("/micro/registry/greeter/greeter-0").await.unwrap();
        let theirs = options();
        let taken = loop {
            match other.register(&service("0", "10.9.9.9:9"), &theirs).await {
                Ok(()) => break true,
                Err(Error::IdTaken { .. }) => rig.etcd.delete("/micro/registry/greeter/greeter-0").await.unwrap(),
                Err(error) => panic!("{}", error.chain()),
            }
        };
        assert!(taken);
        rig.servers[0]
            .until("it says who", |state| matches!(state, State::Failing { why, .. } if why.contains("10.9.9.9:9")))
            .await;
        other.register(&service("0", "10.9.9.9:9"), &theirs).await.unwrap();
        let begun = Instant::now();
        other.close().await.unwrap();
        rig.servers[0].until("it is back", State::is_registered).await;
        rig.well_again("another's live record is gone", begun).await;
        rig.close().await;
    })
    .await;
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
        let lease = async |key: &str| etcd.lease_of(&format!("/micro/registry/{key}")).await.unwrap();
        assert_eq!(lease("greeter/greeter-1").await, lease("other/other-1").await);
        let leave = waypost_core::registry::DeregisterOptions::ours(owner.instance.clone());
        registry.deregister(&three, &leave).await.unwrap();
        assert_eq!(etcd.leases().await.unwrap().len(), 1, "a lease goes with its last key");
        registry.deregister(&other, &leave).await.unwrap();
        assert_eq!(etcd.leases().await.unwrap(), [""; 0]);
        registry.close().await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_killed_is_followed_by_its_heir_at_once() {
    each(async |binary| {
        let etcd = Etcd::start(&binary, &Options::one()).await.unwrap();
        let at = url(&etcd.addresses());
        let dead = Server::start(&at, "1").await;
        drop(dead);
        let begun = Instant::now();
        let heir = Server::start(&at, "1").await;
        assert!(begun.elapsed() < Duration::from_secs(2), "it waited for the lease of the dead");
        heir.close().await;
    })
    .await;
}
