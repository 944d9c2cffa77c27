//! Tests of the selector: nodes for callers that connect on their own.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use waypost_core::balance::{Config, Filter, RoundRobin, SelectError, Selector};
use waypost_core::directory::{self, Directory};
use waypost_core::memory::MemoryRegistry;
use waypost_core::peer::AttemptEnd;
use waypost_core::record::{Entry, Node, Service};
use waypost_core::registry::{AnyRegistry, Instance, RegisterOptions, Registry};

async fn town(nodes: usize) -> (MemoryRegistry, AnyRegistry) {
    let memory = MemoryRegistry::new();
    for id in 0..nodes {
        let mut service = Service::new("greeter");
        let mut node = Node::with_id("greeter", &id.to_string(), format!("127.0.0.1:{}", id + 1));
        node.metadata
            .insert("zone", if id == 0 { "near" } else { "far" });
        service.nodes.push(node);
        let options = RegisterOptions {
            ttl: Duration::from_secs(60),
            instance: Instance::from("me"),
        };
        memory.register(&service, &options).await.unwrap();
    }
    let registry = AnyRegistry::new(memory.open());
    (memory, registry)
}

fn selectors(registry: &AnyRegistry, config: impl Fn() -> Config) -> [Selector; 2] {
    let directory = Directory::new(registry.clone(), directory::Config::default());
    [
        Selector::cached(directory, config()),
        Selector::uncached(registry.clone(), config()),
    ]
}

#[tokio::test(start_paused = true)]
async fn each_node_comes_once_before_any_comes_again() {
    let (_memory, registry) = town(5).await;
    for selector in selectors(&registry, Config::default) {
        let mut next = selector.select("greeter").await.unwrap();
        for _ in 0..3 {
            let ids: HashSet<_> = (0..5)
                .map(|_| next.next().unwrap().node().id.clone())
                .collect();
            assert_eq!(ids.len(), 5);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn round_robin_goes_on_from_call_to_call() {
    let (_memory, registry) = town(3).await;
    let strategy = Arc::new(RoundRobin::default());
    let config = || {
        let mut config = Config::default();
        config.strategy = Arc::clone(&strategy) as _;
        config
    };
    let [selector, _] = selectors(&registry, config);
    let mut ids = Vec::new();
    for _ in 0..6 {
        ids.push(
            selector
                .select("greeter")
                .await
                .unwrap()
                .next()
                .unwrap()
                .node()
                .id
                .clone(),
        );
    }
    assert_eq!(ids[..3], ids[3..]);
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_selected_node_is_in_flight_until_it_is_finished_or_dropped() {
    let (_memory, registry) = town(2).await;
    let [selector, _] = selectors(&registry, Config::default);
    let busy = selector.select("greeter").await.unwrap().next().unwrap();
    for round in 0..20 {
        let other = selector.select("greeter").await.unwrap().next().unwrap();
        assert_ne!(other.node().id, busy.node().id, "fewer calls in flight");
        if round % 2 == 0 {
            other.finish(AttemptEnd::Answered);
        }
    }
    drop(busy);
    let mut seen = HashSet::new();
    for _ in 0..64 {
        let selected = selector.select("greeter").await.unwrap().next().unwrap();
        seen.insert(selected.node().id.clone());
    }
    // Two nodes have the same load: 64 draws miss one of them with a probability of 1 in 2^63.
    assert_eq!(seen.len(), 2);
}

/// A caller that is cancelled again and again, as by a timeout around its call.
#[tokio::test(start_paused = true)]
async fn sixty_cancelled_callers_leave_the_shares_even() {
    let (_memory, registry) = town(3).await;
    let [selector, _] = selectors(&registry, Config::default);
    for _ in 0..60 {
        let call = async {
            let _selected = selector.select("greeter").await.unwrap().next().unwrap();
            std::future::pending::<()>().await;
        };
        assert!(
            tokio::time::timeout(Duration::from_millis(1), call)
                .await
                .is_err()
        );
    }
    let mut shares = std::collections::HashMap::<String, usize>::new();
    for _ in 0..600 {
        let selected = selector.select("greeter").await.unwrap().next().unwrap();
        *shares.entry(selected.node().id.clone()).or_default() += 1;
        selected.finish(AttemptEnd::Answered);
    }
    // Least request of two equal choices is a draw among three: 200 each, with a deviation of 12.
    assert!(
        shares.len() == 3 && shares.values().all(|share| (140..=260).contains(share)),
        "{shares:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_is_reported() {
    let (memory, registry) = town(2).await;
    for selector in selectors(&registry, Config::default) {
        let error = selector.select("unknown").await.unwrap_err();
        assert!(
            matches!(error, SelectError::NoNode { known: 0, .. }),
            "{error}"
        );
        assert!(matches!(
            selector.select("a/b").await.unwrap_err(),
            SelectError::Name(_)
        ));
    }
    let far = || {
        let mut config = Config::default();
        config.filters.push(Filter::Version("2".into()));
        config
    };
    for selector in selectors(&registry, far) {
        let error = selector.select("greeter").await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "no node of \"greeter\" passes the filters; the registry knows 2"
        );
    }
    memory.faults().set_unreachable(true);
    for selector in selectors(&registry, Config::default) {
        assert!(matches!(
            selector.select("greeter").await.unwrap_err(),
            SelectError::Registry { .. }
        ));
    }
}

#[tokio::test(start_paused = true)]
async fn cached_outlives_an_outage_and_sees_changes() {
    let (memory, registry) = town(1).await;
    let [cached, uncached] = selectors(&registry, Config::default);
    cached.select("greeter").await.unwrap();
    memory.faults().set_unreachable(true);
    tokio::time::sleep(Duration::from_secs(10)).await;
    cached.select("greeter").await.unwrap();
    assert!(uncached.select("greeter").await.is_err());
    memory.faults().set_unreachable(false);
    tokio::time::sleep(Duration::from_secs(5)).await;
    memory.faults().remove_raw("greeter", "greeter-0");
    tokio::time::sleep(Duration::from_secs(16)).await;
    assert!(matches!(
        cached.select("greeter").await.unwrap_err(),
        SelectError::NoNode { .. }
    ));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_a_filter_panicked_on_is_selected_once_the_filter_has_an_answer() {
    let (_memory, registry) = town(2).await;
    let config = || {
        let asked = AtomicUsize::new(0);
        let mut config = Config::default();
        let filter = move |_: &Entry| {
            assert_ne!(asked.fetch_add(1, Relaxed), 0, "by the test");
            true
        };
        config.filters.push(Filter::predicate(filter));
        config
    };
    for selector in selectors(&registry, config) {
        let ids = async || {
            let mut next = selector.select("greeter").await.unwrap();
            (0..2)
                .map(|_| next.next().unwrap().node().id.clone())
                .collect::<HashSet<_>>()
                .len()
        };
        assert_eq!(ids().await, 1);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(ids().await, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_whose_record_is_skipped_is_distinguished_from_one_without_nodes() {
    let (memory, registry) = town(0).await;
    memory.faults().put_raw("greeter", "greeter-1", "{");
    for selector in selectors(&registry, Config::default) {
        let text = selector.select("greeter").await.unwrap_err().to_string();
        assert!(
            text.contains("the registry knows 0; 1 record skipped: ")
                && text.ends_with(r#"(node "greeter-1")"#),
            "{text}"
        );
        let text = selector.select("unknown").await.unwrap_err().to_string();
        assert!(text.ends_with("the registry knows 0"), "{text}");
    }
}
