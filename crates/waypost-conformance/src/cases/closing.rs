//! Closing of a handle. After every case, the runner checks that no task is left.

use waypost_core::registry::{Error, Event, Result, WatchOptions};

use super::Verdict;
use crate::context::{Owner, TestContext};

pub(crate) async fn a_watcher_ends_with_its_registry(stage: &TestContext) -> Verdict {
    let (closed, other) = (stage.open().await, stage.open().await);
    let (mut ends, mut stays) = (stage.follow(&closed).await, stage.follow(&other).await);
    let mut unread = closed
        .watch(&WatchOptions::all())
        .await
        .expect("a watch opens");
    closed.close().await.expect("it closes");
    ends.ended().await;
    ends.ended().await;
    while let Some(item) = unread.next().await {
        item.expect("no trouble");
    }
    let owner = Owner::registered(&other, "greeter", "1", "10.0.0.1:1").await;
    stays.until_there(&owner.key()).await;
    Ok(())
}

pub(crate) async fn closing_twice_is_closing_once(stage: &TestContext) -> Verdict {
    let registry = stage.open().await;
    Owner::registered(&registry, "greeter", "1", "10.0.0.1:1").await;
    registry.close().await.expect("it closes");
    registry.close().await.expect("it stays closed");
    Ok(())
}

fn is_closed<T>(result: &Result<T>) -> bool {
    matches!(result, Err(Error::Closed))
}

pub(crate) async fn calls_after_close_are_closed(stage: &TestContext) -> Verdict {
    let registry = stage.open().await;
    let owner = Owner::registered(&registry, "greeter", "1", "10.0.0.1:1").await;
    registry.close().await.expect("it closes");
    assert!(is_closed(&owner.heartbeat().await));
    assert!(is_closed(&owner.leave().await));
    assert!(is_closed(&registry.get_service("greeter").await));
    assert!(is_closed(&registry.list_services().await));
    assert!(is_closed(&registry.watch(&WatchOptions::all()).await));
    Ok(())
}

pub(crate) async fn close_lets_go_of_what_it_registered(stage: &TestContext) -> Verdict {
    let (closed, other) = (stage.open().await, stage.open().await);
    let gone = Owner::registered(&closed, "greeter", "1", "10.0.0.1:1").await;
    let stays = Owner::registered(&other, "greeter", "2", "10.0.0.2:1").await;
    let mut follower = stage.follow(&other).await;
    closed.close().await.expect("it closes");
    let left = other.get_service("greeter").await.expect("one is left");
    assert_eq!(
        (left.len(), left[0].nodes.len()),
        (1, 1),
        "close returned before it had let go: {left:?}"
    );
    follower.until_gone(&gone.key()).await;
    assert_eq!(
        follower.received(&gone.key()),
        [&Event::Deleted(gone.key())]
    );
    assert!(follower.picture.get(&stays.key()).is_some());
    let heir = Owner::new(&other, "greeter", "1", "10.0.0.3:1");
    heir.must_heartbeat().await;
    Ok(())
}
