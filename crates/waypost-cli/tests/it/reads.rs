//! `list`, `get` and `watch`, in every format.

use waypost::record::{Endpoint, Metadata, Node, Service, keys};
use waypost_testkit::Child;

use crate::support::{DEADLINE, Host, without_times};

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
    NODE       ADDRESS         VERSION  PROTOCOL  MEMBERSHIP  METADATA
    greeter-c  127.0.0.1:9099  2.0.0    grpc      confirmed   -
    greeter-a  127.0.0.1:9097  latest   grpc      confirmed   zone=eu-1
    greeter-b  127.0.0.1:9098  latest   -         confirmed   -
    ");
    insta::assert_snapshot!(shown(&host, &["get", "greeter", "-o", "wide"]).await, @r"
    NODE       ADDRESS         VERSION  PROTOCOL  MEMBERSHIP  METADATA
    greeter-c  127.0.0.1:9099  2.0.0    grpc      confirmed   protocol=grpc waypost.instance=INSTANCE waypost.interval=5000ms
    greeter-a  127.0.0.1:9097  latest   grpc      confirmed   protocol=grpc waypost.instance=INSTANCE waypost.interval=5000ms zone=eu-1
    greeter-b  127.0.0.1:9098  latest   -         confirmed   waypost.instance=INSTANCE waypost.interval=5000ms
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
                "waypost.instance": "INSTANCE",
                "waypost.interval": "5000ms"
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
                "waypost.interval": "5000ms",
                "zone": "eu-1"
              },
              "id": "greeter-a",
              "address": "127.0.0.1:9097"
            },
            {
              "metadata": {
                "waypost.instance": "INSTANCE",
                "waypost.interval": "5000ms"
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
    {"schema":"waypost/1","service":"greeter","version":"2.0.0","id":"greeter-c","address":"127.0.0.1:9099","membership":"confirmed","metadata":{"protocol":"grpc","waypost.instance":"INSTANCE","waypost.interval":"5000ms"}}
    {"schema":"waypost/1","service":"greeter","version":"latest","id":"greeter-a","address":"127.0.0.1:9097","membership":"confirmed","metadata":{"protocol":"grpc","waypost.instance":"INSTANCE","waypost.interval":"5000ms","zone":"eu-1"}}
    {"schema":"waypost/1","service":"greeter","version":"latest","id":"greeter-b","address":"127.0.0.1:9098","membership":"confirmed","metadata":{"waypost.instance":"INSTANCE","waypost.interval":"5000ms"}}
    "#);
    insta::assert_snapshot!(shown(&host, &["get", "greeter", "-o", "name"]).await, @r"
    greeter-c
    greeter-a
    greeter-b
    ");
}

#[tokio::test]
async fn get_shows_the_methods_and_the_metadata_of_a_real_server() {
    let host = Host::new();
    let _server = host.greeter("a").await;
    let get = async |format| {
        let shown = shown(&host, &["get", "greeter", "-o", format]).await;
        let (nodes, methods) = shown.split_once("\n\n").unwrap();
        assert!(
            nodes.contains("MEMBERSHIP  METADATA") && nodes.contains("transport=grpc"),
            "{nodes}"
        );
        methods.to_owned()
    };
    insta::assert_snapshot!(get("table").await, @r"
    ENDPOINT       VERSION  REQUEST       RESPONSE       METADATA
    Greeter.Hello  latest   HelloRequest  HelloResponse  waypost.idempotent=true waypost.path=/greeter.Greeter/Hello
    ");
    insta::assert_snapshot!(get("wide").await, @r"
    ENDPOINT       VERSION  REQUEST                    RESPONSE                       METADATA
    Greeter.Hello  latest   HelloRequest{name string}  HelloResponse{message string}  waypost.idempotent=true waypost.path=/greeter.Greeter/Hello
    ");
}

/// Writes a record, as another program may. Its owner lives as long as the lock is held.
fn put(host: &Host, id: &str, record: &[u8]) -> std::fs::File {
    let folder = host.path().join("greeter");
    std::fs::create_dir_all(&folder).unwrap();
    let lock = std::fs::File::create(folder.join(format!("{id}.lock"))).unwrap();
    lock.lock().unwrap();
    std::fs::write(folder.join(format!("{id}.json")), record).unwrap();
    lock
}

#[tokio::test]
async fn get_shows_a_record_whose_schemas_were_left_out() {
    let host = Host::new();
    let mut service = Service::new("greeter");
    service.metadata.insert("team", "blue");
    service
        .nodes
        .push(Node::with_id("greeter", "a", "127.0.0.1:9097"));
    for number in 0..320 {
        service.endpoints.push(Endpoint {
            name: format!("Greeter.Method{number}"),
            metadata: Metadata::from([(keys::PATH, format!("/greeter.Greeter/Method{number}"))]),
            ..Endpoint::default()
        });
    }
    let _lock = put(&host, "greeter-a", service.to_json().as_bytes());
    for format in ["table", "wide"] {
        let shown = shown(&host, &["get", "greeter", "-o", format]).await;
        let blocks: Vec<_> = shown.split("\n\n").collect();
        assert_eq!(blocks.len(), 3, "{shown}");
        insta::allow_duplicates! {
            insta::assert_snapshot!(blocks[1], @r"
            SERVICE  VERSION  METADATA
            greeter  latest   team=blue
            ");
        }
        let methods: Vec<_> = blocks[2].lines().collect();
        assert_eq!(methods.len(), 1 + 320);
        assert_eq!(
            methods[320].split_whitespace().collect::<Vec<_>>(),
            [
                "Greeter.Method319",
                "latest",
                "waypost.path=/greeter.Greeter/Method319"
            ]
        );
    }
}

#[tokio::test]
async fn a_skipped_record_is_named_where_its_service_is_asked_for() {
    let host = Host::new();
    let long = put(&host, "greeter-long", &vec![b' '; 82_651]);
    let reason = r#"1 record skipped: 82 651 bytes, at most 66 560 (node "greeter-long")"#;
    let ended = host.run(&["get", "greeter"]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""));
    // The log, which precedes the error, names it with a time.
    let (_, error) = ended.stderr.split_once("\nerror: ").unwrap();
    insta::assert_snapshot!(error, @r#"
    service "greeter" is not registered in local:///here; 1 record skipped: 82 651 bytes, at most 66 560 (node "greeter-long")
      see what is: waypost --registry local:///here list
    "#);
    let ended = host.run(&["wait", "greeter", "--timeout", "200ms"]).await;
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains(reason), "{}", ended.stderr);

    let _node = host.node("a", &[]).await;
    for args in [&["list"][..], &["get", "greeter"], &["wait", "greeter"]] {
        let ended = host.run(args).await;
        let log =
            r#"invalid record skipped service="greeter" node="greeter-long" error=82 651 bytes"#;
        assert!(
            ended.code == Some(0) && ended.stderr.contains(log),
            "{args:?}: {ended:?}"
        );
    }
    let ended = host.run(&["get", "greeter", "--json"]).await;
    let json: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(json["skipped"]["count"], 1, "{json}");
    assert_eq!(json["skipped"]["first"][0]["id"], "greeter-long");

    std::fs::remove_file(host.path().join("greeter/greeter-long.json")).unwrap();
    drop(long);
    assert!(
        !shown(&host, &["get", "greeter", "--json"])
            .await
            .contains("skipped")
    );
}

#[tokio::test]
async fn reading_creates_no_directory() {
    let host = Host::new();
    let codes = [
        (&["list"][..], 0),
        (&["get", "greeter"], 1),
        (&["wait", "greeter", "--timeout", "200ms"], 1),
        (&["deregister", "greeter", "a"], 1),
    ];
    for (args, code) in codes {
        assert_eq!(host.run(args).await.code, Some(code), "{args:?}");
    }
    let mut watch = host.start(&["watch"]);
    let heading = watch.line(DEADLINE).await.unwrap();
    assert!(heading.starts_with("TIME (UTC)"), "{heading}");
    assert!(!host.path().exists());
    let _node = host.node("a", &[]).await;
    let event = watch.line(DEADLINE).await.unwrap();
    assert!(event.contains("greeter-a"), "{event}");
}

/// Returns the current time as `date` prints it.
fn date(format: &str) -> String {
    let output = std::process::Command::new("date")
        .args(["-u", format])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn watch_reports_a_leave_from_a_loss() {
    let table = Host::new().watched("table", &[]).await;
    insta::assert_snapshot!(without_times(&table), @r"
    TIME (UTC)    EVENT     NODE                                          ADDRESS                VERSION
    HH:MM:SS.mmm  present   greeter-a                                     127.0.0.1:9097         latest
    HH:MM:SS.mmm  created   greeter-b                                     127.0.0.1:9098         latest
    HH:MM:SS.mmm  leaving   greeter-b                                     127.0.0.1:9098         latest
    HH:MM:SS.mmm  left      greeter-b                                     127.0.0.1:9098         latest
    HH:MM:SS.mmm  lost      greeter-a                                     127.0.0.1:9097         latest
    ");
}

#[tokio::test]
async fn watch_in_the_other_formats() {
    let since = date("+%Y-%m-%dT%H:%M:%S");
    let jsonl = Host::new().watched("jsonl", &[]).await;
    let untimed = jsonl.lines().map(|line| {
        let (before, rest) = line.split_once(r#","time":""#).unwrap();
        let (time, after) = rest.split_once('"').unwrap();
        assert!(*time >= *since, "{line}");
        format!("{before}{after}")
    });
    insta::assert_snapshot!(untimed.collect::<Vec<_>>().join("\n"), @r#"
    {"schema":"waypost/1","event":"reset","nodes":1}
    {"schema":"waypost/1","event":"present","service":"greeter","version":"latest","id":"greeter-a","address":"127.0.0.1:9097","membership":"confirmed","metadata":{"waypost.instance":"INSTANCE","waypost.interval":"5000ms"}}
    {"schema":"waypost/1","event":"created","service":"greeter","version":"latest","id":"greeter-b","address":"127.0.0.1:9098","membership":"confirmed","metadata":{"waypost.instance":"INSTANCE","waypost.interval":"5000ms"}}
    {"schema":"waypost/1","event":"leaving","service":"greeter","version":"latest","id":"greeter-b","address":"127.0.0.1:9098","membership":"leaving","metadata":{"waypost.instance":"INSTANCE","waypost.interval":"5000ms","waypost.state":"leaving"}}
    {"schema":"waypost/1","event":"left","service":"greeter","version":"latest","id":"greeter-b","address":"127.0.0.1:9098","membership":"leaving","metadata":{"waypost.instance":"INSTANCE","waypost.interval":"5000ms","waypost.state":"leaving"}}
    {"schema":"waypost/1","event":"lost","service":"greeter","version":"latest","id":"greeter-a","address":"127.0.0.1:9097","membership":"confirmed","metadata":{"waypost.instance":"INSTANCE","waypost.interval":"5000ms"}}
    "#);
    insta::assert_snapshot!(Host::new().watched("name", &[]).await, @r"
    greeter-a
    greeter-b
    greeter-b
    greeter-b
    greeter-a
    ");
    let wide = Host::new().watched("wide", &[]).await;
    for line in wide.lines().skip(1) {
        let time = line.split("  ").next().unwrap();
        assert!(time.ends_with('Z') && *time >= *since, "{line}");
    }
    insta::assert_snapshot!(without_times(&wide), @r"
    TIME                      EVENT     NODE                                          ADDRESS                VERSION
    DATETHH:MM:SS.mmmZ  present   greeter-a                                     127.0.0.1:9097         latest
    DATETHH:MM:SS.mmmZ  created   greeter-b                                     127.0.0.1:9098         latest
    DATETHH:MM:SS.mmmZ  leaving   greeter-b                                     127.0.0.1:9098         latest
    DATETHH:MM:SS.mmmZ  left      greeter-b                                     127.0.0.1:9098         latest
    DATETHH:MM:SS.mmmZ  lost      greeter-a                                     127.0.0.1:9097         latest
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
