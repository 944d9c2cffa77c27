//! Log lines of a client about its nodes at INFO and above: each change once, and nothing about
//! normal events.

use std::collections::HashMap;
use std::time::Duration;

use crate::hostility::Hostility;
use crate::log::Log;
use crate::net::{Host, World, begin, call, service};
use crate::support::all_ready;

const LONG: Duration = Duration::from_secs(5);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Returns the lines without the fields that vary from run to run.
fn lines(log: &Log) -> Vec<String> {
    let steady = |line: String| match line.split_once(" after=") {
        Some((before, after)) => {
            format!(
                "{before}{}",
                after
                    .split_once(' ')
                    .map_or(String::new(), |(_, rest)| format!(" {rest}"))
            )
        }
        None => line,
    };
    log.take().into_iter().map(steady).collect()
}

/// Revives a dead host as another process at its address.
async fn revive(world: &World, name: &str) -> Host {
    world.host(name).await
}

#[tokio::test(start_paused = true)]
async fn a_node_that_cannot_be_connected_is_reported_once_with_the_reason_and_so_is_its_return() {
    let log = Log::capture();
    let world = World::new();
    let a = world.host("a").await;
    let sender = world.sender();
    call(&sender, "/act", "hi").await.unwrap();
    assert_eq!(
        lines(&log),
        ["INFO first node connected service=echo node=echo-a address=a.test:80"]
    );
    tokio::time::sleep(seconds(2)).await;
    a.kill();
    for _ in 0..10 {
        begin(&sender, "/act", "hi", Some(seconds(30)))
            .await
            .unwrap_err();
    }
    let unreachable = "INFO node unreachable service=echo node=echo-a address=a.test:80 error=connect a.test:80: refused changes=0";
    let no_node_ready = "INFO no node ready service=echo nodes=1 excluded=1 not_connected last_failure=connect a.test:80: refused changes=0";
    assert_eq!(lines(&log), [unreachable, no_node_ready]);
    let _a = revive(&world, "a").await;
    tokio::time::sleep(seconds(30)).await;
    call(&sender, "/act", "hi").await.unwrap();
    let back = [
        "INFO a node is ready again service=echo changes=0",
        "INFO node reachable again service=echo node=echo-a address=a.test:80 changes=0",
    ];
    assert_eq!(lines(&log), back);
}

