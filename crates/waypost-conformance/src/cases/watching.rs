//! Events of a watcher.

use std::sync::Arc;

use tokio::runtime::Builder;
use tokio::task::{JoinSet, spawn_blocking};
use waypost_core::registry::{AnyRegistry, Event, WatchOptions};

use super::Verdict;
use crate::context::{Owner, TestContext, key, record};
use crate::event_checker::EventChecker;

pub(crate) async fn first_item_is_a_reset(stage: &TestContext) -> Verdict {
    let registry = stage.open().await;
    assert!(stage.follow(&registry).await.picture.is_empty());
    let owner = Owner::registered(&registry, "greeter", "1", "10.0.0.1:1").await;
    let other = stage.open().await;
    for follower in [stage.follow(&registry).await, stage.follow(&other).await] {
        assert_eq!(follower.picture.len(), 1);
        assert!(follower.picture.get(&owner.key()).is_some());
    }
    Ok(())
}

pub(crate) async fn changes_come_in_order(stage: &TestContext) -> Verdict {
    let (registry, other) = (stage.open().await, stage.open().await);
    let mut follower = stage.follow(&other).await;
    let mut owner = Owner::registered(&registry, "greeter", "1", "10.0.0.1:1").await;
    assert!(
        matches!(follower.step("a creation").await, Event::Created(entry) if entry.key() == owner.key())
    );
    owner.set("zone", "a");
    owner.must_heartbeat().await;
    assert!(
        matches!(follower.step("an update").await, Event::Updated(entry) if entry.node.metadata.get("zone") == Some("a"))
    );
    owner.must_leave().await;
    assert!(
        matches!(follower.step("the mark").await, Event::Updated(entry) if entry.node.is_leaving())
    );
    assert_eq!(follower.step("the end").await, Event::Deleted(owner.key()));
    Ok(())
}

pub(crate) async fn no_gap_between_list_and_watch(stage: &TestContext) -> Verdict {
    const WRITERS: usize = 4;
    let watched = stage.open().await;
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        writers.spawn(write_a_lot(stage.open().await, writer));
    }
    let mut followers = Vec::new();
    while !writers.is_empty() {
        followers.push(stage.follow(&watched).await);
        writers
            .try_join_next()
            .into_iter()
            .for_each(|ended| ended.expect("a writer writes"));
        tokio::task::yield_now().await;
        if followers.len() >= 50 {
            writers
                .join_next()
                .await
                .into_iter()
                .for_each(|ended| ended.expect("a writer writes"));
        }
    }
    for follower in &mut followers {
        follower.until_equal(&watched).await;
        assert_eq!(follower.picture.len(), WRITERS * 10);
    }
    Ok(())
}

async fn write_a_lot(registry: AnyRegistry, writer: usize) {
    for number in 0..20 {
        let owner = Owner::registered(
            &registry,
            "greeter",
            &format!("{writer}-{number}"),
            "10.0.0.1:1",
        )
        .await;
        tokio::task::yield_now().await;
        if number % 2 == 1 {
            owner.must_leave().await;
        }
    }
}

pub(crate) async fn every_change_of_a_batch_is_told(stage: &TestContext) -> Verdict {
    let registry = stage.open().await;
    let mut follower = stage.follow(&registry).await;
    let put = |number: usize, address| {
        let id = number.to_string();
        (
            key("greeter", &id),
            Some(record("greeter", &id, address).to_json().into_bytes()),
        )
    };
    stage
        .batch((0..30).map(|number| put(number, "10.0.0.1:1")).collect())
        .await?;
    follower
        .until("all of a batch", |picture| picture.len() == 30)
        .await;
    let removed = (0..10).map(|number| (key("greeter", &number.to_string()), None));
    let updated = (10..20).map(|number| put(number, "10.0.0.2:1"));
    let created = (30..40).map(|number| put(number, "10.0.0.3:1"));
    stage
        .batch(removed.chain(updated).chain(created).collect())
        .await?;
    let at = |address: &'static str| {
        move |entry: &&waypost_core::record::Entry| entry.node.address == address
    };
    follower
        .until("all of a mixed batch", |picture| {
            let count = |address| picture.iter().filter(at(address)).count();
            [
                count("10.0.0.1:1"),
                count("10.0.0.2:1"),
                count("10.0.0.3:1"),
            ] == [10, 10, 10]
        })
        .await;
    follower.until_equal(&registry).await;
    Ok(())
}

pub(crate) async fn a_delete_needs_no_previous_value(stage: &TestContext) -> Verdict {
    let registry = stage.open().await;
    let gone = key("greeter", "1");
    stage
        .put_raw(
            gone.clone(),
            record("greeter", "1", "10.0.0.1:1").to_json().as_bytes(),
        )
        .await?;
    let mut follower = stage.follow(&registry).await;
    follower.until_there(&gone).await;
    stage.remove_raw(gone.clone()).await?;
    assert_eq!(follower.step("a deletion").await, Event::Deleted(gone));
    Ok(())
}

