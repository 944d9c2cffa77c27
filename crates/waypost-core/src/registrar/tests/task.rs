//! Tests of the whole registrar with a scripted registry, in paused time, in which a wait costs
//! nothing and is exact.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::scripted::{Asked, Mood, Scripted};
use crate::record::{Node, Service, keys};
use crate::registrar::{CheckError, Config, Registration, RegistrationBuilder, State};
use crate::registry::{AnyRegistry, Error};

fn service() -> Service {
    let mut service = Service::new("greeter");
    service
        .nodes
        .push(Node::with_id("greeter", "1", "10.0.0.7:7000"));
    service
}

fn builder(registry: &Scripted) -> RegistrationBuilder {
    Registration::builder(AnyRegistry::new(registry.clone()), service())
}

fn alive() -> usize {
    tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks()
}

async fn reach(registration: &Registration, name: &str) -> State {
    let mut watch = registration.watch();
    let state = timeout(
        Duration::from_secs(60),
        watch.wait_for(|state| state.name() == name),
    )
    .await;
    state
        .expect("it comes in time")
        .expect("it goes on")
        .clone()
}

#[tokio::test(start_paused = true)]
async fn heartbeats_come_every_interval_and_the_end_leaves_nothing() {
    let registry = Scripted::new(Mood::Well);
    let start = Instant::now();
    let registration = builder(&registry).start().unwrap();
    assert_eq!(registration.state(), State::Starting);
    registration.registered().await.unwrap();
    sleep(Duration::from_millis(15_500)).await;
    registration.close().await.unwrap();
    let mut asked = registry.asked(start);
    assert_eq!(asked.pop(), Some((15_500, Asked::Deregister)));
    assert_eq!(asked[0], (0, Asked::Register));
    let first = asked[1].0;
    assert!(
        (1..=5000).contains(&first),
        "the first heartbeat is within an interval: {first}"
    );
    let heartbeats: Vec<_> = (first..=15_500)
        .step_by(5000)
        .map(|at| (at, Asked::Register))
        .collect();
    assert_eq!(asked[1..], heartbeats);
    assert_eq!(registry.node(), None);
    assert_eq!(alive(), 0, "no task left");
}

