//! Events of a watcher.

use std::sync::Arc;

use tokio::runtime::Builder;
use tokio::task::{JoinSet, spawn_blocking};
use waypost_core::registry::{AnyRegistry, Event, WatchOptions};

use super::Verdict;
use crate::context::{Owner, TestContext, key, record};
use crate::event_checker::EventChecker;
use crate::time::Time;

pub(crate) async fn first_item_is_a_reset(context: &TestContext) -> Verdict {
    let registry = context.open().await;
    assert!(context.check(&registry).await.nodes.is_empty());
    let owner = Owner::registered(&registry, "greeter", "1", "10.0.0.1:1").await;
    let other = context.open().await;
    for checker in [context.check(&registry).await, context.check(&other).await] {
        assert_eq!(checker.nodes.len(), 1);
        assert!(checker.nodes.get(&owner.key()).is_some());
    }
    Ok(())
}

pub(crate) async fn changes_come_in_order(context: &TestContext) -> Verdict {
    let (registry, other) = (context.open().await, context.open().await);
    let mut checker = context.check(&other).await;
    let mut owner = Owner::registered(&registry, "greeter", "1", "10.0.0.1:1").await;
    assert!(
        matches!(checker.step("a creation").await, Event::Created(entry) if entry.key() == owner.key())
    );
    owner.set("zone", "a");
    owner.must_heartbeat().await;
    assert!(
        matches!(checker.step("an update").await, Event::Updated(entry) if entry.node.metadata.get("zone") == Some("a"))
    );
    owner.must_deregister().await;
    assert!(
        matches!(checker.step("the mark").await, Event::Updated(entry) if entry.node.is_leaving())
    );
    assert_eq!(checker.step("the end").await, Event::Deleted(owner.key()));
    Ok(())
}

pub(crate) async fn no_gap_between_list_and_watch(context: &TestContext) -> Verdict {
    const WRITERS: usize = 4;
    let watched = context.open().await;
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        writers.spawn(write_a_lot(context.open().await, writer));
    }
    let mut checkers = Vec::new();
    while !writers.is_empty() {
        checkers.push(context.check(&watched).await);
        writers
            .try_join_next()
            .into_iter()
            .for_each(|ended| ended.expect("a writer writes"));
        tokio::task::yield_now().await;
        if checkers.len() >= 50 {
            writers
                .join_next()
                .await
                .into_iter()
                .for_each(|ended| ended.expect("a writer writes"));
        }
    }
    for checker in &mut checkers {
        checker.until_equal(&watched).await;
        assert_eq!(checker.nodes.len(), WRITERS * 10);
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
            owner.must_deregister().await;
        }
    }
}

pub(crate) async fn every_change_of_a_batch_is_emitted(context: &TestContext) -> Verdict {
    let registry = context.open().await;
    let mut checker = context.check(&registry).await;
    let put = |number: usize, address| {
        let id = number.to_string();
        (
            key("greeter", &id),
            Some(record("greeter", &id, address).to_json().into_bytes()),
        )
    };
    context
        .batch((0..30).map(|number| put(number, "10.0.0.1:1")).collect())
        .await?;
    checker
        .until("all of a batch", |nodes| nodes.len() == 30)
        .await;
    let removed = (0..10).map(|number| (key("greeter", &number.to_string()), None));
    let updated = (10..20).map(|number| put(number, "10.0.0.2:1"));
    let created = (30..40).map(|number| put(number, "10.0.0.3:1"));
    context
        .batch(removed.chain(updated).chain(created).collect())
        .await?;
    let at = |address: &'static str| {
        move |entry: &&waypost_core::record::Entry| entry.node.address == address
    };
    checker
        .until("all of a mixed batch", |nodes| {
            let count = |address| nodes.iter().filter(at(address)).count();
            [
                count("10.0.0.1:1"),
                count("10.0.0.2:1"),
                count("10.0.0.3:1"),
            ] == [10, 10, 10]
        })
        .await;
    checker.until_equal(&registry).await;
    Ok(())
}

pub(crate) async fn a_delete_needs_no_previous_value(context: &TestContext) -> Verdict {
    let registry = context.open().await;
    let gone = key("greeter", "1");
    context
        .put_raw(
            gone.clone(),
            record("greeter", "1", "10.0.0.1:1").to_json().as_bytes(),
        )
        .await?;
    let mut checker = context.check(&registry).await;
    checker.until_there(&gone).await;
    context.remove_raw(gone.clone()).await?;
    assert_eq!(checker.step("a deletion").await, Event::Deleted(gone));
    Ok(())
}

