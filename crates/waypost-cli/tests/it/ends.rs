//! Failures of commands: the exit code, and what the error says to do.

use crate::support::{Host, run, waypost};

/// Returns the exit code and stderr of a command that must not write to stdout.
async fn failed(args: &[&str]) -> String {
    let ended = run(&waypost().args(args)).await;
    assert_eq!(ended.stdout, "", "{args:?}");
    format!("{}\n{}", ended.code.unwrap(), ended.stderr)
}

#[tokio::test]
async fn not_found_is_a_no() {
    let host = Host::new();
    let ended = host.run(&["get", "unknown"]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""));
    insta::assert_snapshot!(ended.stderr, @r#"
    error: service "unknown" is not registered in local:///here
      see what is: waypost --registry local:///here list
    "#);
}

#[tokio::test]
async fn an_empty_list_is_an_answer() {
    let host = Host::new();
    let ended = host.run(&["list"]).await;
    assert_eq!(ended.code, Some(0));
    insta::assert_snapshot!(format!("{}\n{}", ended.stdout, ended.stderr), @r"
    NAME  VERSION  NODES  ENDPOINTS
    no service is registered in local:///here; to see some: waypost demo
    ");
}

#[tokio::test]
async fn wrong_urls_are_wrong_usage() {
    insta::assert_snapshot!(failed(&["--registry", "nowhere", "list"]).await, @r#"
    2
    error: registry URL "nowhere": it has no scheme; this build knows memory://, static://host:port[,host:port…][?protocol=grpc], local://[dir][?option=value&…], etcd[s]://[user:pass@]host:port[,host:port…][/prefix][?option=value&…]
    "#);
    insta::assert_snapshot!(failed(&["--registry", "etcd://ann:hunter2@127.0.0.1:1?colour=red", "list"]).await, @r#"
    2
    error: registry URL "etcd://…@127.0.0.1:1?colour=red": "colour" is not an option of etcd://; the options are tls, ca, cert, key, server_name, password_file, timeout, heartbeat_timeout, relist_interval, rebalance_interval, backoff_initial, backoff_max, max_record_bytes, max_metadata_entries, max_endpoints
    "#);
    insta::assert_snapshot!(failed(&["--registry", "etcd://127.0.0.1:1//two", "list"]).await, @r#"
    2
    error: etcd prefix: "//two" must be a path: it begins with a slash, does not end with one, and has no empty part
    "#);
    insta::assert_snapshot!(failed(&["--registry", "memory://", "list"]).await, @r"
    2
    error: memory:// lives inside one process: a command would see nothing there
      give a registry that processes share: --registry local://
    ");
}

#[tokio::test]
async fn what_cannot_be_done_there_is_wrong_usage() {
    insta::assert_snapshot!(failed(&["--registry", "static://127.0.0.1:1", "demo"]).await, @r"
    2
    error: static:// is a fixed list: the demo's servers cannot register there
      give a registry that can be written: --registry local://
    ");
    insta::assert_snapshot!(failed(&["--registry", "memory://", "demo"]).await, @r"
    2
    error: memory:// lives inside one process: a command would see nothing there
      give a registry that processes share: --registry local://
    ");
    insta::assert_snapshot!(failed(&["--registry", "static://127.0.0.1:1", "register", "--name", "a", "--address", "b:1"]).await, @r"
    2
    error: static:// is a fixed list: a node cannot register there
      give a registry that can be written: --registry local://
    ");
}

#[tokio::test]
async fn wrong_values_are_reported_with_the_right_ones() {
    insta::assert_snapshot!(failed(&["wait", "greeter", "--timeout", "30"]).await, @r"
    2
    error: invalid value '30' for '--timeout <TIME>': must have a unit: 30s for seconds, or 30ms, 30m, 30h

    For more information, try '--help'.
    ");
    insta::assert_snapshot!(failed(&["register", "--name", "a", "--address", "b:1", "--metadata", "x"]).await, @r"
    2
    error: invalid value 'x' for '--metadata <KEY=VALUE>': must be a pair: give key=value

    For more information, try '--help'.
    ");
    insta::assert_snapshot!(failed(&["register", "--name", "a/b", "--address", "b:1", "--metadata", "protocol=grpc"]).await, @r#"
    2
    error: service name "a/b": has a character that is not allowed: use only a-z, A-Z, 0-9, '.', '_' and '-'
    "#);
    insta::assert_snapshot!(failed(&["register", "--name", "a", "--address", "b", "--metadata", "protocol=grpc"]).await, @r#"
    2
    error: cannot advertise b: the address has no port: give host:port, such as 10.0.0.7:8080 or [::1]:8080; it is set with .advertise("host:port"), --server-advertise or WAYPOST_SERVER_ADVERTISE (waypost register: --address)
    "#);
    insta::assert_snapshot!(failed(&["register", "--name", "a", "--address", "b:1", "--metadata", "protocol=grpc", "--ttl", "1s"]).await, @r"
    2
    error: registration ttl: 1s must be more than the interval, 5s, or the record comes and goes
    ");
    insta::assert_snapshot!(failed(&["demo", "--servers", "0"]).await, @r"
    2
    error: invalid value '0' for '--servers <SERVERS>': 0 is not in 1..=20

    For more information, try '--help'.
    ");
}

#[tokio::test]
async fn a_registry_that_cannot_be_used_is_code_3() {
    insta::assert_snapshot!(failed(&["--registry", "local:///dev/null/registry", "list"]).await, @r"
    3
    error: the local registry is unavailable: reading /dev/null/registry: Not a directory (os error 20)
      is it the right one, and up? choose with --registry URL or WAYPOST_REGISTRY
    ");
}

#[tokio::test]
async fn the_environment_chooses_the_registry_and_the_flag_overrules_it() {
    let program = |args: &[&str]| {
        waypost()
            .env("WAYPOST_REGISTRY", "etcd://127.0.0.1:1")
            .args(args)
    };
    assert_eq!(run(&program(&["list"])).await.code, Some(3));
    let host = Host::new();
    let url = format!("local://{}", host.path().display());
    assert_eq!(
        run(&program(&["list", "--registry", &url])).await.code,
        Some(0)
    );
}

#[tokio::test]
async fn every_shell_gets_its_completions() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ended = run(&waypost().args(["completions", shell])).await;
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
        for command in [
            "list",
            "get",
            "watch",
            "register",
            "deregister",
            "wait",
            "demo",
            "completions",
            "registry",
            "etcd",
        ] {
            assert!(ended.stdout.contains(command), "{shell}: {command}");
        }
        // Hidden commands and flags are not completed.
        for hidden in ["keep-etcd", "until-stdin-closes", "phase"] {
            assert!(!ended.stdout.contains(hidden), "{shell}: {hidden}");
        }
    }
    insta::assert_snapshot!(failed(&["completions", "tcsh"]).await, @r"
    2
    error: invalid value 'tcsh' for '<SHELL>'
      [possible values: bash, elvish, fish, powershell, zsh]

      tip: a similar value exists: 'zsh'

    For more information, try '--help'.
    ");
    let help = run(&waypost().args(["completions", "--help"])).await;
    assert!(
        [
            "bash  waypost completions bash > ",
            "zsh   waypost",
            "fish  waypost"
        ]
        .iter()
        .all(|how| help.stdout.contains(how))
    );
}
