//! Queries, and the validation of names.

use std::time::Duration;

use waypost_core::record::{Endpoint, Metadata, Node, Value, keys};
use waypost_core::registry::{AnyRegistry, Error, Result, WatchOptions};

use super::Verdict;
use crate::context::{Owner, TestContext, key, record};

pub(crate) async fn a_registered_service_is_read_back(context: &TestContext) -> Verdict {
    let (registry, other) = (context.open().await, context.open().await);
    let mut owner = Owner::new(&registry, "greeter", "1", "10.0.0.1:1");
    owner.service.endpoints.push(endpoint());
    owner
        .service
        .nodes
        .push(Node::with_id("greeter", "2", "[2001:db8::7]:9090"));
    owner.set("label", "ü \" \\ <&> \u{2028}");
    owner.must_heartbeat().await;
    let wanted = owner.options.stamp(&owner.service);
    for registry in [&registry, &other] {
        assert_eq!(
            registry.get_service("greeter").await.expect("it is there"),
            std::slice::from_ref(&wanted)
        );
        assert_eq!(context.check(registry).await.nodes.len(), 2);
    }
    owner.must_deregister().await;
    assert!(other.list_services().await.expect("a list").is_empty());
    Ok(())
}

fn endpoint() -> Endpoint {
    let value = |name: &str, kind: &str| Value {
        name: name.into(),
        kind: kind.into(),
        ..Value::default()
    };
    let mut request = value("HelloRequest", "HelloRequest");
    request.values.push(value("name", "string"));
    Endpoint {
        request: Some(request),
        response: None,
        metadata: Metadata::from([(keys::PATH, "/greeter.Greeter/Hello")]),
        name: "Greeter.Hello".to_owned(),
    }
}

async fn register(registry: &AnyRegistry, service: &str, version: &str, id: &str) {
    let mut owner = Owner::new(registry, service, id, "10.0.0.1:1");
    owner.service.version = version.to_owned();
    owner.must_heartbeat().await;
}

pub(crate) async fn get_service_groups_by_version(context: &TestContext) -> Verdict {
    let registry = context.open().await;
    let missing = registry.get_service("greeter").await;
    assert!(
        matches!(&missing, Err(Error::NotFound { service }) if service == "greeter"),
        "{missing:?}"
    );
    for (version, id) in [("2", "c"), ("1", "b"), ("2", "a")] {
        register(&registry, "greeter", version, id).await;
    }
    register(&registry, "greeter2", "1", "a").await;
    let found = registry.get_service("greeter").await.expect("it is there");
    let shape: Vec<_> = found
        .iter()
        .map(|service| (service.version.as_str(), service.nodes.len()))
        .collect();
    assert_eq!(shape, [("1", 1), ("2", 2)]);
    assert!(found.iter().all(|service| service.name == "greeter"));
    Ok(())
}

pub(crate) async fn the_list_is_sorted(context: &TestContext) -> Verdict {
    let registry = context.open().await;
    assert_eq!(
        registry
            .list_services()
            .await
            .expect("an empty registry is an empty list"),
        []
    );
    for (service, version, id) in [
        ("b", "1", "1"),
        ("a", "2", "1"),
        ("a", "1", "2"),
        ("a-b", "1", "1"),
        ("a", "2", "3"),
    ] {
        register(&registry, service, version, id).await;
    }
    let found = registry.list_services().await.expect("a list");
    let names: Vec<_> = found
        .iter()
        .map(|service| (service.name.as_str(), service.version.as_str()))
        .collect();
    assert_eq!(names, [("a", "1"), ("a", "2"), ("a-b", "1"), ("b", "1")]);
    Ok(())
}

fn invalid<T>(result: &Result<T>) -> bool {
    matches!(result, Err(Error::Invalid { .. }))
}

