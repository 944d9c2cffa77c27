//! What a client says of its nodes at INFO and above: each change once, and nothing of what is normal.

use std::time::Duration;

use crate::log::Log;
use crate::net::{Host, World, begin, call};

const LONG: Duration = Duration::from_secs(5);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The lines with what differs from run to run left out.
fn lines(log: &Log) -> Vec<String> {
    let steady = |line: String| match line.split_once(" after=") {
        Some((before, after)) => {
            format!("{before}{}", after.split_once(' ').map_or(String::new(), |(_, rest)| format!(" {rest}")))
        }
        None => line,
    };
    log.take().into_iter().map(steady).collect()
}

/// A dead host is alive again, as another process at its address.
async fn revive(world: &World, name: &str) -> Host {
    world.host(name).await
}

#[tokio::test(start_paused = true)]
async fn a_node_that_cannot_be_connected_is_said_once_with_the_reason_and_so_is_its_return() {
    let log = Log::capture();
    let world = World::new();
    let a = world.host("a").await;
    let sender = world.sender();
    call(&sender, "/act", "hi").await.unwrap();
    assert_eq!(lines(&log), ["INFO first node connected service=echo node=echo-a address=a.test:80"]);
    tokio::time::sleep(seconds(2)).await;
    a.kill();
    for _ in 0..10 {
        begin(&sender, "/act", "hi", Some(seconds(30))).await.unwrap_err();
    }
    let unreachable =
        "INFO node unreachable service=echo node=echo-a address=a.test:80 error=connect a.test:80: refused changes=0";
    assert_eq!(lines(&log), [unreachable]);
    let _a = revive(&world, "a").await;
    tokio::time::sleep(seconds(30)).await;
    call(&sender, "/act", "hi").await.unwrap();
    assert_eq!(lines(&log), ["INFO node reachable again service=echo node=echo-a address=a.test:80 changes=0"]);
}

#[tokio::test(start_paused = true)]
async fn nodes_that_are_dead_from_the_start_are_said_each_once() {
    let log = Log::capture();
    let world = World::new();
    for name in ["a", "b", "c", "d", "e"] {
        world.host(name).await.kill();
    }
    let sender = world.sender();
    for _ in 0..2 {
        begin(&sender, "/act", "hi", Some(seconds(60))).await.unwrap_err();
    }
    let mut lines = lines(&log);
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
    assert!(lines.iter().all(|line| line.starts_with("INFO node ")), "{lines:#?}");
    let count = |line: &String| line.rsplit_once(" changes=").and_then(|(_, n)| n.parse::<u64>().ok()).unwrap() + 1;
    let told: u64 = lines.iter().map(count).sum();
    let shown = u64::try_from(lines.len()).unwrap();
    assert!((MINUTES..=2 * MINUTES + 2).contains(&shown), "{lines:#?}");
    assert!((MINUTES * 6 - 6..=MINUTES * 6).contains(&told), "{told}: {lines:#?}");
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
    assert_eq!(log.take(), [""; 0], "nothing that a node or a caller did here is trouble");
}