pub(crate) async fn a_garbage_record_hides_nothing(stage: &TestContext) -> Verdict {
    let registry = stage.open().await;
    let garbage = [
        &b"{"[..],
        b"",
        b"\xff\xfe",
        b"{\"name\":\"other\",\"nodes\":[{\"id\":\"other-1\"}]}",
    ];
    for (number, bytes) in garbage.iter().enumerate() {
        stage
            .put_raw(key("greeter", &format!("bad-{number}")), bytes)
            .await?;
    }
    let mut early = stage.follow(&registry).await;
    let owner = Owner::registered(&registry, "greeter", "good", "10.0.0.1:1").await;
    stage.put_raw(key("greeter", "bad-late"), b"[").await?;
    early.until_there(&owner.key()).await;
    let late = stage.follow(&registry).await;
    for picture in [&early.picture, &late.picture] {
        assert_eq!(picture.len(), 1);
    }
    assert_eq!(registry.list_services().await.expect("a list").len(), 1);
    assert_eq!(
        registry.get_service("greeter").await.expect("a service")[0]
            .nodes
            .len(),
        1
    );
    early.until_equal(&registry).await;
    Ok(())
}

pub(crate) async fn one_service_is_watched_alone(stage: &TestContext) -> Verdict {
    let registry = stage.open().await;
    Owner::registered(&registry, "other", "before", "10.0.0.1:1").await;
    let mut follower = stage.follow_one(&registry, "greeter").await;
    assert!(follower.picture.is_empty());
    let other = Owner::registered(&registry, "other", "1", "10.0.0.1:1").await;
    let longer = Owner::registered(&registry, "greeter2", "1", "10.0.0.1:1").await;
    let owner = Owner::registered(&registry, "greeter", "1", "10.0.0.1:1").await;
    follower.until_there(&owner.key()).await;
    other.must_leave().await;
    longer.must_leave().await;
    owner.must_leave().await;
    follower.until_gone(&owner.key()).await;
    assert_eq!(follower.heard.len(), 3, "{:?}", follower.heard);
    Ok(())
}

pub(crate) async fn a_cut_gives_a_reset(stage: &TestContext) -> Verdict {
    let registry = stage.open().await;
    let mut follower = stage.follow(&registry).await;
    let owner = Owner::registered(&registry, "greeter", "1", "10.0.0.1:1").await;
    follower.until_there(&owner.key()).await;
    stage.cut().await?;
    follower.until_reset().await;
    Owner::registered(&registry, "greeter", "2", "10.0.0.2:1").await;
    follower.until_equal(&registry).await;
    assert_eq!(follower.picture.len(), 2);
    Ok(())
}

pub(crate) async fn next_is_cancel_safe(stage: &TestContext) -> Verdict {
    let registry = stage.open().await;
    let mut follower = stage.follow(&registry).await;
    for number in 0..50 {
        Owner::registered(&registry, "greeter", &number.to_string(), "10.0.0.1:1").await;
        follower.poke().await;
    }
    follower
        .until("all that was created", |picture| picture.len() == 50)
        .await;
    follower.until_equal(&registry).await;
    Ok(())
}

pub(crate) async fn a_watcher_that_lags_loses_nothing(stage: &TestContext) -> Verdict {
    let registry = stage.open().await;
    let mut follower = stage.follow(&registry).await;
    let mut owners = Vec::new();
    for number in 0..40 {
        owners
            .push(Owner::registered(&registry, "greeter", &number.to_string(), "10.0.0.1:1").await);
    }
    for round in 0..40 {
        for owner in &mut owners {
            owner.set("round", &round.to_string());
            owner.must_heartbeat().await;
        }
    }
    follower
        .until("the last round", |picture| {
            picture.len() == 40
                && picture
                    .iter()
                    .all(|entry| entry.node.metadata.get("round") == Some("39"))
        })
        .await;
    follower.until_equal(&registry).await;
    Ok(())
}

/// Checks the watcher of a client in a `static`.
pub(crate) async fn a_watcher_outlives_the_runtime_that_it_was_opened_on(
    stage: &TestContext,
) -> Verdict {
    let registry = stage.open().await;
    let (watched, time, cut) = (registry.clone(), stage.time, Arc::clone(&stage.cut));
    let opened = spawn_blocking(move || {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime can be built");
        runtime.block_on(EventChecker::open(&watched, WatchOptions::all(), time, cut))
    });
    let mut early = opened.await.expect("a watcher is opened elsewhere");
    let owner = Owner::registered(&registry, "greeter", "1", "10.0.0.1:1").await;
    early.until_there(&owner.key()).await;
    let mut late = stage.follow(&registry).await;
    owner.must_leave().await;
    for follower in [&mut early, &mut late] {
        follower.until_gone(&owner.key()).await;
    }
    Ok(())
}
