//! `waypost demo` and its halves.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use serde_json::Value;
use waypost::record::{Service, keys};
use waypost_testkit::{Child, Program};

use crate::support::{DEADLINE, Host, end, eventually, run, waypost};

/// Returns a small demo whose temporary directory is `folder`, and which must ignore the registry
/// of the environment.
fn demo(folder: &Path, args: &[&str]) -> Program {
    waypost()
        .env("WAYPOST_REGISTRY", "nowhere")
        .env("MICRO_REGISTRY", "consul")
        .env("MICRO_SERVER_NAME", "other")
        .env("TMPDIR", folder)
        .args(["demo", "--servers", "3", "--rate", "100", "--phase", "1s"])
        .args(args)
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).unwrap().next().is_none()
}

#[tokio::test]
async fn no_call_fails_and_the_object_is_as_promised() {
    let folder = tempfile::tempdir().unwrap();
    let ended = run(&demo(folder.path(), &["--json"])).await;
    assert_eq!(
        (ended.code, ended.stdout.lines().count()),
        (Some(0), 1),
        "{ended:?}"
    );
    let summary: Value = serde_json::from_str(&ended.stdout).unwrap();
    let number = |value: &Value| value.as_u64().unwrap();
    assert_eq!(
        (&summary["schema"], &summary["registry"]),
        (&"waypost/1".into(), &"local".into())
    );
    assert_eq!(
        (number(&summary["servers"]), number(&summary["failed"])),
        (3, 0)
    );
    let phases = summary["phases"].as_array().unwrap();
    assert_eq!(
        phases
            .iter()
            .map(|phase| &phase["name"])
            .collect::<Vec<_>>(),
        ["steady", "rolling-restart", "kill"]
    );
    assert_eq!(
        phases
            .iter()
            .map(|phase| number(&phase["calls"]))
            .sum::<u64>(),
        number(&summary["calls"])
    );
    // Three drains of one second each, at 100 calls per second.
    assert!(
        number(&phases[0]["calls"]) >= 90 && number(&phases[1]["calls"]) >= 290,
        "{summary}"
    );
    assert!(
        number(&summary["p50_us"]) > 0 && number(&summary["p50_us"]) <= number(&summary["p99_us"]),
        "{summary}"
    );
    assert!(is_empty(folder.path()));
}

/// Checks the object of a demo over TLS: nothing failed, and the new certificate was served in time.
pub(crate) fn check_tls(stdout: &str) {
    let summary: Value = serde_json::from_str(stdout).unwrap();
    let phases = summary["phases"].as_array().unwrap();
    let names: Vec<_> = phases.iter().map(|phase| &phase["name"]).collect();
    assert_eq!(names, ["steady", "rolling-restart", "kill", "certificate"]);
    assert_eq!(summary["failed"], 0, "{summary}");
    assert!(summary["calls"].as_u64().unwrap() > 400, "{summary}");
    assert!(
        summary["certificate_served_ms"].as_u64().unwrap() < 5_000,
        "{summary}"
    );
}

#[tokio::test]
async fn over_tls_no_call_fails_while_the_certificate_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let demo = demo(folder.path(), &["--tls", "--json"]).env("WAYPOST_SERVER_TLS_CERT", "nowhere");
    let ended = run(&demo).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    check_tls(&ended.stdout);
    assert!(
        ended.stderr.contains("serves serial 2 after"),
        "{}",
        ended.stderr
    );
    assert!(!ended.stderr.contains("WARN"), "{}", ended.stderr);
    assert!(is_empty(folder.path()));
}

#[tokio::test]
async fn people_get_a_table_on_stdout_and_the_acts_on_stderr() {
    let host = Host::new();
    let ended = host
        .run(&["demo", "--servers", "2", "--rate", "50", "--phase", "500ms"])
        .await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let first: Vec<_> = ended
        .stdout
        .lines()
        .map(|line| line.split_whitespace().next().unwrap_or_default())
        .collect();
    assert_eq!(
        first,
        [
            "PHASE",
            "steady",
            "rolling-restart",
            "kill",
            "all",
            "",
            "Every"
        ]
    );
    assert!(
        ended.stdout.ends_with("calls, none failed.") && !ended.stdout.contains('\u{1b}'),
        "{}",
        ended.stdout
    );
    let acts = [
        "2 × waypost demo server in local:///here",
        "steady",
        ": SIGTERM",
        "in place of",
        ": SIGKILL",
    ];
    assert!(
        acts.iter().all(|act| ended.stderr.contains(act)),
        "{}",
        ended.stderr
    );
    assert_eq!(
        host.run(&["get", "greeter"]).await.code,
        Some(1),
        "all have left"
    );
}

