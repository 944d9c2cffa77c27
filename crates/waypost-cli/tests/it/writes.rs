//! `register`, `deregister` and `wait`.

use crate::support::{DEADLINE, Host, end, run, waypost};

#[tokio::test]
async fn a_registration_is_held_until_it_is_asked_to_leave() {
    let host = Host::new();
    for signal in [
        waypost_testkit::Child::sigterm,
        waypost_testkit::Child::sigint,
    ] {
        let mut node = host.node("a", &["--metadata", "protocol=grpc"]).await;
        assert_eq!(
            host.run(&["get", "greeter", "-o", "name"]).await.stdout,
            "greeter-a"
        );
        signal(&mut node).unwrap();
        let ended = end(&mut node).await;
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
        assert_eq!(
            ended.stdout,
            "registered greeter-a at 127.0.0.1:9097\nleft greeter-a at 127.0.0.1:9097"
        );
        assert_eq!(host.run(&["get", "greeter"]).await.code, Some(1));
    }
}

#[tokio::test]
async fn a_registration_reports_other_programs_in_json() {
    let host = Host::new();
    let mut node = host.start(&[
        "register",
        "--name",
        "web",
        "--id",
        "1",
        "--address",
        "[::1]:80",
        "--json",
    ]);
    let line = node.line(DEADLINE).await.unwrap();
    insta::assert_snapshot!(line, @r#"{"schema":"waypost/1","event":"registered","service":"web","id":"web-1","address":"[::1]:80"}"#);
    insta::assert_snapshot!(node.stderr().join("\n"), @"note: its metadata names no protocol, so Waypost's channels exclude it; add --metadata protocol=grpc");
}

#[tokio::test]
async fn a_server_on_every_interface_is_registered_where_the_readers_reach_it() {
    let host = Host::new();
    for (id, address) in [("a", ":80"), ("b", "0.0.0.0:80"), ("c", "[::]:80")] {
        let mut node = host.start(&[
            "register",
            "--name",
            "web",
            "--id",
            id,
            "--address",
            address,
        ]);
        let line = node.line(DEADLINE).await.unwrap();
        assert_eq!(line, format!("registered web-{id} at 127.0.0.1:80"));
    }
}

#[tokio::test]
async fn an_address_that_clients_cannot_reach_is_refused_with_the_flag() {
    let host = Host::new();
    let ended = host
        .run(&["register", "--name", "web", "--address", "web.example"])
        .await;
    assert_eq!(ended.code, Some(2));
    insta::assert_snapshot!(ended.stderr.lines().last().unwrap(), @r#"error: cannot advertise web.example: the address has no port: give host:port, such as 10.0.0.7:8080 or [::1]:8080; it is set with .advertise("host:port"), --server-advertise or WAYPOST_SERVER_ADVERTISE (waypost register: --address)"#);
    // Nothing is connected: the address is checked first.
    let remote = [
        "--registry",
        "etcd://192.0.2.1:2379",
        "register",
        "--name",
        "web",
    ];
    let program = waypost().args(remote).args(["--address", "127.0.0.1:80"]);
    let ended = run(&program).await;
    assert_eq!(ended.code, Some(2));
    insta::assert_snapshot!(ended.stderr.lines().last().unwrap(), @r#"error: cannot advertise 127.0.0.1:80: it is loopback, and clients of this registry may be on other hosts; listen where they reach it, such as 0.0.0.0:0, with .bind(..), --server-address or WAYPOST_SERVER_ADDRESS, give an address with .advertise("host:port"), --server-advertise or WAYPOST_SERVER_ADVERTISE (waypost register: --address), or allow loopback with .allow_loopback(true) (--server-config allow-loopback=true, waypost register: --allow-loopback)"#);
}

#[tokio::test]
async fn an_id_that_is_held_is_waited_for_and_reported() {
    let host = Host::new();
    let mut first = host.node("a", &[]).await;
    let mut second = host.start(&[
        "register",
        "--name",
        "greeter",
        "--id",
        "a",
        "--address",
        "127.0.0.1:1",
    ]);
    crate::support::eventually(|| {
        second
            .stderr()
            .iter()
            .any(|line| line.contains("is held by another instance"))
    })
    .await;
    first.sigterm().unwrap();
    assert_eq!(
        second.line(DEADLINE).await.unwrap(),
        "registered greeter-a at 127.0.0.1:1"
    );
}

#[tokio::test]
async fn a_live_owner_is_back_after_it_was_deregistered() {
    let host = Host::new();
    let _node = host.node("a", &["--interval", "1s", "--ttl", "3s"]).await;
    let mut watch = host.start(&["watch", "-o", "jsonl"]);
    let next = async |watch: &mut waypost_testkit::Child| {
        let line = watch.line(DEADLINE).await.unwrap();
        serde_json::from_str::<serde_json::Value>(&line).unwrap()["event"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(
        [next(&mut watch).await, next(&mut watch).await],
        ["reset", "present"]
    );
    let removed = host.run(&["deregister", "greeter", "a"]).await;
    insta::assert_snapshot!(removed.stderr, @"removed greeter-a; if its owner lives, it will be back at its next beat: to end it, stop its process");
    assert_eq!((removed.code, removed.stdout.as_str()), (Some(0), ""));
    let mut events = vec![next(&mut watch).await];
    while events.last().is_none_or(|event| event != "created") {
        events.push(next(&mut watch).await);
    }
    assert_eq!(events, ["leaving", "left", "created"]);
}

#[tokio::test]
async fn what_is_not_there_cannot_be_deregistered() {
    let host = Host::new();
    let _node = host.node("a", &[]).await;
    let ended = host.run(&["deregister", "greeter", "z"]).await;
    assert_eq!(ended.code, Some(1));
    insta::assert_snapshot!(ended.stderr, @r#"
    error: service "greeter" has no node "z" in local:///here
      see which it has: waypost --registry local:///here get greeter
    "#);
}

#[tokio::test]
async fn wait_ends_when_there_are_enough() {
    let host = Host::new();
    let _a = host.node("a", &[]).await;
    let mut wait = host.start(&["wait", "greeter", "--ready", "2", "-o", "name"]);
    let _b = host.node("b", &[]).await;
    let ended = end(&mut wait).await;
    assert_eq!(
        (ended.code, ended.stdout.as_str(), ended.stderr.as_str()),
        (Some(0), "greeter-a\ngreeter-b", "")
    );
}

#[tokio::test]
async fn wait_reports_the_missing_nodes_at_its_timeout() {
    let host = Host::new();
    let _a = host.node("a", &[]).await;
    let ended = host
        .run(&["wait", "greeter", "--ready", "3", "--timeout", "300ms"])
        .await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""));
    insta::assert_snapshot!(ended.stderr, @r"
    error: greeter: 1 of 3 nodes registered in local:///here after 300ms
      watch its nodes: waypost --registry local:///here watch greeter
    ");
}
