//! Lifecycle of a record: creation, heartbeats, and end.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use waypost_core::registry::{AnyRegistry, Event};

use super::Verdict;
use crate::context::{Owner, TestContext};
use crate::event_checker::EventChecker;

/// Returns an owner on one handle, and a checker on another that has seen its record.
async fn seen(context: &TestContext) -> (Owner, EventChecker) {
    let (registry, other) = (context.open().await, context.open().await);
    let owner = Owner::registered(&registry, "greeter", "1", "10.0.0.1:1").await;
    let mut checker = context.check(&other).await;
    checker.until_there(&owner.key()).await;
    (owner, checker)
}

/// TTL of the cases that wait for its end.
const TTL: Duration = Duration::from_secs(3);
/// Time that a registry may take to find that a record has expired.
const LATE: Duration = Duration::from_secs(5);

/// Registers a record with a short TTL.
async fn short(registry: &AnyRegistry, service: &str) -> Owner {
    let mut owner = Owner::new(registry, service, "1", "10.0.0.1:1");
    owner.options.ttl = TTL;
    owner.must_heartbeat().await;
    owner
}

/// Returns true if the registry lists the record.
async fn has(registry: &AnyRegistry, owner: &Owner) -> bool {
    let services = registry.list_services().await.expect("a list");
    services
        .iter()
        .any(|service| service.name == owner.service.name)
}