/// Starts a demo, and waits until its restarts have begun.
async fn midst(folder: &Path) -> Child {
    let demo = Child::start("demo", &demo(folder, &[]).own_group()).unwrap();
    eventually(|| demo.stderr().iter().any(|line| line.contains("SIGTERM"))).await;
    demo
}

#[tokio::test]
async fn ctrl_c_and_sigterm_sum_up_and_leave_no_process_and_no_folder() {
    let folder = tempfile::tempdir().unwrap();
    for stop in [Child::ctrl_c, Child::sigterm] {
        let mut demo = midst(folder.path()).await;
        stop(&mut demo).unwrap();
        let ended = end(&mut demo).await;
        assert_eq!(ended.code, Some(130), "{ended:?}");
        let first: Vec<_> = ended
            .stdout
            .lines()
            .map(|line| line.split_whitespace().next().unwrap_or_default())
            .collect();
        assert_eq!(
            first,
            [
                "PHASE",
                "steady",
                "rolling-restart",
                "all",
                "",
                "Interrupted:"
            ]
        );
        let sentence = ended.stdout.lines().last().unwrap();
        let calls = sentence
            .strip_prefix("Interrupted: ")
            .and_then(|rest| rest.strip_suffix(" calls, none failed."));
        // The steady phase was whole: a second at 100 calls per second.
        assert!(calls.unwrap().parse::<u32>().unwrap() >= 90, "{sentence}");
        assert!(!demo.group_is_alive());
        assert!(is_empty(folder.path()));
    }
}

#[tokio::test]
async fn a_demo_that_is_killed_takes_its_servers_along() {
    let folder = tempfile::tempdir().unwrap();
    let mut demo = midst(folder.path()).await;
    demo.sigkill().unwrap();
    assert_eq!(demo.wait(DEADLINE).await.unwrap().signal(), Some(9));
    eventually(|| !demo.group_is_alive()).await;
}

#[tokio::test]
async fn the_server_reports_its_registration_and_deregistration() {
    let host = Host::new();
    let mut server = host.greeter("a").await;
    server.sigterm().unwrap();
    let ended = end(&mut server).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    let left: Value = serde_json::from_str(ended.stdout.lines().nth(1).unwrap()).unwrap();
    assert_eq!(
        (&left["event"], &left["id"], ended.stdout.lines().count()),
        (&"left".into(), &"greeter-a".into(), 2)
    );
}

#[tokio::test]
async fn the_demos_record_is_what_go_micro_writes_for_its_descriptor() {
    let host = Host::new();
    let _server = host.greeter("a").await;
    let record = std::fs::read(host.path().join("greeter/greeter-a.json")).unwrap();
    let golden = std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../waypost-core/tests/golden/grpc.kv"
    ))
    .unwrap();
    let [ours, theirs] = [record.as_slice(), golden.lines().nth(1).unwrap().as_bytes()]
        .map(|json| like(json).to_json());
    assert_eq!(ours, theirs);
}

/// Returns a record without the parts that may differ: id, address and registry, `broker`, and the
/// metadata that only Waypost writes.
fn like(json: &[u8]) -> Service {
    let mut service = Service::from_json(json).unwrap();
    let node = &mut service.nodes[0];
    (node.id, node.address) = ("ID".into(), "ADDRESS".into());
    for key in ["registry", "broker", keys::INSTANCE, keys::INTERVAL] {
        node.metadata.remove(key);
    }
    for endpoint in &mut service.endpoints {
        endpoint.metadata.remove(keys::PATH);
        endpoint.metadata.remove(keys::IDEMPOTENT);
    }
    service
}
