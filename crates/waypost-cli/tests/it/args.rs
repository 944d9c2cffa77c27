//! Flags and variables of any service in the demo's halves, and go-micro's registry for every
//! command.

use serde_json::Value;
use waypost_testkit::Child;

use crate::support::{DEADLINE, Host, run, waypost};

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap()
}

/// Returns the first line of one half of the demo.
async fn next_line(child: &mut Child) -> Value {
    json(&child.line(DEADLINE).await.unwrap())
}

#[tokio::test]
async fn the_server_registers_as_flags_and_the_environment_require() {
    let host = Host::new();
    let args = [
        "demo",
        "server",
        "--server-version",
        "2",
        "--id",
        "a",
        "--server-metadata",
        "zone=eu-1",
        "--register-ttl",
        "30s",
    ];
    let program = host
        .waypost(&args)
        .env("WAYPOST_SERVER_NAME", "bonjour")
        .env("MICRO_SERVER_NAME", "servus");
    let program = program
        .env("MICRO_SERVER_VERSION", "1")
        .env("MICRO_SERVER_METADATA", "rack=7")
        .env("MICRO_SERVER_ADDRESS", ":0");
    let mut server = Child::start("server", &program).unwrap();
    let registered = next_line(&mut server).await;
    assert_eq!(
        (&registered["service"], &registered["id"]),
        (&"bonjour".into(), &"bonjour-a".into())
    );
    let got = json(&host.run(&["get", "bonjour", "--json"]).await.stdout);
    let node = &got["services"][0]["nodes"][0];
    assert_eq!(
        (&got["services"][0]["version"], &node["address"]),
        (&"2".into(), &registered["address"]),
        "{got}"
    );
    assert_eq!(
        (&node["metadata"]["zone"], &node["metadata"]["rack"]),
        (&"eu-1".into(), &"7".into()),
        "{got}"
    );
}

#[tokio::test]
async fn the_client_calls_the_nodes_and_as_long_as_configured() {
    let host = Host::new();
    let mut server = host.start(&["demo", "server", "--server-name", "bonjour"]);
    next_line(&mut server).await;
    let program = host.waypost(&["demo", "client", "--service", "bonjour", "--rate", "20"]);
    let mut client = Child::start(
        "client",
        &program.env("MICRO_CLIENT_REQUEST_TIMEOUT", "300ms"),
    )
    .unwrap();
    assert_eq!(next_line(&mut client).await["event"], "call");
    server.sigstop().unwrap();
    let late = client
        .line_where(DEADLINE, |line| json(line)["result"] == "DeadlineExceeded")
        .await
        .unwrap();
    let took = json(&late)["duration_us"].as_u64().unwrap();
    assert!(
        (300_000..20_000_000).contains(&took),
        "nearer to 300 ms than to the default, 30 s: {late}"
    );
    server.sigcont().unwrap();
}

#[tokio::test]
async fn go_micros_variables_choose_the_registry_of_every_command() {
    let micro = |name, address| {
        waypost()
            .env("MICRO_REGISTRY", name)
            .env("MICRO_REGISTRY_ADDRESS", address)
    };
    for args in [
        &["list"][..],
        &["get", "a"],
        &["wait", "a"],
        &["demo", "client"],
        &["demo", "server"],
    ] {
        let ended = run(&micro("consul", "").args(args)).await;
        assert_eq!(ended.code, Some(2), "{args:?}: {ended:?}");
        assert!(
            ended
                .stderr
                .starts_with("error: MICRO_REGISTRY \"consul\": must be etcd or memory"),
            "{ended:?}"
        );
    }
    let ended = run(&micro("etcd", "127.0.0.1:1").args(["list"])).await;
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert!(ended.stderr.contains("127.0.0.1:1"), "{ended:?}");
    let host = Host::new();
    let ended = run(&host.waypost(&["list"]).env("MICRO_REGISTRY", "consul")).await;
    assert_eq!(ended.code, Some(0), "the flag wins: {ended:?}");
}

#[tokio::test]
async fn a_wrong_variable_is_wrong_usage() {
    let host = Host::new();
    let ended = run(&host
        .waypost(&["demo", "server"])
        .env("MICRO_REGISTER_TTL", "30s"))
    .await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""));
    insta::assert_snapshot!(ended.stderr, @r#"error: MICRO_REGISTER_TTL "30s": must be a whole number of seconds, such as 15; a value with a unit goes into the WAYPOST_ variable"#);
    let ended = run(&host
        .waypost(&["demo", "client"])
        .env("WAYPOST_CLIENT_STRATEGY", "best"))
    .await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""));
    insta::assert_snapshot!(ended.stderr, @r#"error: WAYPOST_CLIENT_STRATEGY "best": is not known: give random, round-robin or least-request"#);
}