/// Asserts that the record stays for its TTL since `begun`, and ends soon after that.
async fn must_expire(context: &TestContext, registry: &AnyRegistry, owner: &Owner, begun: Instant) {
    while has(registry, owner).await {
        let age = begun.elapsed();
        let limit = if context.expires() { TTL + LATE } else { TTL };
        if age > limit {
            assert!(!context.expires(), "it is there after {age:?}");
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
    let age = begun.elapsed();
    assert!(context.expires(), "it is gone although its handle is open");
    assert!(age >= TTL, "it is gone after {age:?}");
}

/// Asserts that the registry of `owner` lists no service.
async fn must_list_nothing(owner: &Owner) {
    let services = owner.registry.list_services().await.expect("a list");
    assert!(services.is_empty(), "{services:?}");
}

pub(crate) async fn expiry_is_a_loss(context: &TestContext) -> Verdict {
    let (owner, mut checker) = seen(context).await;
    context.expire(&owner.key()).await?;
    checker.until_gone(&owner.key()).await;
    assert_eq!(
        checker.received_for(&owner.key()),
        [&Event::Deleted(owner.key())]
    );
    must_list_nothing(&owner).await;
    Ok(())
}

pub(crate) async fn deregister_is_a_leave(context: &TestContext) -> Verdict {
    let (owner, mut checker) = seen(context).await;
    owner.must_deregister().await;
    checker.until_gone(&owner.key()).await;
    let received = checker.received_for(&owner.key());
    assert!(
        matches!(received[..], [Event::Updated(entry), Event::Deleted(_)] if entry.node.is_leaving()),
        "{received:?}"
    );
    must_list_nothing(&owner).await;
    Ok(())
}

pub(crate) async fn an_unchanged_heartbeat_emits_no_event(context: &TestContext) -> Verdict {
    let (owner, mut checker) = seen(context).await;
    for _ in 0..5 {
        owner.must_heartbeat().await;
    }
    let marker = Owner::registered(&owner.registry, "greeter", "marker", "10.0.0.9:1").await;
    checker.until_there(&marker.key()).await;
    assert!(
        checker.received_for(&owner.key()).is_empty(),
        "{:?}",
        checker.received
    );
    Ok(())
}

pub(crate) async fn changed_metadata_is_an_update(context: &TestContext) -> Verdict {
    let (mut owner, mut checker) = seen(context).await;
    owner.set("zone", "b");
    owner.must_heartbeat().await;
    let event = checker.step("an update").await;
    assert!(
        matches!(&event, Event::Updated(entry) if entry.node.metadata.get("zone") == Some("b")),
        "{event:?}"
    );
    owner.service.version = "2".to_owned();
    owner.must_heartbeat().await;
    let event = checker.step("another version").await;
    assert!(
        matches!(&event, Event::Updated(entry) if entry.service.version == "2"),
        "{event:?}"
    );
    Ok(())
}

pub(crate) async fn a_removed_record_comes_back(context: &TestContext) -> Verdict {
    let (owner, mut checker) = seen(context).await;
    context.remove_raw(owner.key()).await?;
    checker.until_gone(&owner.key()).await;
    owner.must_heartbeat().await;
    checker.until_there(&owner.key()).await;
    checker.until_equal(&owner.registry).await;
    Ok(())
}

pub(crate) async fn an_expired_record_comes_back(context: &TestContext) -> Verdict {
    let (owner, mut checker) = seen(context).await;
    context.expire(&owner.key()).await?;
    checker.until_gone(&owner.key()).await;
    owner.must_heartbeat().await;
    checker.until_there(&owner.key()).await;
    checker.until_equal(&owner.registry).await;
    assert_eq!(checker.nodes.len(), 1);
    Ok(())
}

pub(crate) async fn an_undecodable_record_is_repaired(context: &TestContext) -> Verdict {
    let (owner, mut checker) = seen(context).await;
    context.put_raw(owner.key(), b"not a record").await?;
    checker.until_gone(&owner.key()).await;
    owner.must_heartbeat().await;
    checker.until_there(&owner.key()).await;
    checker.until_equal(&owner.registry).await;
    assert_eq!(checker.nodes.len(), 1);
    Ok(())
}

pub(crate) async fn a_deregistered_node_may_return(context: &TestContext) -> Verdict {
    let (owner, mut checker) = seen(context).await;
    for _ in 0..3 {
        owner.must_deregister().await;
        checker.until_gone(&owner.key()).await;
        owner.must_heartbeat().await;
        checker.until_there(&owner.key()).await;
        assert!(checker.nodes.iter().all(|entry| !entry.node.is_leaving()));
    }
    Ok(())
}

pub(crate) async fn a_record_without_heartbeats_ends_after_its_ttl(
    context: &TestContext,
) -> Verdict {
    let (registry, other) = (context.open().await, context.open().await);
    let begun = Instant::now();
    let owner = short(&registry, "greeter").await;
    must_expire(context, &other, &owner, begun).await;
    Ok(())
}

pub(crate) async fn heartbeats_keep_a_record(context: &TestContext) -> Verdict {
    let (registry, other) = (context.open().await, context.open().await);
    let owner = short(&registry, "greeter").await;
    let mut checker = context.check(&other).await;
    checker.until_there(&owner.key()).await;
    let begun = Instant::now();
    while begun.elapsed() < TTL * 3 {
        sleep(TTL / 3).await;
        owner.must_heartbeat().await;
        assert!(has(&other, &owner).await, "{:?}", begun.elapsed());
    }
    let marker = Owner::registered(&registry, "other", "marker", "10.0.0.9:1").await;
    checker.until_there(&marker.key()).await;
    let received = checker.received_for(&owner.key());
    assert!(received.is_empty(), "it was lost in between: {received:?}");
    Ok(())
}

/// Registrations of one handle may share a lease.
pub(crate) async fn a_registration_does_not_keep_another_of_its_handle(
    context: &TestContext,
) -> Verdict {
    let (registry, other) = (context.open().await, context.open().await);
    let staying = short(&registry, "staying").await;
    let begun = Instant::now();
    let ending = short(&registry, "ending").await;
    let beating = async {
        loop {
            sleep(TTL / 3).await;
            staying.must_heartbeat().await;
        }
    };
    tokio::select! {
        () = must_expire(context, &other, &ending, begun) => {}
        () = beating => {}
    }
    assert!(has(&other, &staying).await);
    Ok(())
}