/// Samples the phase of the heartbeats on many handles. The probability that the phases do not
/// cover all four quarters of the interval is at most 4 × 0.75^100.
#[tokio::test(start_paused = true)]
async fn handles_heartbeat_each_at_its_own_time_and_what_shares_one_heartbeats_together() {
    let start = Instant::now();
    let mut quarters = [false; 4];
    for _ in 0..100 {
        let registry = Scripted::new(Mood::Well);
        let handle = AnyRegistry::new(registry.clone());
        let begin = start.elapsed().as_millis();
        let first = Registration::builder(handle.clone(), service())
            .start()
            .unwrap();
        first.registered().await.unwrap();
        sleep(Duration::from_millis(777)).await;
        let second = Registration::builder(handle.clone(), service())
            .start()
            .unwrap();
        // Wait for three intervals: the heartbeats at the two starts are left out below, and two
        // remain.
        sleep(Duration::from_secs(15)).await;
        let times: Vec<_> = registry
            .asked(start)
            .into_iter()
            .map(|(at, _)| at - begin)
            .collect();
        let heartbeats: Vec<_> = times
            .into_iter()
            .filter(|at| ![0, 777].contains(at))
            .collect();
        quarters[usize::try_from(heartbeats[heartbeats.len() - 1] % 5000 / 1250).unwrap()] = true;
        let last = &heartbeats[heartbeats.len() - 4..];
        assert_eq!(
            (last[0], last[2]),
            (last[1], last[3]),
            "together: {heartbeats:?}"
        );
        assert_eq!(last[2] - last[0], 5000, "an interval apart: {heartbeats:?}");
        drop((first, second));
    }
    assert_eq!(quarters, [true; 4]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_record_is_back_within_an_interval_with_the_same_instance() {
    let registry = Scripted::new(Mood::Well);
    let registration = builder(&registry).start().unwrap();
    registration.registered().await.unwrap();
    let instance = registry.node().unwrap().instance().unwrap().to_owned();
    registry.lose();
    sleep(Duration::from_millis(5001)).await;
    assert_eq!(
        registry.node().expect("repaired").instance(),
        Some(instance.as_str())
    );
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_retried_within_bounds_reported_and_survived() {
    let registry = Scripted::new(Mood::Away);
    let start = Instant::now();
    let registration = builder(&registry).start().unwrap();
    let State::Failing {
        why,
        registered_before: false,
        ..
    } = reach(&registration, "failing").await
    else {
        panic!()
    };
    assert_eq!(
        why,
        "the scripted registry is unavailable: no route: down for the test"
    );
    sleep(Duration::from_secs(60)).await;
    let asked = registry.asked(start);
    assert!(
        asked.windows(2).all(|pair| pair[1].0 - pair[0].0 <= 2001),
        "never more than 2 s between attempts: {asked:?}"
    );
    assert!(
        (30..200).contains(&asked.len()),
        "full jitter up to 2 s is one attempt a second: {}",
        asked.len()
    );
    registry.set(Mood::Well);
    timeout(Duration::from_secs(3), registration.registered())
        .await
        .unwrap()
        .unwrap();
    registry.set(Mood::Away);
    assert!(matches!(
        reach(&registration, "failing").await,
        State::Failing {
            registered_before: true,
            ..
        }
    ));
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_hangs_or_panics_is_a_failure_like_any_other() {
    for (mood, text) in [
        (Mood::Hangs, "no answer within 2.5s"),
        (Mood::Panics, "it failed inside"),
    ] {
        let registry = Scripted::new(mood);
        let registration = builder(&registry).start().unwrap();
        let State::Failing { why, .. } = reach(&registration, "failing").await else {
            panic!()
        };
        assert!(why.contains(text), "{why}");
        registry.set(Mood::Well);
        registration.registered().await.unwrap();
        registration.close().await.unwrap();
        assert_eq!(alive(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn draining_leaves_first_then_serves_on_for_the_delay() {
    let registry = Scripted::new(Mood::Well);
    let start = Instant::now();
    let registration = builder(&registry).start().unwrap();
    registration.registered().await.unwrap();
    let (signal, signalled) = oneshot::channel::<()>();
    let drain = registration.drain_on(async { drop(signalled.await) });
    tokio::pin!(drain);
    assert!(
        timeout(Duration::from_secs(1), &mut drain).await.is_err(),
        "not before the signal"
    );
    drop(signal);
    assert!(
        timeout(Duration::from_millis(999), &mut drain)
            .await
            .is_err(),
        "not before the delay"
    );
    assert_eq!(registry.node(), None, "and out from the beginning of it");
    drain.await;
    assert_eq!(start.elapsed().as_millis(), 2000);
    assert_eq!(registration.state(), State::Left);
    assert!(
        registration
            .registered()
            .await
            .is_err_and(|error| matches!(error, Error::Closed))
    );
    registration.close().await.unwrap();
    assert_eq!(alive(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_hangs_delays_a_drain_by_the_timeout_and_no_more() {
    let registry = Scripted::new(Mood::Well);
    let registration = builder(&registry).start().unwrap();
    registration.registered().await.unwrap();
    registry.set(Mood::Hangs);
    let start = Instant::now();
    registration.drain_on(async {}).await;
    // The node has served for the drain delay meanwhile.
    assert_eq!(start.elapsed().as_millis(), 2000);
    assert!(
        registration
            .close()
            .await
            .is_err_and(|error| matches!(error, Error::Timeout { .. })),
        "the error is reported"
    );
}

#[tokio::test(start_paused = true)]
async fn closing_while_a_register_hangs_is_bounded_too() {
    let registry = Scripted::new(Mood::Hangs);
    let registration = builder(&registry).start().unwrap();
    sleep(Duration::from_millis(10)).await;
    let start = Instant::now();
    assert!(registration.close().await.is_err());
    assert_eq!(start.elapsed().as_millis(), 2000);
    assert_eq!(alive(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_registration_stops_and_lets_the_record_be() {
    let registry = Scripted::new(Mood::Well);
    let start = Instant::now();
    let registration = builder(&registry).start().unwrap();
    registration.registered().await.unwrap();
    let drain = registration.drain_on(async {});
    drop(registration);
    drain.await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(registry.asked(start), [(0, Asked::Register)]);
    assert!(registry.node().is_some());
    assert_eq!(alive(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_unhealthy_node_is_out_until_it_is_well_for_two_checks() {
    let registry = Scripted::new(Mood::Well);
    let well = Arc::new(AtomicBool::new(true));
    let asks = Arc::clone(&well);
    let check = move || {
        let well = asks.load(Ordering::Relaxed);
        async move {
            if well {
                Ok(())
            } else {
                Err("disk full".into())
            }
        }
    };
    let registration = builder(&registry).check(check).start().unwrap();
    registration.registered().await.unwrap();
    well.store(false, Ordering::Relaxed);
    assert!(
        matches!(reach(&registration, "unhealthy").await, State::Unhealthy { why, .. } if why == "disk full")
    );
    sleep(Duration::from_secs(58)).await;
    assert_eq!(registry.node(), None);
    well.store(true, Ordering::Relaxed);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(registry.node(), None, "one good check is not enough");
    sleep(Duration::from_secs(5)).await;
    assert!(registration.state().is_registered());
    assert!(registry.node().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_check_that_hangs_or_panics_is_unhealthy() {
    let registry = Scripted::new(Mood::Well);
    let hangs = builder(&registry)
        .check(std::future::pending::<Result<(), CheckError>>)
        .start()
        .unwrap();
    assert!(
        matches!(reach(&hangs, "unhealthy").await, State::Unhealthy { why, .. } if why == "no answer within 2s")
    );
    let panics = builder(&registry)
        .check(|| async { panic!("intended panic") })
        .start()
        .unwrap();
    assert!(
        matches!(reach(&panics, "unhealthy").await, State::Unhealthy { why, .. } if why == "the check panicked")
    );
    assert_eq!(registry.node(), None);
}

#[tokio::test(start_paused = true)]
async fn a_check_is_called_at_each_heartbeat() {
    let registry = Scripted::new(Mood::Well);
    let start = Instant::now();
    let asked = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&asked);
    let check = move || {
        counter.fetch_add(1, Ordering::Relaxed);
        async { Ok(()) }
    };
    let registration = builder(&registry).check(check).start().unwrap();
    registration.registered().await.unwrap();
    sleep(Duration::from_millis(10_001)).await;
    assert_eq!(
        registry.asked(start).len(),
        3,
        "the first, and two heartbeats"
    );
    assert_eq!(asked.load(Ordering::Relaxed), 3);
    drop(registration);
}

/// Returns the number of samples of the next minute in which the node was registered, and the
/// number of all samples.
async fn registered_samples(registry: &Scripted, registration: &Registration) -> (u32, u32) {
    let mut found = 0;
    for _ in 0..600 {
        sleep(Duration::from_millis(100)).await;
        found += u32::from(registry.node().is_some() && registration.state().is_registered());
    }
    (found, 600)
}

#[tokio::test(start_paused = true)]
async fn a_check_that_passes_in_more_than_an_interval_keeps_the_node_registered() {
    let registry = Scripted::new(Mood::Well);
    let check = || async {
        sleep(Duration::from_millis(1500)).await;
        Ok(())
    };
    let registration = builder(&registry)
        .interval(Duration::from_secs(1))
        .check(check)
        .start()
        .unwrap();
    registration.registered().await.unwrap();
    assert_eq!(
        registered_samples(&registry, &registration).await,
        (600, 600)
    );
}

#[tokio::test(start_paused = true)]
async fn a_check_that_hangs_takes_the_node_out_within_its_timeout() {
    for (interval, registrys_own) in [(1, 2), (2, 2), (1, 30)] {
        let registry = Scripted::with_timeout(Mood::Well, Duration::from_secs(registrys_own));
        let well = Arc::new(AtomicBool::new(true));
        let asks = Arc::clone(&well);
        let check = move || {
            let well = asks.load(Ordering::Relaxed);
            async move {
                if well {
                    Ok(())
                } else {
                    std::future::pending().await
                }
            }
        };
        let registration = builder(&registry)
            .interval(Duration::from_secs(interval))
            .check(check)
            .start()
            .unwrap();
        registration.registered().await.unwrap();
        sleep(Duration::from_secs(10)).await;
        well.store(false, Ordering::Relaxed);
        sleep(Duration::from_secs(interval) + Duration::from_millis(2001)).await;
        assert_eq!(
            registry.node(),
            None,
            "out after at most an interval and a timeout of 2 s"
        );
        assert_eq!(registration.state().name(), "unhealthy");
    }
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_will_not_take_the_record_out_delays_no_drain() {
    for mood in [Mood::Denies, Mood::Unsupported, Mood::Closed] {
        for registered in [false, true] {
            let registry = Scripted::new(if registered { Mood::Well } else { mood });
            let registration = builder(&registry).start().unwrap();
            reach(
                &registration,
                if registered { "registered" } else { "failing" },
            )
            .await;
            registry.set(mood);
            let start = Instant::now();
            registration.drain_on(async {}).await;
            assert_eq!(
                start.elapsed().as_millis(),
                1000,
                "{mood:?}: no more than the drain delay"
            );
            let closed = registration.close().await;
            // A record that was never written needs no deregistration. A denial is reported, since
            // its owner must act.
            let denied = matches!(closed, Err(Error::Denied { .. }));
            assert_eq!(
                closed.is_ok(),
                !registered && !denied,
                "{mood:?}: {closed:?}"
            );
            assert_eq!(denied, matches!(mood, Mood::Denies), "{mood:?}: {closed:?}");
            assert_eq!(start.elapsed().as_millis(), 1000, "{mood:?}: and once only");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn settings_without_an_end_do_not_panic() {
    for mood in [Mood::Well, Mood::Away, Mood::Hangs] {
        let registry = Scripted::with_timeout(mood, Duration::MAX);
        let mut config = Config::default();
        (config.timeout, config.reregister_jitter, config.drain_delay) =
            (Duration::MAX, Duration::MAX, Duration::MAX);
        (config.backoff.initial, config.backoff.max) = (Duration::MAX, Duration::MAX);
        let registration = builder(&registry)
            .config(config)
            .check(|| async { Ok(()) })
            .start()
            .unwrap();
        sleep(Duration::from_secs(600)).await;
        let expected = match mood {
            Mood::Well => "registered",
            Mood::Away => "failing",
            _ => "starting",
        };
        assert_eq!(registration.state().name(), expected);
        registration.set_metadata("zone", "eu-1").unwrap();
        sleep(Duration::from_secs(600)).await;
        assert_eq!(registration.state().name(), expected);
        if mood == Mood::Well {
            registration.close().await.unwrap();
            assert_eq!(registry.node(), None);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn metadata_changes_at_once_and_survives() {
    let registry = Scripted::new(Mood::Well);
    let start = Instant::now();
    let registration = builder(&registry).start().unwrap();
    registration.registered().await.unwrap();
    // Wait until just after a heartbeat, so that none comes in between.
    while registry.asked(start).len() < 2 {
        sleep(Duration::from_millis(1)).await;
    }
    registration.set_metadata("zone", "eu-1").unwrap();
    sleep(Duration::from_millis(51)).await;
    let node = registry.node().unwrap();
    assert_eq!(node.metadata.get("zone"), Some("eu-1"));
    assert!(node.metadata.contains_key(keys::INSTANCE));
    registration.set_metadata("zone", "eu-1").unwrap();
    let much =
        registration.update(|metadata| (0..65).for_each(|n| metadata.insert(n.to_string(), "")));
    assert!(
        much.is_err(),
        "a record that may not be registered is not written"
    );
    sleep(Duration::from_secs(2)).await;
    assert_eq!(
        registry.asked(start).len(),
        3,
        "an equal record is not written again"
    );
    registry.lose();
    sleep(Duration::from_secs(5)).await;
    assert_eq!(registry.node().unwrap().metadata.get("zone"), Some("eu-1"));
    assert_eq!(
        registration.service().nodes[0].metadata.get("zone"),
        Some("eu-1")
    );
}

#[tokio::test(start_paused = true)]
async fn a_registration_is_of_one_node_with_settings_that_can_work() {
    let registry = AnyRegistry::new(Scripted::new(Mood::Well));
    let none = Registration::builder(registry.clone(), Service::new("greeter")).start();
    insta::assert_snapshot!(none.unwrap_err(), @r#"cannot advertise the server: it has no address; give one that clients reach with .advertise("host:port"), --server-advertise or WAYPOST_SERVER_ADVERTISE (waypost register: --address), or the listener's with start_on(listener.local_addr()?)"#);
    let mut two = service();
    two.nodes.push(Node::new("greeter", "127.0.0.1:7001"));
    insta::assert_snapshot!(Registration::builder(registry.clone(), two).start().unwrap_err(),
        @"registration: has 2 nodes; register each node by itself");
    let mut nowhere = service();
    nowhere.nodes[0].address = "0.0.0.0".to_owned();
    assert!(
        Registration::builder(registry.clone(), nowhere)
            .start()
            .is_err()
    );
    let late = Registration::builder(registry, service())
        .ttl(Duration::from_secs(5))
        .interval(Duration::from_secs(6))
        .start();
    insta::assert_snapshot!(late.unwrap_err(),
        @"registration ttl: 5s must be more than the interval, 6s, or the record comes and goes");
    assert_eq!(alive(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_address_that_no_client_can_dial_is_an_error_at_the_start() {
    let registry = Scripted::new(Mood::Well);
    let start = |address: &str, loopback: bool| {
        let mut service = service();
        let mut node = service.nodes[0].clone();
        node.address = address.to_owned();
        service.nodes = vec![node].into();
        let builder = Registration::builder(registry.clone(), service).allow_loopback(loopback);
        builder.start().map(drop).map_err(|error| error.to_string())
    };
    for address in ["0.0.0.0:42201", "[::]:42201", "[::ffff:0.0.0.0]:1"] {
        for loopback in [false, true] {
            let error = start(address, loopback).unwrap_err();
            assert!(
                error.contains("is every interface, which no client can dial"),
                "{error}"
            );
        }
    }
    for address in ["127.0.0.1:42201", "127.8.8.8:1", "[::1]:1", "localhost:1"] {
        let error = start(address, false).unwrap_err();
        assert!(
            error.contains("is loopback") && error.contains("allow_loopback(true)"),
            "{error}"
        );
        start(address, true).unwrap();
    }
    start("10.0.0.7:42201", false).unwrap();
    start("greeter.example:80", false).unwrap();
}
