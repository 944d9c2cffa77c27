//! Every command and its output, which is the same on every etcd.

use waypost_testkit::Child;
use waypost_testkit::etcd::{Binary, Etcd, Options};

use crate::support::{Ended, Host, each, end, without_times};

/// Times within which a dead node soon expires, and long enough for a busy machine.
const SHORT: [&str; 4] = ["--ttl", "6s", "--interval", "2s"];

async fn start(binary: &Binary) -> (Etcd, Host) {
    let etcd = Etcd::start(binary, &Options::one()).await.unwrap();
    let host = Host::on(&etcd, "");
    (etcd, host)
}

/// Returns stdout of a command that must succeed and write nothing to stderr.
async fn shown(host: &Host, args: &[&str]) -> String {
    let ended = host.run(args).await;
    assert_eq!(
        (ended.code, ended.stderr.as_str()),
        (Some(0), ""),
        "{args:?}"
    );
    ended.stdout
}

/// Returns the exit code and stderr of a command that must not write to stdout.
fn output(ended: &Ended) -> String {
    assert_eq!(ended.stdout, "");
    format!("{}\n{}", ended.code.unwrap(), ended.stderr)
}

#[tokio::test]
async fn list_and_get_show_what_is_there() {
    let [empty, wide, jsonl, get, unknown] = each(async |binary| {
        let (_etcd, host) = start(&binary).await;
        let empty = host.run(&["list"]).await;
        let _a = host.node("a", &["--metadata", "protocol=grpc"]).await;
        let _b = host.node("b", &["--version", "2.0.0"]).await;
        let json: serde_json::Value =
            serde_json::from_str(&shown(&host, &["list", "--json"]).await).unwrap();
        assert_eq!(
            (&json["schema"], json["services"].as_array().unwrap().len()),
            (&"waypost/1".into(), 2)
        );
        [
            format!(
                "{}\n{}\n{}",
                empty.code.unwrap(),
                empty.stdout,
                empty.stderr
            ),
            shown(&host, &["list", "-o", "wide"]).await,
            shown(&host, &["list", "-o", "jsonl"]).await,
            shown(&host, &["get", "greeter"]).await,
            output(&host.run(&["get", "unknown"]).await),
        ]
    })
    .await;
    insta::assert_snapshot!(empty, @r"
    0
    NAME  VERSION  NODES  ENDPOINTS
    no service is registered in etcd://ETCD; to see some: waypost demo
    ");
    insta::assert_snapshot!(wide, @r"
    NAME     VERSION  NODES  ENDPOINTS  PROTOCOLS
    greeter  2.0.0        1          0  -
    greeter  latest       1          0  grpc
    ");
    insta::assert_snapshot!(jsonl, @r#"
    {"schema":"waypost/1","name":"greeter","version":"2.0.0","nodes":1,"endpoints":0,"protocols":[]}
    {"schema":"waypost/1","name":"greeter","version":"latest","nodes":1,"endpoints":0,"protocols":["grpc"]}
    "#);
    insta::assert_snapshot!(get, @r"
    NODE       ADDRESS         VERSION  PROTOCOL  MEMBERSHIP
    greeter-b  127.0.0.1:9098  2.0.0    -         confirmed
    greeter-a  127.0.0.1:9097  latest   grpc      confirmed
    ");
    insta::assert_snapshot!(unknown, @r#"
    1
    error: service "unknown" is not registered in etcd://ETCD
      see what is: waypost --registry etcd://ETCD list
    "#);
}

#[tokio::test]
async fn watch_reports_a_leave_from_a_loss() {
    let lines = each(async |binary| {
        let (_etcd, host) = start(&binary).await;
        without_times(&host.watched("table", &SHORT).await)
    })
    .await;
    insta::assert_snapshot!(lines, @r"
    TIME (UTC)    EVENT     NODE                                          ADDRESS                VERSION
    HH:MM:SS.mmm  present   greeter-a                                     127.0.0.1:9097         latest
    HH:MM:SS.mmm  created   greeter-b                                     127.0.0.1:9098         latest
    HH:MM:SS.mmm  leaving   greeter-b                                     127.0.0.1:9098         latest
    HH:MM:SS.mmm  left      greeter-b                                     127.0.0.1:9098         latest
    HH:MM:SS.mmm  lost      greeter-a                                     127.0.0.1:9097         latest
    ");
}

#[tokio::test]
async fn register_holds_a_node_and_leaves_nothing() {
    each(async |binary| {
        let (etcd, host) = start(&binary).await;
        for signal in [Child::sigterm, Child::sigint] {
            let mut node = host.node("a", &["--metadata", "protocol=grpc"]).await;
            assert_eq!(
                etcd.keys("/micro/registry/").await.unwrap(),
                ["/micro/registry/greeter/greeter-a"]
            );
            signal(&mut node).unwrap();
            let ended = end(&mut node).await;
            assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
            assert_eq!(
                ended.stdout,
                "registered greeter-a at 127.0.0.1:9097\nleft greeter-a at 127.0.0.1:9097"
            );
            assert_eq!(
                (
                    etcd.keys("/micro/").await.unwrap().len(),
                    etcd.leases().await.unwrap().len()
                ),
                (0, 0)
            );
        }
    })
    .await;
}

#[tokio::test]
async fn deregister_removes_a_record_and_reports_a_missing_one() {
    let [missing, removed] = each(async |binary| {
        let (etcd, host) = start(&binary).await;
        let mut node = host.node("a", &[]).await;
        node.sigkill().unwrap();
        let missing = host.run(&["deregister", "greeter", "z"]).await;
        let removed = host.run(&["deregister", "greeter", "a"]).await;
        assert_eq!(etcd.keys("/micro/").await.unwrap().len(), 0);
        [output(&missing), output(&removed)]
    })
    .await;
    insta::assert_snapshot!(missing, @r#"
    1
    error: service "greeter" has no node "z" in etcd://ETCD
      see which it has: waypost --registry etcd://ETCD get greeter
    "#);
    insta::assert_snapshot!(removed, @r"
    0
    removed greeter-a; if its owner lives, it will be back at its next beat: to end it, stop its process
    ");
}

#[tokio::test]
async fn wait_ends_when_there_are_enough_or_time_is_over() {
    let late = each(async |binary| {
        let (_etcd, host) = start(&binary).await;
        let mut wait = host.start(&["wait", "greeter", "--ready", "2", "-o", "name"]);
        let _a = host.node("a", &[]).await;
        let _b = host.node("b", &[]).await;
        let ended = end(&mut wait).await;
        assert_eq!(
            (ended.code, ended.stdout.as_str(), ended.stderr.as_str()),
            (Some(0), "greeter-a\ngreeter-b", "")
        );
        output(
            &host
                .run(&["wait", "greeter", "--ready", "3", "--timeout", "5s"])
                .await,
        )
    })
    .await;
    insta::assert_snapshot!(late, @r"
    1
    error: greeter: 2 of 3 nodes registered in etcd://ETCD after 5s
      watch its nodes: waypost --registry etcd://ETCD watch greeter
    ");
}

#[tokio::test]
async fn another_prefix_is_another_registry() {
    let elsewhere = each(async |binary| {
        let (etcd, host) = start(&binary).await;
        let _a = host.node("a", &[]).await;
        let other = Host::on(&etcd, "/other?timeout=3s");
        let elsewhere = other.run(&["get", "greeter"]).await;
        let _b = other.node("b", &[]).await;
        assert_eq!(
            etcd.keys("/").await.unwrap(),
            [
                "/micro/registry/greeter/greeter-a",
                "/other/greeter/greeter-b"
            ]
        );
        output(&elsewhere)
    })
    .await;
    insta::assert_snapshot!(elsewhere, @r#"
    1
    error: service "greeter" is not registered in etcd://ETCD/other?timeout=3s
      see what is: waypost --registry 'etcd://ETCD/other?timeout=3s' list
    "#);
}
