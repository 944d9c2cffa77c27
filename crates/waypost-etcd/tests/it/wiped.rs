//! After a wipe of etcd, whose revisions start again, the system is idle as before: heartbeats need
//! no reads.

use tokio::time::{sleep, timeout};
use waypost_testkit::etcd::{Data, Etcd, Options};

use super::gateway;
use super::rig::{INTERVAL, PATIENCE, Server, each, url};

const NODES: usize = 3;

/// Returns the numbers of range and watch requests that etcd has received.
async fn requests(etcd: &mut Etcd) -> [Option<f64>; 2] {
    let metrics = etcd.member(0).metrics().await.unwrap();
    let started = |method: &str| {
        metrics.get(
            "grpc_server_started_total",
            &[&format!("grpc_method=\"{method}\"")],
        )
    };
    [started("Range"), started("Watch")]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_need_no_reads_after_a_wipe() {
    each(async |binary| {
        let mut etcd = Etcd::start(&binary, &Options::one()).await.unwrap();
        let (at, address) = (url(&etcd.addresses()), etcd.addresses()[0]);
        let mut servers = Vec::new();
        for id in 0..NODES {
            servers.push(Server::start(&at, &id.to_string()).await);
        }
        // The new history starts far below the last revision of the old one.
        for number in 0..100 {
            etcd.put("/elsewhere", format!("{number}").as_bytes())
                .await
                .unwrap();
        }
        etcd.restart(Data::Lost).await.unwrap();
        let back = async {
            while gateway::count(address, "/micro/registry/greeter/").await < NODES {
                sleep(INTERVAL / 10).await;
            }
        };
        timeout(PATIENCE, back).await.expect("they come back");
        // Each record is read once more, when its watch has started again.
        sleep(INTERVAL * 3).await;
        let before = requests(&mut etcd).await;
        sleep(INTERVAL * 5).await;
        assert_eq!(
            requests(&mut etcd).await,
            before,
            "ranges and watches: heartbeats read, or a watch broke"
        );
        for server in servers {
            server.close().await;
        }
    })
    .await;
}
