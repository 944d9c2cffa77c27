//! Closing of a handle. After every case, the runner checks that no task is left.

use waypost_core::registry::{Error, Event, Result, WatchOptions};

use super::Verdict;
use crate::context::{Owner, TestContext};

pub(crate) async fn a_watcher_ends_with_its_registry(context: &TestContext) -> Verdict {
    let (closed, other) = (context.open().await, context.open().await);
    let (mut ends, mut stays) = (context.check(&closed).await, context.check(&other).await);
    let mut unread = closed
        .watch(&WatchOptions::all())
        .await
        .expect("a watch opens");
    closed.close().await.expect("it closes");
    ends.ended().await;
    ends.ended().await;
    while let Some(item) = unread.next().await {
        item.expect("no error");
    }
    let owner = Owner::registered(&other, "greeter", "1", "10.0.0.1:1").await;
    stays.until_there(&owner.key()).await;
    Ok(())
}

pub(crate) async fn a_second_close_does_nothing(context: &TestContext) -> Verdict {
    let registry = context.open().await;
    Owner::registered(&registry, "greeter", "1", "10.0.0.1:1").await;
    registry.close().await.expect("it closes");
    registry.close().await.expect("it stays closed");
    Ok(())
}

fn is_closed<T>(result: &Result<T>) -> bool {
    matches!(result, Err(Error::Closed))
}

pub(crate) async fn calls_after_close_are_closed(context: &TestContext) -> Verdict {
    let registry = context.open().await;
    let owner = Owner::registered(&registry, "greeter", "1", "10.0.0.1:1").await;
    registry.close().await.expect("it closes");
    assert!(is_closed(&owner.heartbeat().await));
    assert!(is_closed(&owner.deregister().await));
    assert!(is_closed(&registry.get_service("greeter").await));
    assert!(is_closed(&registry.list_services().await));
    assert!(is_closed(&registry.watch(&WatchOptions::all()).await));
    Ok(())
}

pub(crate) async fn close_releases_its_registrations(context: &TestContext) -> Verdict {
    let (closed, other) = (context.open().await, context.open().await);
    let gone = Owner::registered(&closed, "greeter", "1", "10.0.0.1:1").await;
    let stays = Owner::registered(&other, "greeter", "2", "10.0.0.2:1").await;
    let mut checker = context.check(&other).await;
    closed.close().await.expect("it closes");
    let left = other.get_service("greeter").await.expect("one is left");
    assert_eq!(
        (left.len(), left[0].nodes.len()),
        (1, 1),
        "close returned before the release: {left:?}"
    );
    checker.until_gone(&gone.key()).await;
    assert_eq!(
        checker.received_for(&gone.key()),
        [&Event::Deleted(gone.key())]
    );
    assert!(checker.nodes.get(&stays.key()).is_some());
    let successor = Owner::new(&other, "greeter", "1", "10.0.0.3:1");
    successor.must_heartbeat().await;
    Ok(())
}