#[tokio::test(start_paused = true)]
async fn nodes_that_are_dead_from_the_start_are_reported_each_once_and_so_is_the_failed_start() {
    let log = Log::capture();
    let world = World::new();
    for name in ["a", "b", "c", "d", "e"] {
        world.host(name).await.kill();
    }
    let sender = world.sender();
    for _ in 0..2 {
        begin(&sender, "/act", "hi", Some(seconds(60)))
            .await
            .unwrap_err();
    }
    let mut lines = lines(&log);
    let start =
        "INFO no node ready service=echo nodes=5 excluded=5 not_connected last_failure=connect";
    assert!(lines.pop().unwrap().starts_with(start), "{lines:#?}");
    lines.sort();
    let expected = ["a", "b", "c", "d", "e"].map(|name| {
        format!("INFO node unreachable service=echo node=echo-{name} address={name}.test:80 error=connect {name}.test:80: refused changes=0")
    });
    assert_eq!(lines, expected);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_comes_and_goes_has_two_lines_a_minute_with_the_count_of_changes() {
    const MINUTES: u64 = 10;
    let log = Log::capture();
    let world = World::new();
    let mut host = world.host("a").await;
    let _b = world.host("b").await;
    let sender = world.sender();
    sender.ready(LONG).await.unwrap();
    tokio::time::sleep(seconds(2)).await;
    log.take();
    for _ in 0..MINUTES * 3 {
        host.kill();
        tokio::time::sleep(seconds(10)).await;
        host = revive(&world, "a").await;
        tokio::time::sleep(seconds(10)).await;
    }
    let lines = log.take();
    assert!(
        lines.iter().all(|line| line.starts_with("INFO node ")),
        "{lines:#?}"
    );
    let count = |line: &String| {
        line.rsplit_once(" changes=")
            .and_then(|(_, n)| n.parse::<u64>().ok())
            .unwrap()
            + 1
    };
    let logged: u64 = lines.iter().map(count).sum();
    let shown = u64::try_from(lines.len()).unwrap();
    assert!((MINUTES..=2 * MINUTES + 2).contains(&shown), "{lines:#?}");
    assert!(
        (MINUTES * 6 - 6..=MINUTES * 6).contains(&logged),
        "{logged}: {lines:#?}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_last_line_of_a_node_is_true_once_it_stays() {
    let log = Log::capture();
    let world = World::new();
    let mut host = world.host("a").await;
    let sender = world.sender();
    sender.ready(LONG).await.unwrap();
    tokio::time::sleep(seconds(2)).await;
    log.take();
    for (up, down) in [(11, 50), (240, 10)] {
        host.kill();
        tokio::time::sleep(seconds(down)).await;
        host = revive(&world, "a").await;
        tokio::time::sleep(seconds(up)).await;
    }
    let lines = log.take();
    assert!(
        lines
            .last()
            .unwrap()
            .starts_with("INFO node reachable again"),
        "{lines:#?}"
    );
}

/// Returns the number of nodes whose last line begins with `message`.
fn last_lines(log: &[String], message: &str) -> usize {
    let node = |line: &String| {
        line.split_once(" node=")
            .map(|(_, rest)| rest.split(' ').next().unwrap().to_owned())
    };
    let last: HashMap<_, _> = log
        .iter()
        .filter_map(|line| Some((node(line)?, line)))
        .collect();
    last.values()
        .filter(|line| line.starts_with(message))
        .count()
}

fn count(log: &[String], message: &str) -> usize {
    log.iter().filter(|line| line.starts_with(message)).count()
}

#[tokio::test(start_paused = true)]
async fn of_fifty_nodes_that_die_together_twenty_a_minute_are_reported_until_all_are() {
    let log = Log::capture();
    let world = World::new();
    let hosts = world.hosts(50).await;
    let sender = world.sender();
    all_ready(&sender).await;
    tokio::time::sleep(seconds(2)).await;
    log.take();
    let mut all = Vec::new();
    hosts.iter().for_each(Host::kill);
    for expected in [20, 40, 50] {
        tokio::time::sleep(seconds(59)).await;
        all.extend(log.take());
        assert_eq!(count(&all, "INFO node unreachable"), expected, "{all:#?}");
        tokio::time::sleep(seconds(1)).await;
    }
    let left_out = "INFO more nodes changed in the last minute";
    assert_eq!(count(&all, left_out), 1, "{all:#?}");
    assert!(
        all.contains(&format!("{left_out} service=echo count=30")),
        "{all:#?}"
    );
    hosts.iter().for_each(Host::revive);
    tokio::time::sleep(seconds(300)).await;
    let lines = log.take();
    assert_eq!(
        last_lines(&lines, "INFO node reachable again"),
        50,
        "{lines:#?}"
    );
    assert_eq!(count(&lines, "INFO node "), 50, "{lines:#?}");
}

#[tokio::test(start_paused = true)]
async fn lines_that_were_left_out_are_counted_and_made_good_when_nothing_else_happens() {
    let log = Log::capture();
    let world = World::new();
    let hosts = world.hosts(30).await;
    let sender = world.sender();
    all_ready(&sender).await;
    tokio::time::sleep(seconds(2)).await;
    log.take();
    hosts.iter().for_each(Host::kill);
    tokio::time::sleep(Duration::from_millis(500)).await;
    hosts.iter().for_each(Host::revive);
    tokio::time::sleep(seconds(40)).await;
    let mut lines = log.take();
    assert_eq!(
        last_lines(&lines, "INFO node unreachable"),
        20,
        "{lines:#?}"
    );
    tokio::time::sleep(seconds(30)).await;
    let later = log.take();
    assert_eq!(
        later.first().unwrap(),
        "INFO more nodes changed in the last minute service=echo count=30"
    );
    lines.extend(later);
    assert_eq!(
        last_lines(&lines, "INFO node reachable again"),
        20,
        "{lines:#?}"
    );
    tokio::time::sleep(seconds(600)).await;
    assert_eq!(log.take(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn lines_that_were_left_out_are_counted_even_if_none_is_to_follow() {
    let log = Log::capture();
    let world = World::new();
    let hosts = world.hosts(12).await;
    let sender = world.sender();
    all_ready(&sender).await;
    tokio::time::sleep(seconds(2)).await;
    log.take();
    for some in [&hosts[..10], &hosts[10..]] {
        some.iter().for_each(Host::kill);
        tokio::time::sleep(Duration::from_millis(500)).await;
        some.iter().for_each(Host::revive);
        tokio::time::sleep(seconds(10)).await;
    }
    let lines = log.take();
    assert_eq!(
        last_lines(&lines, "INFO node reachable again"),
        10,
        "{lines:#?}"
    );
    tokio::time::sleep(seconds(60)).await;
    assert_eq!(
        log.take(),
        ["INFO more nodes changed in the last minute service=echo count=2"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_unreachable_has_a_reason_whatever_its_server_does() {
    for hostility in Hostility::all() {
        let log = Log::capture();
        let world = World::new();
        let host = world.host("a").await;
        host.turn(hostility);
        let sender = world.sender();
        // Some are ready for a moment.
        let _ = sender.ready(LONG).await;
        tokio::time::sleep(seconds(100)).await;
        let lines = log.take();
        let unreachable: Vec<_> = lines
            .iter()
            .filter(|line| line.starts_with("INFO node unreachable"))
            .collect();
        let settles = matches!(hostility, Hostility::Closes(life) | Hostility::SaysGoAway(life, _) if life >= seconds(1));
        assert_eq!(unreachable.is_empty(), settles, "{hostility:?}: {lines:#?}");
        assert!(
            unreachable.iter().all(|line| !line.contains(" error= ")),
            "{hostility:?}: {unreachable:#?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_reachable_again_at_another_address_is_reported() {
    let log = Log::capture();
    let world = World::new();
    let (a, _b) = (world.host("a").await, world.net.host_of("b"));
    let sender = world.sender();
    sender.ready(LONG).await.unwrap();
    tokio::time::sleep(seconds(2)).await;
    a.kill();
    tokio::time::sleep(seconds(10)).await;
    log.take();
    let mut moved = service("a");
    moved.nodes[0].address = "b.test:80".into();
    world.register_service(&moved, seconds(3_600)).await;
    tokio::time::sleep(seconds(10)).await;
    let back = "INFO node reachable again service=echo node=echo-a address=b.test:80 changes=0";
    assert_eq!(lines(&log).last().unwrap(), back);
}

#[tokio::test(start_paused = true)]
async fn one_connection_that_is_closed_early_is_no_unreachable_node() {
    let log = Log::capture();
    let world = World::new();
    let host = world.host("a").await;
    host.turn(Hostility::Closes(Duration::from_millis(30)));
    let sender = world.sender();
    sender.ready(LONG).await.unwrap();
    host.turn(None);
    tokio::time::sleep(seconds(20)).await;
    call(&sender, "/act", "hi").await.unwrap();
    assert_eq!(
        lines(&log),
        ["INFO first node connected service=echo node=echo-a address=a.test:80"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_service_without_a_ready_node_is_reported_once_and_so_is_its_return() {
    let log = Log::capture();
    let world = World::new();
    let (a, b) = (world.host("a").await, world.host("b").await);
    let sender = world.sender();
    all_ready(&sender).await;
    tokio::time::sleep(seconds(2)).await;
    log.take();
    let of_service = |log: &Log| {
        lines(log)
            .into_iter()
            .filter(|line| !line.starts_with("INFO node "))
            .collect::<Vec<_>>()
    };
    a.kill();
    tokio::time::sleep(seconds(100)).await;
    assert_eq!(of_service(&log), [""; 0], "one is ready");
    b.kill();
    tokio::time::sleep(seconds(100)).await;
    let [line] = of_service(&log).try_into().unwrap();
    let expected = "INFO no node ready service=echo nodes=2 excluded=2 not_connected last_failure=";
    assert!(
        line.starts_with(expected) && line.ends_with(": refused changes=0"),
        "{line}"
    );
    b.revive();
    tokio::time::sleep(seconds(100)).await;
    let line = log
        .take()
        .into_iter()
        .find(|line| line.starts_with("INFO a node is ready again"))
        .unwrap();
    let (_, after) = line.split_once(" after=").unwrap();
    assert!(
        after.starts_with("10") && after.ends_with("s changes=0"),
        "100 s and a back-off: {line}"
    );
    a.revive();
    tokio::time::sleep(seconds(100)).await;
    assert_eq!(of_service(&log), [""; 0], "one was ready already");
    for name in ["a", "b"] {
        world.leave(name).await;
    }
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(
        lines(&log),
        ["INFO no node ready service=echo nodes=0 changes=0"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_service_that_comes_and_goes_has_two_lines_a_minute() {
    const MINUTES: usize = 10;
    let log = Log::capture();
    let world = World::new();
    let host = world.host("a").await;
    let sender = world.sender();
    sender.ready(LONG).await.unwrap();
    for _ in 0..MINUTES * 3 {
        host.kill();
        tokio::time::sleep(seconds(10)).await;
        host.revive();
        tokio::time::sleep(seconds(10)).await;
    }
    tokio::time::sleep(seconds(100)).await;
    let mut lines = log.take();
    lines.retain(|line| line.contains(" ready"));
    assert!(
        (MINUTES..=2 * MINUTES + 2).contains(&lines.len()),
        "{lines:#?}"
    );
    assert!(
        lines
            .last()
            .unwrap()
            .starts_with("INFO a node is ready again"),
        "{lines:#?}"
    );
}

#[tokio::test(start_paused = true)]
async fn no_ready_node_is_not_reported_where_none_is_expected() {
    let log = Log::capture();
    let world = World::new();
    let host = world.host("a").await;
    host.delay_dials(Duration::from_millis(1_500));
    let sender = world.sender();
    sender.ready(LONG).await.unwrap();
    host.delay_dials(Duration::ZERO);
    for _ in 0..3 {
        tokio::time::sleep(seconds(10)).await;
        host.drain();
    }
    tokio::time::sleep(seconds(10)).await;
    drop(sender);
    tokio::time::sleep(seconds(1)).await;
    world.leave("a").await;
    tokio::time::sleep(seconds(1_500)).await;
    world.host("b").await;
    let sender = world.sender();
    sender.ready(LONG).await.unwrap();
    world.client.close().await;
    tokio::time::sleep(seconds(100)).await;
    let mut lines = log.take();
    lines.retain(|line| !line.starts_with("INFO first node connected"));
    assert_eq!(
        lines, [""; 0],
        "the start, a drain, no channel, a closed client"
    );
}

#[tokio::test(start_paused = true)]
async fn a_dial_that_the_client_aborts_is_no_failure() {
    let world = World::new();
    world.host("a").await.delay_dials(seconds(1));
    let sender = world.sender();
    sender.ready(Duration::from_millis(500)).await.unwrap_err();
    world.leave("a").await;
    let error = sender.ready(LONG).await.unwrap_err();
    assert_eq!(error.report.last_failure, None);
}

#[tokio::test(start_paused = true)]
async fn what_is_normal_is_no_warning() {
    let log = Log::capture();
    let world = World::new();
    let (a, b) = (world.host("a").await, world.host("b").await);
    let sender = world.sender();
    sender.ready(LONG).await.unwrap();
    tokio::time::sleep(seconds(2)).await;
    log.take();
    a.refuse(5);
    for path in ["/look", "/act"].repeat(20) {
        call(&sender, path, "hi").await.unwrap();
    }
    for host in [&a, &b] {
        host.drain();
        call(&sender, "/act", "hi").await.unwrap();
        host.ask_for_calm();
        tokio::time::sleep(seconds(10)).await;
        call(&sender, "/act", "hi").await.unwrap();
    }
    for order in ["unavailable", "late unavailable", "reset", "wait"] {
        let _ = begin(&sender, "/look", order, Some(Duration::from_millis(300))).await;
    }
    for name in ["c", "d"] {
        let _host = world.host(name).await;
        tokio::time::sleep(seconds(1)).await;
    }
    for name in ["a", "c"] {
        world.leave(name).await;
        tokio::time::sleep(seconds(1)).await;
    }
    call(&sender, "/act", "hi").await.unwrap();
    drop(sender);
    tokio::time::sleep(seconds(1_500)).await;
    world.client.close().await;
    assert_eq!(
        log.take(),
        [""; 0],
        "nothing that a node or a caller did here is trouble"
    );
}
