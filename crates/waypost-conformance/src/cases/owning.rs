//! Ownership of records.

use waypost_core::record::Service;
use waypost_core::registry::{AnyRegistry, DeregisterOptions, Error, Event, Result};

use super::Verdict;
use crate::context::{Owner, TestContext};

fn is_taken(result: &Result<()>, by: &str) -> bool {
    matches!(result, Err(Error::IdTaken { id, holder }) if id == "greeter-1" && holder.contains(by))
}

async fn nodes(registry: &AnyRegistry) -> Vec<Service> {
    registry.list_services().await.expect("a list")
}

pub(crate) async fn two_owners_of_one_id(context: &TestContext) -> Verdict {
    let first = Owner::registered(&context.open().await, "greeter", "1", "10.0.0.1:1").await;
    let second = Owner::new(&context.open().await, "greeter", "1", "10.0.0.2:1");
    for _ in 0..2 {
        let refused = second.heartbeat().await;
        assert!(is_taken(&refused, "10.0.0.1:1"), "{refused:?}");
        first.must_heartbeat().await;
    }
    first.must_deregister().await;
    second.must_heartbeat().await;
    let refused = first.heartbeat().await;
    assert!(is_taken(&refused, "10.0.0.2:1"), "{refused:?}");
    assert_eq!(
        nodes(&first.registry).await[0].nodes[0].address,
        "10.0.0.2:1"
    );
    Ok(())
}

pub(crate) async fn a_predecessor_is_taken_over(context: &TestContext) -> Verdict {
    let successor = Owner::new(&context.open().await, "greeter", "1", "10.0.0.1:1");
    // Dropped without being closed, as in a process that died.
    Owner::registered(&context.open_doomed().await, "greeter", "1", "10.0.0.1:1").await;
    successor.must_heartbeat().await;
    let found = nodes(&successor.registry).await;
    assert_eq!(
        found[0].nodes[0].instance(),
        Some(successor.options.instance.as_str())
    );
    successor.must_heartbeat().await;
    Ok(())
}

pub(crate) async fn deregister_removes_only_ours(context: &TestContext) -> Verdict {
    let owner = Owner::registered(&context.open().await, "greeter", "1", "10.0.0.1:1").await;
    let stranger = Owner::new(&context.open().await, "greeter", "1", "10.0.0.1:1");
    let refused = stranger.deregister().await;
    assert!(is_taken(&refused, "10.0.0.1:1"), "{refused:?}");
    assert_eq!(nodes(&stranger.registry).await.len(), 1);
    owner.must_heartbeat().await;
    Ok(())
}

pub(crate) async fn force_removes_any_owners_record(context: &TestContext) -> Verdict {
    let owner = Owner::registered(&context.open().await, "greeter", "1", "10.0.0.1:1").await;
    let other = context.open().await;
    let mut checker = context.check(&other).await;
    other
        .deregister(&owner.service, &DeregisterOptions::force())
        .await
        .expect("forced");
    checker.until_gone(&owner.key()).await;
    let received = checker.received_for(&owner.key());
    assert!(
        matches!(received[..], [Event::Updated(entry), Event::Deleted(_)] if entry.node.is_leaving()),
        "{received:?}"
    );
    owner.must_heartbeat().await;
    checker.until_there(&owner.key()).await;
    Ok(())
}

pub(crate) async fn a_missing_record_may_be_deregistered(context: &TestContext) -> Verdict {
    let owner = Owner::new(&context.open().await, "greeter", "1", "10.0.0.1:1");
    owner.must_deregister().await;
    owner.must_heartbeat().await;
    owner.must_deregister().await;
    owner.must_deregister().await;
    owner
        .registry
        .deregister(&owner.service, &DeregisterOptions::force())
        .await
        .expect("nothing to force");
    Ok(())
}
