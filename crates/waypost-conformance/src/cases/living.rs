//! Lifecycle of a record: creation, heartbeats, and end.

use waypost_core::registry::Event;

use super::Verdict;
use crate::context::{Owner, TestContext};
use crate::event_checker::EventChecker;

/// Returns an owner on one handle, and a follower on another that has seen its record.
async fn seen(stage: &TestContext) -> (Owner, EventChecker) {
    let (registry, other) = (stage.open().await, stage.open().await);
    let owner = Owner::registered(&registry, "greeter", "1", "10.0.0.1:1").await;
    let mut follower = stage.follow(&other).await;
    follower.until_there(&owner.key()).await;
    (owner, follower)
}

/// Asserts that the registry of `owner` lists no service.
async fn must_list_nothing(owner: &Owner) {
    let services = owner.registry.list_services().await.expect("a list");
    assert!(services.is_empty(), "{services:?}");
}

pub(crate) async fn expiry_is_a_loss(stage: &TestContext) -> Verdict {
    let (owner, mut follower) = seen(stage).await;
    stage.expire(&owner.key()).await?;
    follower.until_gone(&owner.key()).await;
    assert_eq!(
        follower.received(&owner.key()),
        [&Event::Deleted(owner.key())]
    );
    must_list_nothing(&owner).await;
    Ok(())
}

pub(crate) async fn deregister_is_a_leave(stage: &TestContext) -> Verdict {
    let (owner, mut follower) = seen(stage).await;
    owner.must_leave().await;
    follower.until_gone(&owner.key()).await;
    let heard = follower.received(&owner.key());
    assert!(
        matches!(heard[..], [Event::Updated(entry), Event::Deleted(_)] if entry.node.is_leaving()),
        "{heard:?}"
    );
    must_list_nothing(&owner).await;
    Ok(())
}

pub(crate) async fn an_unchanged_heartbeat_is_no_news(stage: &TestContext) -> Verdict {
    let (owner, mut follower) = seen(stage).await;
    for _ in 0..5 {
        owner.must_heartbeat().await;
    }
    let marker = Owner::registered(&owner.registry, "greeter", "marker", "10.0.0.9:1").await;
    follower.until_there(&marker.key()).await;
    assert!(
        follower.received(&owner.key()).is_empty(),
        "{:?}",
        follower.heard
    );
    Ok(())
}

pub(crate) async fn changed_metadata_is_an_update(stage: &TestContext) -> Verdict {
    let (mut owner, mut follower) = seen(stage).await;
    owner.set("zone", "b");
    owner.must_heartbeat().await;
    let event = follower.step("an update").await;
    assert!(
        matches!(&event, Event::Updated(entry) if entry.node.metadata.get("zone") == Some("b")),
        "{event:?}"
    );
    owner.service.version = "2".to_owned();
    owner.must_heartbeat().await;
    let event = follower.step("another version").await;
    assert!(
        matches!(&event, Event::Updated(entry) if entry.service.version == "2"),
        "{event:?}"
    );
    Ok(())
}

pub(crate) async fn a_removed_record_comes_back(stage: &TestContext) -> Verdict {
    let (owner, mut follower) = seen(stage).await;
    stage.remove_raw(owner.key()).await?;
    follower.until_gone(&owner.key()).await;
    owner.must_heartbeat().await;
    follower.until_there(&owner.key()).await;
    follower.until_equal(&owner.registry).await;
    Ok(())
}

pub(crate) async fn an_expired_record_comes_back(stage: &TestContext) -> Verdict {
    let (owner, mut follower) = seen(stage).await;
    stage.expire(&owner.key()).await?;
    follower.until_gone(&owner.key()).await;
    owner.must_heartbeat().await;
    follower.until_there(&owner.key()).await;
    follower.until_equal(&owner.registry).await;
    assert_eq!(follower.picture.len(), 1);
    Ok(())
}

pub(crate) async fn an_undecodable_record_is_repaired(stage: &TestContext) -> Verdict {
    let (owner, mut follower) = seen(stage).await;
    stage.put_raw(owner.key(), b"not a record").await?;
    follower.until_gone(&owner.key()).await;
    owner.must_heartbeat().await;
    follower.until_there(&owner.key()).await;
    follower.until_equal(&owner.registry).await;
    assert_eq!(follower.picture.len(), 1);
    Ok(())
}

pub(crate) async fn who_left_may_come_back(stage: &TestContext) -> Verdict {
    let (owner, mut follower) = seen(stage).await;
    for _ in 0..3 {
        owner.must_leave().await;
        follower.until_gone(&owner.key()).await;
        owner.must_heartbeat().await;
        follower.until_there(&owner.key()).await;
        assert!(
            follower
                .picture
                .iter()
                .all(|entry| !entry.node.is_leaving())
        );
    }
    Ok(())
}
