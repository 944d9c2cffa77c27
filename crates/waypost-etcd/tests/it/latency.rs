//! Distant etcd: high latency is not taken for a failure.

use std::time::Duration;

use tokio::time::Instant;
use waypost_testkit::Proxy;
use waypost_testkit::etcd::{Binary, Etcd, Options};

use super::rig::{Figures, Rig, TTL, each};

/// One-way latency to the other side of the world: a round trip takes 320 ms, and a TLS handshake
/// three of them.
const ONE_WAY: Duration = Duration::from_millis(160);

async fn serves_with_high_latency(binary: &Binary, members: usize) {
    let etcd = Etcd::start(binary, &Options::one().tls()).await.unwrap();
    let mut proxies = Vec::new();
    for _ in 0..members {
        let proxy = Proxy::start(etcd.addresses()[0]).await.unwrap();
        proxy.delay(ONE_WAY);
        proxies.push(proxy);
    }
    let addresses: Vec<_> = proxies
        .iter()
        .map(|proxy| proxy.address().to_string())
        .collect();
    let url = format!(
        "etcds://{}?ca={}",
        addresses.join(","),
        etcd.authority().unwrap().certificate().display()
    );
    let begun = Instant::now();
    let mut rig = Rig::on(etcd, &url, &url, 2).await;
    let took = begun.elapsed().as_secs_f64();
    println!(
        "etcd {}: {members} members far away: two nodes and a client, one after the other, in {took:.1} s",
        binary.version()
    );
    let (begun, mut figures) = (Instant::now(), Figures::without_outage());
    rig.observe(&mut figures, begun, TTL * 2).await;
    rig.report(
        &format!("round trip of 320 ms, {members} members"),
        &figures,
    )
    .await;
    rig.assert_none_suspected();
    rig.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn high_latency_causes_no_failure() {
    each(async |binary| {
        tokio::join!(
            serves_with_high_latency(&binary, 1),
            serves_with_high_latency(&binary, 3)
        );
    })
    .await;
}
