//! Records of go-micro, written directly, are found and decoded; invalid ones disturb nothing.

use waypost_core::record::{Node, Service};
use waypost_core::registry::{Error, Registry, WatchOptions};
use waypost_testkit::etcd::{Etcd, Options};

use super::rig::{each, url};

macro_rules! golden {
    ($($name:literal),*) => { [$(($name, include_str!(concat!("../../../waypost-core/tests/golden/", $name, ".kv")))),*] };
}

const GOLDEN: [(&str, &str); 21] = golden!(
    "advertise-no-port",
    "broker-http",
    "escapes",
    "grpc-http-broker",
    "grpc-multi",
    "grpc-plain-structs",
    "grpc",
    "host-name",
    "ipv6-zone",
    "ipv6",
    "micro-newservice-broker",
    "micro-newservice-defaults",
    "micro-newservice",
    "mucp-default",
    "mucp-metadata-stream-subscriber",
    "no-handlers",
    "plain-structs",
    "reserved-metadata",
    "web-defaults",
    "web-ipv6",
    "web"
);

/// Record of a service called `team/orders`. Its key has `team-orders`, which cannot be
/// distinguished from a service of that name.
const SLASHES: &str = include_str!("../../../waypost-core/tests/golden/slash-names.kv");

fn record(text: &str) -> (&str, &str) {
    let (key, value) = text.split_once('\n').unwrap();
    (key, value.trim_end_matches('\n'))
}

/// A record that another program wrote, of 80 kB, is read where the limit is raised, and counted
/// as skipped where it is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limit_of_a_record_can_be_raised() {
    each(async |binary| {
        let etcd = Etcd::start(&binary, &Options::one()).await.unwrap();
        let default = super::open(&url(&etcd.addresses()));
        let raised = format!("{}?max_record_bytes=131072", url(&etcd.addresses()));
        let raised = super::open(&raised);
        let mut service = Service::new("greeter");
        service.metadata.insert("padding", "x".repeat(80_000));
        let node = Node::with_id("greeter", "1", "127.0.0.1:1");
        service.nodes.push(node);
        let (key, value) = ("/micro/registry/greeter/greeter-1", service.to_json());
        etcd.put(key, value.as_bytes()).await.unwrap();
        assert_eq!(raised.get_service("greeter").await.unwrap(), [service]);
        default.get_service("greeter").await.unwrap_err();
        assert_eq!(default.skipped(Some("greeter")).count, 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn golden_records_are_found_and_read() {
    each(async |binary| {
        let etcd = Etcd::start(&binary, &Options::one()).await.unwrap();
        let registry = super::open(&url(&etcd.addresses()));
        let mut watcher = registry.watch(&WatchOptions::all()).await.unwrap();
        watcher.next().await.unwrap().unwrap();
        let mut expected = Vec::new();
        for (name, text) in GOLDEN {
            let (key, value) = record(text);
            etcd.put(key, value.as_bytes()).await.unwrap();
            let service = Service::from_json(value.as_bytes()).unwrap();
            let event = watcher.next().await.unwrap().unwrap();
            let waypost_core::registry::Event::Created(entry) = &event else {
                panic!("{name}: {event:?}")
            };
            assert_eq!(entry.to_service(), service, "{name}");
            expected.push(service);
        }
        let (key, value) = record(SLASHES);
        etcd.put(key, value.as_bytes()).await.unwrap();
        for (key, garbage) in [
            ("greeter/greeter-x", "{"),
            ("greeter/deeper/still", "{}"),
            ("", ""),
            ("greeter", "x"),
        ] {
            etcd.put(&format!("/micro/registry/{key}"), garbage.as_bytes())
                .await
                .unwrap();
        }
        let listed = registry.list_services().await.unwrap();
        let nodes = |services: &[Service]| {
            services
                .iter()
                .map(|service| service.nodes.len())
                .sum::<usize>()
        };
        assert_eq!(nodes(&listed), GOLDEN.len());
        for service in &expected {
            match registry.get_service(&service.name).await {
                Ok(found) => {
                    let node =
                        |found: &Service| found.nodes.iter().any(|node| *node == service.nodes[0]);
                    assert!(
                        found
                            .iter()
                            .any(|found| found.version == service.version && node(found)),
                        "{}",
                        service.name
                    );
                }
                Err(Error::NotFound { .. }) => panic!("{} is not found", service.name),
                Err(error) => panic!("{}", error.chain()),
            }
        }
        assert_eq!(
            registry.skipped(None).count,
            2,
            "the slashes and the garbage"
        );
        registry.close().await.unwrap();
    })
    .await;
}