pub(crate) async fn names_are_checked(context: &TestContext) -> Verdict {
    let registry = context.open().await;
    for bad in ["", "..", "a/b", "/", "../../a", "a\0b", "-a", ".a", "a..b"] {
        let mut service = Owner::new(&registry, "greeter", "1", "10.0.0.1:1");
        service.service.name = bad.to_owned();
        let mut node = Owner::new(&registry, "greeter", "1", "10.0.0.1:1");
        node.service.nodes[0].id = bad.to_owned();
        for owner in [service, node] {
            assert!(invalid(&owner.heartbeat().await), "registered {bad:?}");
            assert!(invalid(&owner.deregister().await), "deregistered {bad:?}");
        }
        assert!(invalid(&registry.get_service(bad).await), "got {bad:?}");
        assert!(
            invalid(&registry.watch(&WatchOptions::service(bad)).await),
            "watched {bad:?}"
        );
    }
    let mut without_nodes = Owner::new(&registry, "greeter", "1", "10.0.0.1:1");
    without_nodes.service.nodes = Vec::new().into();
    assert!(
        invalid(&without_nodes.heartbeat().await),
        "registered a service without nodes"
    );
    let without_address = Owner::new(&registry, "greeter", "1", "no port");
    assert!(
        invalid(&without_address.heartbeat().await),
        "registered a node without an address"
    );
    assert!(registry.list_services().await.expect("a list").is_empty());
    Ok(())
}

/// A skipped record is named with its reason until it is repaired or deleted, in what is listed and
/// in what is watched.
pub(crate) async fn a_skipped_record_is_counted_until_it_is_repaired(
    context: &TestContext,
) -> Verdict {
    let (listing, watching) = (context.open().await, context.open().await);
    let (long, broken) = (key("greeter", "long"), key("greeter", "broken"));
    let too_long = listing.options().limits.read_bytes() + 1;
    context.put_raw(long.clone(), &vec![b' '; too_long]).await?;
    context.put_raw(broken.clone(), b"{").await?;
    context.put_raw(key("other", "broken"), b"{").await?;
    let mut events = context.check_one(&watching, "greeter").await;
    assert!(listing.list_services().await.expect("a list").is_empty());
    for registry in [&listing, &watching] {
        let skipped = registry.skipped(Some("greeter"));
        let ids: Vec<_> = skipped.first.iter().map(|record| &record.id).collect();
        assert_eq!((skipped.count, ids), (2, vec![&broken.id, &long.id]));
        assert_eq!(
            skipped.first[1].reason, "66 561 bytes, at most 66 560",
            "the length and the limit"
        );
        assert!(registry.skipped(Some("unknown")).is_empty());
    }
    assert_eq!(listing.skipped(None).count, 3);

    let repaired = record("greeter", "broken", "10.0.0.1:1");
    context
        .put_raw(broken.clone(), repaired.to_json().as_bytes())
        .await?;
    events.until_there(&broken).await;
    assert_eq!(watching.skipped(Some("greeter")).count, 1);
    context.put_raw(broken.clone(), b"[").await?;
    events.until_gone(&broken).await;
    assert_eq!(watching.skipped(Some("greeter")).count, 2);

    for key in [long, broken] {
        context.remove_raw(key).await?;
    }
    let owner = Owner::registered(&listing, "greeter", "last", "10.0.0.1:1").await;
    events.until_there(&owner.key()).await;
    listing.list_services().await.expect("a list");
    for registry in [&listing, &watching] {
        assert!(registry.skipped(Some("greeter")).is_empty());
    }
    assert_eq!(listing.skipped(None).count, 1);
    Ok(())
}

pub(crate) async fn a_short_ttl_is_refused(context: &TestContext) -> Verdict {
    let mut owner = Owner::new(&context.open().await, "greeter", "1", "10.0.0.1:1");
    owner.options.ttl = Duration::from_millis(999);
    assert!(invalid(&owner.heartbeat().await));
    owner.options.ttl = Duration::from_secs(1);
    owner.must_heartbeat().await;
    Ok(())
}
