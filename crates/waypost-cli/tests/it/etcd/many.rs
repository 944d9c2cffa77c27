//! Registry of 10 000 nodes: 1 000 services of ten.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;
use tokio::time::Instant;
use waypost::record::{Endpoint, Node, Service};
use waypost_testkit::etcd::{Etcd, Options};

use crate::support::{Host, each, run};

const SERVICES: usize = 1_000;
const NODES: usize = 10;
/// Number of puts in a transaction. etcd accepts a request of 1.5 MiB at most.
const PUTS: usize = 1_000;

/// Returns a record with four methods, as a server of some size has them.
fn record(service: usize, node: usize) -> (String, String) {
    let name = format!("service-{service:04}");
    let mut node = Node::with_id(
        &name,
        &node.to_string(),
        format!("10.0.{}.{}:8080", service / 250, node),
    );
    node.metadata.insert("protocol", "grpc");
    let key = format!("/micro/registry/{name}/{}", node.id);
    let mut record = Service::new(&name);
    record.nodes.push(node);
    for method in ["Get", "List", "Put", "Delete"] {
        record.endpoints.push(Endpoint {
            name: format!("Store.{method}"),
            ..Endpoint::default()
        });
    }
    (key, record.to_json())
}

/// Puts all records, many in one transaction.
async fn fill(etcd: &Etcd) {
    let all: Vec<_> = (0..SERVICES)
        .flat_map(|service| (0..NODES).map(move |node| record(service, node)))
        .collect();
    for some in all.chunks(PUTS) {
        // Go parses quotes as JSON writes them.
        let quoted = |value: &String| serde_json::to_string(value).unwrap();
        let puts = some
            .iter()
            .map(|(key, value)| format!("put {key} {}\n", quoted(value)));
        transact(etcd, &format!("\n{}\n\n", puts.collect::<String>())).await;
    }
}

async fn transact(etcd: &Etcd, script: &str) {
    let mut command = Command::new(etcd.binary().etcdctl());
    command.args(["--endpoints", &etcd.addresses()[0].to_string(), "txn"]);
    let mut etcdctl = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdin = etcdctl.stdin.take().unwrap();
    let (written, output) = tokio::join!(
        async move { stdin.write_all(script.as_bytes()).await },
        etcdctl.wait_with_output()
    );
    written.unwrap();
    let output = output.unwrap();
    assert!(
        output.status.success() && output.stdout.starts_with(b"SUCCESS"),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

#[tokio::test]
async fn ten_thousand_nodes_are_listed_whole_and_a_reader_may_stop() {
    each(async |binary| {
        let etcd = Etcd::start(
            &binary,
            &Options::one().flag(format!("--max-txn-ops={PUTS}")),
        )
        .await
        .unwrap();
        fill(&etcd).await;
        let host = Host::on(&etcd, "");
        let begun = Instant::now();
        let ended = run(&host.waypost(&["list", "-o", "jsonl"])).await;
        println!(
            "etcd {}: 10 000 nodes listed in {:?}",
            binary.version(),
            begun.elapsed()
        );
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
        let lines: Vec<serde_json::Value> = ended
            .stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), SERVICES);
        assert!(
            lines
                .iter()
                .all(|line| line["nodes"] == NODES && line["endpoints"] == 4)
        );
        stopped_after_one_line(&host).await;
    })
    .await;
}

/// Reads one line and closes the pipe, as `| head -1` does.
async fn stopped_after_one_line(host: &Host) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_waypost"));
    command
        .args(["--registry", host.url(), "list"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut list = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::with_capacity(16, list.stdout.take().unwrap())
        .read_line(&mut line)
        .await
        .unwrap();
    assert!(line.starts_with("NAME"), "{line}");
    let output = list.wait_with_output().await.unwrap();
    assert_eq!(
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).as_ref()
        ),
        (Some(0), "")
    );
}
