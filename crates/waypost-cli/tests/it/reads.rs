//! `list`, `get` and `watch`, in every format.

use waypost_testkit::Child;

use crate::support::Host;

/// Registers two nodes of one version, and one of another.
async fn three(host: &Host) -> [Child; 3] {
    let grpc = ["--metadata", "protocol=grpc", "--metadata", "zone=eu-1"];
    let a = host.node("a", &grpc).await;
    let b = host.node("b", &[]).await;
    let c = host
        .node("c", &[&grpc[..2], &["--version", "2.0.0"]].concat())
        .await;
    [a, b, c]
}

async fn shown(host: &Host, args: &[&str]) -> String {
    let ended = host.run(args).await;
    assert_eq!(
        (ended.code, ended.stderr.as_str()),
        (Some(0), ""),
        "{args:?}"
    );
    ended.stdout
}

#[tokio::test]
async fn list_in_every_format() {
    let host = Host::new();
    let _nodes = three(&host).await;
    insta::assert_snapshot!(shown(&host, &["list"]).await, @r"
    NAME     VERSION  NODES  ENDPOINTS
    greeter  2.0.0        1          0
    greeter  latest       2          0
    ");
    insta::assert_snapshot!(shown(&host, &["list", "-o", "wide"]).await, @r"
    NAME     VERSION  NODES  ENDPOINTS  PROTOCOLS
    greeter  2.0.0        1          0  grpc
    greeter  latest       2          0  grpc
    ");
    insta::assert_snapshot!(shown(&host, &["list", "--json"]).await, @r#"
    {
      "schema": "waypost/1",
      "services": [
        {
          "name": "greeter",
          "version": "2.0.0",
          "nodes": 1,
          "endpoints": 0,
          "protocols": [
            "grpc"
          ]
        },
        {
          "name": "greeter",
          "version": "latest",
          "nodes": 2,
          "endpoints": 0,
          "protocols": [
            "grpc"
          ]
        }
      ]
    }
    "#);
    insta::assert_snapshot!(shown(&host, &["list", "-o", "jsonl"]).await, @r#"
    {"schema":"waypost/1","name":"greeter","version":"2.0.0","nodes":1,"endpoints":0,"protocols":["grpc"]}
    {"schema":"waypost/1","name":"greeter","version":"latest","nodes":2,"endpoints":0,"protocols":["grpc"]}
    "#);
    insta::assert_snapshot!(shown(&host, &["list", "-o", "name"]).await, @"greeter");
}

#[tokio::test]
async fn get_in_every_format() {
    let host = Host::new();
    let _nodes = three(&host).await;
    insta::assert_snapshot!(shown(&host, &["get", "greeter"]).await, @r"
    NODE       ADDRESS         VERSION  PROTOCOL  MEMBERSHIP
    greeter-c  127.0.0.1:9099  2.0.0    grpc      confirmed
    greeter-a  127.0.0.1:9097  latest   grpc      confirmed
    greeter-b  127.0.0.1:9098  latest   -         confirmed
    ");
    insta::assert_snapshot!(shown(&host, &["get", "greeter", "-o", "wide"]).await, @r"
    NODE       ADDRESS         VERSION  MEMBERSHIP  METADATA
    greeter-c  127.0.0.1:9099  2.0.0    confirmed   protocol=grpc waypost.instance=INSTANCE
    greeter-a  127.0.0.1:9097  latest   confirmed   protocol=grpc waypost.instance=INSTANCE zone=eu-1
    greeter-b  127.0.0.1:9098  latest   confirmed   waypost.instance=INSTANCE
    ");
    insta::assert_snapshot!(shown(&host, &["get", "greeter", "-o", "json"]).await, @r#"
    {
      "schema": "waypost/1",
      "services": [
        {
          "name": "greeter",
          "version": "2.0.0",
          "metadata": null,
          "endpoints": [],
          "nodes": [
            {
              "metadata": {
                "protocol": "grpc",
                "waypost.instance": "INSTANCE"
              },
              "id": "greeter-c",
              "address": "127.0.0.1:9099"
            }
          ]
        },
        {
          "name": "greeter",
          "version": "latest",
          "metadata": null,
          "endpoints": [],
          "nodes": [
            {
              "metadata": {
                "protocol": "grpc",
                "waypost.instance": "INSTANCE",
                "zone": "eu-1"
              },
              "id": "greeter-a",
              "address": "127.0.0.1:9097"
            },
            {
              "metadata": {
                "waypost.instance": "INSTANCE"
              },
              "id": "greeter-b",
              "address": "127.0.0.1:9098"
            }
          ]
        }
      ]
    }
    "#);
    insta::assert_snapshot!(shown(&host, &["get", "greeter", "-o", "jsonl"]).await, @r#"
    {"schema":"waypost/1","service":"greeter","version":"2.0.0","id":"greeter-c","address":"127.0.0.1:9099","membership":"confirmed","metadata":{"protocol":"grpc","waypost.instance":"INSTANCE"}}
    {"schema":"waypost/1","service":"greeter","version":"latest","id":"greeter-a","address":"127.0.0.1:9097","membership":"confirmed","metadata":{"protocol":"grpc","waypost.instance":"INSTANCE","zone":"eu-1"}}
    {"schema":"waypost/1","service":"greeter","version":"latest","id":"greeter-b","address":"127.0.0.1:9098","membership":"confirmed","metadata":{"waypost.instance":"INSTANCE"}}
    "#);
    insta::assert_snapshot!(shown(&host, &["get", "greeter", "-o", "name"]).await, @r"
    greeter-c
    greeter-a
    greeter-b
    ");
}

#[tokio::test]
async fn get_wide_shows_the_methods_of_a_real_server() {
    let host = Host::new();
    let _server = host.greeter("a").await;
    let shown = shown(&host, &["get", "greeter", "-o", "wide"]).await;
    let methods = shown.split_once("\n\n").unwrap().1;
    insta::assert_snapshot!(methods, @r"
    ENDPOINT       VERSION  REQUEST                    RESPONSE                       METADATA
    Greeter.Hello  latest   HelloRequest{name string}  HelloResponse{message string}  waypost.idempotent=true waypost.path=/greeter.Greeter/Hello
    ");
}

#[tokio::test]
async fn watch_tells_a_leave_from_a_loss() {
    insta::assert_snapshot!(Host::new().watched("table", &[]).await, @r"
    EVENT     NODE                                          ADDRESS                VERSION
    present   greeter-a                                     127.0.0.1:9097         latest
    created   greeter-b                                     127.0.0.1:9098         latest
    leaving   greeter-b                                     127.0.0.1:9098         latest
    left      greeter-b                                     127.0.0.1:9098         latest
    lost      greeter-a                                     127.0.0.1:9097         latest
    ");
}

#[tokio::test]
async fn watch_in_the_other_formats() {
    insta::assert_snapshot!(Host::new().watched("jsonl", &[]).await, @r#"
    {"schema":"waypost/1","event":"reset","nodes":1}
    {"schema":"waypost/1","event":"present","service":"greeter","version":"latest","id":"greeter-a","address":"127.0.0.1:9097","membership":"confirmed","metadata":{"waypost.instance":"INSTANCE"}}
    {"schema":"waypost/1","event":"created","service":"greeter","version":"latest","id":"greeter-b","address":"127.0.0.1:9098","membership":"confirmed","metadata":{"waypost.instance":"INSTANCE"}}
    {"schema":"waypost/1","event":"leaving","service":"greeter","version":"latest","id":"greeter-b","address":"127.0.0.1:9098","membership":"leaving","metadata":{"waypost.instance":"INSTANCE","waypost.state":"leaving"}}
    {"schema":"waypost/1","event":"left","service":"greeter","version":"latest","id":"greeter-b","address":"127.0.0.1:9098","membership":"leaving","metadata":{"waypost.instance":"INSTANCE","waypost.state":"leaving"}}
    {"schema":"waypost/1","event":"lost","service":"greeter","version":"latest","id":"greeter-a","address":"127.0.0.1:9097","membership":"confirmed","metadata":{"waypost.instance":"INSTANCE"}}
    "#);
    insta::assert_snapshot!(Host::new().watched("name", &[]).await, @r"
    greeter-a
    greeter-b
    greeter-b
    greeter-b
    greeter-a
    ");
    let wide = Host::new().watched("wide", &[]).await;
    let timeless: Vec<_> = wide
        .lines()
        .map(|line| line.get(11..).unwrap_or_default())
        .collect();
    insta::assert_snapshot!(timeless.join("\n"), @r"
    EVENT     NODE                                          ADDRESS                VERSION
    present   greeter-a                                     127.0.0.1:9097         latest
    created   greeter-b                                     127.0.0.1:9098         latest
    leaving   greeter-b                                     127.0.0.1:9098         latest
    left      greeter-b                                     127.0.0.1:9098         latest
    lost      greeter-a                                     127.0.0.1:9097         latest
    ");
}

#[tokio::test]
async fn what_a_terminal_would_obey_is_shown_and_not_sent() {
    let host = Host::new();
    let hostile = "note=\u{1b}[2J\u{202e}\u{9b}31mx";
    let _node = host
        .node(
            "a",
            &["--metadata", hostile, "--version", "1\u{1b}]0;owned\u{7}"],
        )
        .await;
    let mut all = String::new();
    for format in ["table", "wide", "json", "jsonl", "name"] {
        for command in [["get", "greeter"].as_slice(), &["list"]] {
            all.push_str(&shown(&host, &[command, &["-o", format]].concat()).await);
        }
    }
    assert!(
        all.contains(r"note=\u{1b}[2J\u{202e}\u{9b}31mx")
            && all.contains(r#""note": "\u001b[2J\u202e\u009b31mx""#),
        "{all}"
    );
    let raw = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
    assert!(!all.contains(raw), "{all:?}");
}

#[test]
fn a_closed_stdout_is_no_error() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let folder = tempfile::tempdir().unwrap();
    let mut list = std::process::Command::new(env!("CARGO_BIN_EXE_waypost"));
    list.args([
        "list",
        "--registry",
        &format!("local://{}", folder.path().display()),
    ])
    .stdout(writer);
    let output = list
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.success()
            && stderr.starts_with("no service is registered")
            && stderr.lines().count() == 1,
        "{stderr}"
    );
}
