//! Callers that time out, and callers that register while their handle is closed.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use waypost_core::record::{Node, Service};
use waypost_core::registry::{Instance, RegisterOptions, Registry};
use waypost_testkit::Proxy;
use waypost_testkit::etcd::{Etcd, Options};

use super::rig::{each, url};

fn record(service: &str) -> Service {
    let mut record = Service::new(service);
    record.nodes.push(Node::with_id(service, "1", "10.0.0.1:1"));
    record
}

/// A registration times out after two seconds, like the handle. Whichever is first, a silent
/// connection is replaced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_connection_is_replaced_although_its_callers_time_out_first() {
    each(async |binary| {
        let etcd = Etcd::start(&binary, &Options::one()).await.unwrap();
        let proxy = Proxy::start(etcd.addresses()[0]).await.unwrap();
        let registry = super::open(&url(&[proxy.address()]));
        registry.list_services().await.unwrap();
        proxy.half_open();
        let options = RegisterOptions {
            ttl: Duration::from_secs(60),
            instance: Instance::random(),
        };
        let mut tries = 0;
        while timeout(
            Duration::from_millis(1_500),
            registry.register(&record("s"), &options),
        )
        .await
        .is_err()
        {
            tries += 1;
            assert!(tries < 6, "the silent connection is used for ever");
        }
        registry.close().await.unwrap();
        assert_eq!(etcd.leases().await.unwrap(), [""; 0]);
    })
    .await;
}

/// A record written while its handle is closed is either refused or removed with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registration_during_close_leaves_nothing() {
    each(async |binary| {
        let etcd = Etcd::start(&binary, &Options::one()).await.unwrap();
        for round in 0..20 {
            let registry = Arc::new(super::open(&url(&etcd.addresses())));
            registry.list_services().await.unwrap();
            let mut registering = JoinSet::new();
            for number in 0..10 {
                let (registry, service) = (Arc::clone(&registry), format!("s{number}"));
                registering.spawn(async move {
                    let options = RegisterOptions {
                        ttl: Duration::from_secs(600),
                        instance: Instance::random(),
                    };
                    registry.register(&record(&service), &options).await
                });
            }
            sleep(Duration::from_micros(500 * round)).await;
            registry.close().await.unwrap();
            assert_eq!(
                etcd.leases().await.unwrap(),
                [""; 0],
                "leases are left, round {round}"
            );
            registering.join_all().await;
            assert_eq!(
                etcd.leases().await.unwrap(),
                [""; 0],
                "leases were granted after the end, round {round}"
            );
        }
    })
    .await;
}