pub(crate) async fn a_garbage_record_hides_nothing(context: &TestContext) -> Verdict {
    let registry = context.open().await;
    let garbage = [
        &b"{"[..],
        b"",
        b"\xff\xfe",
        b"{\"name\":\"other\",\"nodes\":[{\"id\":\"other-1\"}]}",
    ];
    for (number, bytes) in garbage.iter().enumerate() {
        context
            .put_raw(key("greeter", &format!("bad-{number}")), bytes)
            .await?;
    }
    let mut early = context.check(&registry).await;
    let owner = Owner::registered(&registry, "greeter", "good", "10.0.0.1:1").await;
    context.put_raw(key("greeter", "bad-late"), b"[").await?;
    early.until_there(&owner.key()).await;
    let late = context.check(&registry).await;
    for nodes in [&early.nodes, &late.nodes] {
        assert_eq!(nodes.len(), 1);
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

pub(crate) async fn one_service_is_watched_alone(context: &TestContext) -> Verdict {
    let registry = context.open().await;
    Owner::registered(&registry, "other", "before", "10.0.0.1:1").await;
    let mut checker = context.check_one(&registry, "greeter").await;
    assert!(checker.nodes.is_empty());
    let other = Owner::registered(&registry, "other", "1", "10.0.0.1:1").await;
    let longer = Owner::registered(&registry, "greeter2", "1", "10.0.0.1:1").await;
    let owner = Owner::registered(&registry, "greeter", "1", "10.0.0.1:1").await;
    checker.until_there(&owner.key()).await;
    other.must_deregister().await;
    longer.must_deregister().await;
    owner.must_deregister().await;
    checker.until_gone(&owner.key()).await;
    assert_eq!(checker.received.len(), 3, "{:?}", checker.received);
    Ok(())
}

pub(crate) async fn a_cut_gives_a_reset(context: &TestContext) -> Verdict {
    let registry = context.open().await;
    let mut checker = context.check(&registry).await;
    let owner = Owner::registered(&registry, "greeter", "1", "10.0.0.1:1").await;
    checker.until_there(&owner.key()).await;
    context.cut().await?;
    checker.until_reset().await;
    Owner::registered(&registry, "greeter", "2", "10.0.0.2:1").await;
    checker.until_equal(&registry).await;
    assert_eq!(checker.nodes.len(), 2);
    Ok(())
}

pub(crate) async fn next_is_cancel_safe(context: &TestContext) -> Verdict {
    let registry = context.open().await;
    let mut checker = context.check(&registry).await;
    for number in 0..50 {
        Owner::registered(&registry, "greeter", &number.to_string(), "10.0.0.1:1").await;
        checker.poke().await;
    }
    checker
        .until("all that was created", |nodes| nodes.len() == 50)
        .await;
    checker.until_equal(&registry).await;
    Ok(())
}

pub(crate) async fn a_watcher_that_lags_loses_nothing(context: &TestContext) -> Verdict {
    let registry = context.open().await;
    let mut checker = context.check(&registry).await;
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
    checker
        .until("the last round", |nodes| {
            nodes.len() == 40
                && nodes
                    .iter()
                    .all(|entry| entry.node.metadata.get("round") == Some("39"))
        })
        .await;
    checker.until_equal(&registry).await;
    Ok(())
}

/// Checks the watcher of a client in a `static`.
pub(crate) async fn a_watcher_outlives_the_runtime_that_it_was_opened_on(
    context: &TestContext,
) -> Verdict {
    let registry = context.open().await;
    let (watched, time, cut) = (registry.clone(), context.time, Arc::clone(&context.cut));
    let opened = spawn_blocking(move || {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .start_paused(time == Time::Paused)
            .build()
            .expect("a runtime can be built");
        runtime.block_on(EventChecker::open(&watched, WatchOptions::all(), time, cut))
    });
    let mut early = opened.await.expect("a watcher is opened elsewhere");
    let owner = Owner::registered(&registry, "greeter", "1", "10.0.0.1:1").await;
    early.until_there(&owner.key()).await;
    let mut late = context.check(&registry).await;
    owner.must_deregister().await;
    for checker in [&mut early, &mut late] {
        checker.until_gone(&owner.key()).await;
    }
    Ok(())
}
