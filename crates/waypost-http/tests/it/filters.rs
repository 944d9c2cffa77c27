//! The panic of a user's filter does not classify a node: the filter is called again after a
//! backoff.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use waypost_core::balance::{Decision, Filter};
use waypost_http::{ChannelConfig, ServiceChannel};

use crate::net::{World, begin, call};

/// Returns a filter that accepts `a` and `b`, rejects `c`, and panics on `a` the next `panics`
/// times.
fn shaky(panics: &Arc<AtomicUsize>) -> Filter {
    let panics = Arc::clone(panics);
    Filter::predicate(move |entry| {
        let once_more = || {
            panics
                .fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1))
                .is_ok()
        };
        assert!(!entry.node.id.ends_with('a') || !once_more(), "by the test");
        !entry.node.id.ends_with('c')
    })
}

fn picked(sender: &ServiceChannel) -> Vec<String> {
    let nodes = sender
        .snapshot()
        .nodes
        .into_iter()
        .filter(|node| node.decision == Decision::Picked);
    nodes
        .map(|node| node.id.trim_start_matches("echo-").to_owned())
        .collect()
}

async fn until_both_are_picked(sender: &ServiceChannel, what: &str) {
    let start = Instant::now();
    while picked(sender) != ["a", "b"] {
        assert!(
            start.elapsed() < Duration::from_secs(300),
            "{what}: {:?}",
            sender.snapshot().nodes
        );
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_a_filter_panicked_on_is_used_once_the_filter_has_an_answer() {
    for panics in [1, 2, 5] {
        let world = World::new();
        let hosts = [
            world.host("a").await,
            world.host("b").await,
            world.host("c").await,
        ];
        let left = Arc::new(AtomicUsize::new(panics));
        let mut config = ChannelConfig::default();
        config.balance.filters.push(shaky(&left));
        let sender = world.sender_with(config);
        call(&sender, "/act", "hi").await.unwrap();
        until_both_are_picked(&sender, "from the start").await;
        assert_eq!(left.load(Relaxed), 0);
        // When a record changes, the filter is called for the old record and for the new one.
        left.store(panics, Relaxed);
        world.relabel("a").await;
        sleep(Duration::from_secs(1)).await;
        until_both_are_picked(&sender, "after a change").await;
        // No node is counted twice or lost.
        sleep(Duration::from_secs(120)).await;
        hosts.iter().for_each(crate::net::Host::kill);
        sleep(Duration::from_secs(1)).await;
        let error = begin(&sender, "/act", "hi", Some(Duration::from_millis(500)))
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("3 known, 0 ready, 2 not_connected, 1 predicate"),
            "{error}"
        );
        assert_eq!(hosts[2].dialled.load(Relaxed), 0);
    }
}
