//! Spread of a fleet over the members of a cluster.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use waypost_core::registry::{AnyRegistry, WatchOptions};
use waypost_testkit::etcd::{Etcd, Options};

use super::rig::{each, url};

/// Handles of the fleet: a third of them differs by less than 30 % from the mean, by chance, in all
/// but one of 5 000 runs.
const HANDLES: usize = 300;
const REBALANCE: Duration = Duration::from_secs(8);
/// Connections that members may have to themselves.
const OWN: usize = 6;

/// Returns the number of established connections to each address.
fn connections(to: &[SocketAddr]) -> Vec<usize> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let peers: Vec<_> = table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut fields = line.split_whitespace().skip(2);
            let (peer, state) = (fields.next()?, fields.next()?);
            let port = peer.rsplit_once(':')?.1;
            (state == "01").then(|| u16::from_str_radix(port, 16).ok())?
        })
        .collect();
    to.iter()
        .map(|address| peers.iter().filter(|port| **port == address.port()).count())
        .collect()
}

fn is_even(counts: &[usize]) -> bool {
    let mean = HANDLES / counts.len();
    counts
        .iter()
        .all(|count| (mean * 7 / 10..=mean * 13 / 10).contains(count))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_is_even_over_the_members_again_after_a_rolling_restart() {
    each(async |binary| {
        let mut etcd = Etcd::start(&binary, &Options::three()).await.unwrap();
        let addresses = etcd.addresses();
        let at = format!(
            "{}?rebalance_interval={}s",
            url(&addresses),
            REBALANCE.as_secs()
        );
        let mut watchers = Vec::new();
        for _ in 0..HANDLES {
            let registry = AnyRegistry::new(super::open(&at));
            let mut watcher = registry.watch(&WatchOptions::service("a")).await.unwrap();
            watcher.next().await.unwrap().unwrap();
            watchers.push((registry, watcher));
        }
        let before = connections(&addresses);
        assert!(is_even(&before), "at the start: {before:?}");
        for index in 0..3 {
            etcd.member(index).kill().await.unwrap();
            etcd.member(index).start().unwrap();
            etcd.member(index).serving().await.unwrap();
        }
        let after = connections(&addresses);
        assert!(!is_even(&after), "the last member has few: {after:?}");
        let since = Instant::now();
        loop {
            let counts = connections(&addresses);
            // No stream stays on another member than the calls.
            let has_surplus = counts.iter().sum::<usize>() > HANDLES + OWN;
            if is_even(&counts) && !has_surplus {
                break;
            }
            assert!(since.elapsed() < REBALANCE * 4, "still {counts:?}");
            sleep(Duration::from_millis(100)).await;
        }
        for (registry, watcher) in watchers {
            drop(watcher);
            registry.close().await.unwrap();
        }
    })
    .await;
}
