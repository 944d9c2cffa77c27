//! Tests of the static list behind `static://`.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use futures_core::Stream;
use waypost_core::record::{Address, Service};
use waypost_core::registry::{
    DeregisterOptions, Error, Event, Instance, RegisterOptions, Registry, WatchOptions, Watcher,
};
use waypost_core::static_list::{DEFAULT_PROTOCOL, StaticRegistry};

fn registry() -> StaticRegistry {
    let address = |host: &str, port| Address {
        host: host.to_owned(),
        port,
    };
    StaticRegistry::new(
        [address("a", 1), address("::1", 2), address("a", 1)],
        DEFAULT_PROTOCOL,
    )
}

async fn is_quiet(watcher: &mut Watcher) -> bool {
    poll_fn(|cx| Poll::Ready(Pin::new(&mut *watcher).poll_next(cx).is_pending())).await
}

#[tokio::test]
async fn every_service_has_its_nodes() {
    let found = registry().get_service("greeter").await.unwrap();
    let nodes: Vec<_> = found[0]
        .nodes
        .iter()
        .map(|node| (node.id.as_str(), node.address.as_str()))
        .collect();
    assert_eq!(
        nodes,
        [("greeter-a:1", "a:1"), ("greeter-[::1]:2", "[::1]:2")]
    );
    assert_eq!(found[0].nodes[0].metadata.get("protocol"), Some("grpc"));
}

#[tokio::test]
async fn a_watcher_gets_them_once_and_ends_at_close() {
    let registry = registry();
    let mut one = registry
        .watch(&WatchOptions::service("greeter"))
        .await
        .unwrap();
    let mut all = registry.watch(&WatchOptions::all()).await.unwrap();
    let nodes = registry
        .get_service("greeter")
        .await
        .unwrap()
        .remove(0)
        .entries();
    assert_eq!(one.next().await.unwrap().unwrap(), Event::Reset(nodes));
    assert_eq!(all.next().await.unwrap().unwrap(), Event::Reset(Vec::new()));
    assert!(is_quiet(&mut one).await && is_quiet(&mut all).await);
    registry.close().await.unwrap();
    registry.close().await.unwrap();
    assert!(one.next().await.is_none() && all.next().await.is_none() && one.next().await.is_none());
    assert!(matches!(
        registry.watch(&WatchOptions::all()).await,
        Err(Error::Closed)
    ));
}

#[tokio::test]
async fn nothing_registers_in_it() {
    let (registry, service) = (registry(), Service::new("greeter"));
    let options = RegisterOptions {
        ttl: std::time::Duration::from_secs(1),
        instance: Instance::random(),
    };
    assert!(matches!(
        registry.register(&service, &options).await,
        Err(Error::Unsupported { .. })
    ));
    assert!(matches!(
        registry
            .deregister(&service, &DeregisterOptions::force())
            .await,
        Err(Error::Unsupported { .. })
    ));
    assert!(registry.list_services().await.unwrap().is_empty());
    assert!(matches!(
        registry.get_service("a/b").await,
        Err(Error::Invalid { .. })
    ));
}
