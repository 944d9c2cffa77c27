//! Help as the users of a service see it, and the effect of flattening on a parser.

use clap::{Args, Command, CommandFactory, Parser};

use super::super::{RegistryArgs, ServerArgs, ServiceArgs, variables};
use super::Cli;

#[test]
fn the_help_shows_every_flag_and_its_variables() {
    insta::assert_snapshot!(Cli::command().term_width(100).render_help(), @r"
    A service with a flag of its own

    Usage: greeterd [OPTIONS]

    Options:
          --workers <WORKERS>  Number of calls at once [default: 8]
      -h, --help               Print help
      -V, --version            Print version

    Waypost:
          --registry <URL>                  Registry URL: etcd://host:2379, local://, static://host:port
                                            [env: WAYPOST_REGISTRY, MICRO_REGISTRY with
                                            MICRO_REGISTRY_ADDRESS]
          --server-name <NAME>              Name of the service in the registry
                                            [env: WAYPOST_SERVER_NAME, MICRO_SERVER_NAME]
          --server-version <VERSION>        Version of the service
                                            [env: WAYPOST_SERVER_VERSION, MICRO_SERVER_VERSION]
          --server-id <ID>                  Id of the node, NAME-ID in the registry; random by default
                                            [env: WAYPOST_SERVER_ID, MICRO_SERVER_ID]
          --server-address <HOST:PORT>      Address to listen on; port 0 is any free port, :8080 is
                                            every interface
                                            [env: WAYPOST_SERVER_ADDRESS, MICRO_SERVER_ADDRESS]
          --server-advertise <HOST[:PORT]>  Address that clients dial, if it differs
                                            [env: WAYPOST_SERVER_ADVERTISE, MICRO_SERVER_ADVERTISE]
          --server-metadata <KEY=VALUE>     Metadata of the node; several with commas, or repeat the
                                            flag
                                            [env: WAYPOST_SERVER_METADATA, MICRO_SERVER_METADATA]
          --register-ttl <TIME>             Time to live of the record if the process dies, such as 15s
                                            [env: WAYPOST_REGISTER_TTL, MICRO_REGISTER_TTL (s)]
          --register-interval <TIME>        Interval between heartbeats, less than the TTL
                                            [env: WAYPOST_REGISTER_INTERVAL, MICRO_REGISTER_INTERVAL
                                            (s)]
          --server-config <KEY=VALUE>       Other settings; several with commas, or repeat the flag.
                                            Keys: drain-delay, timeout, backoff-initial, backoff-max,
                                            reregister-jitter, failure-threshold, success-threshold,
                                            drain-timeout, allow-loopback
                                            [env: WAYPOST_SERVER_CONFIG]
          --server-tls-cert <FILE>          Certificate chain (PEM) of the server; enables TLS
                                            [env: WAYPOST_SERVER_TLS_CERT]
          --server-tls-key <FILE>           Private key (PEM) of the certificate
                                            [env: WAYPOST_SERVER_TLS_KEY]
          --server-tls-client-ca <FILE>     CA certificates (PEM) that verify clients (mTLS)
                                            [env: WAYPOST_SERVER_TLS_CLIENT_CA]
          --client-strategy <NAME>          Load balancing strategy: random, round-robin or
                                            least-request
                                            [env: WAYPOST_CLIENT_STRATEGY]
          --client-retries <N>              Maximum number of retries of a retryable call
                                            [env: WAYPOST_CLIENT_RETRIES, MICRO_CLIENT_RETRIES]
          --client-request-timeout <TIME>   Deadline of unary calls that set none
                                            [env: WAYPOST_CLIENT_REQUEST_TIMEOUT,
                                            MICRO_CLIENT_REQUEST_TIMEOUT]
          --client-connect-timeout <TIME>   Timeout of a connect to a node
                                            [env: WAYPOST_CLIENT_CONNECT_TIMEOUT]
          --client-wait-for-ready <TIME>    Maximum time that a call waits for a ready node
                                            [env: WAYPOST_CLIENT_WAIT_FOR_READY]
          --client-config <KEY=VALUE>       Other settings; several with commas, or repeat the flag.
                                            Keys: suspect-grace, idle-watch, watch-backoff-initial,
                                            watch-backoff-max, backoff-initial, backoff-max,
                                            settled-after, max-dials, idle-timeout, ping-after,
                                            ping-timeout, close-timeout, budget-per-call,
                                            budget-per-second, budget-initial, budget-window,
                                            waiting-calls, waiting-bytes, max-peers, wait-for-node,
                                            stall-after, stall-p50s, replay-limit
                                            [env: WAYPOST_CLIENT_CONFIG]
          --client-tls-ca <FILE|system>     CA certificates (PEM) that verify servers; system: those of
                                            the operating system
                                            [env: WAYPOST_CLIENT_TLS_CA]
          --client-tls-cert <FILE>          Certificate (PEM) of the client, for servers that require
                                            one
                                            [env: WAYPOST_CLIENT_TLS_CERT]
          --client-tls-key <FILE>           Private key (PEM) of the certificate
                                            [env: WAYPOST_CLIENT_TLS_KEY]
          --client-tls-server-name <NAME>   Name in the servers' certificates, such as
                                            {service}.internal; the service's name by default
                                            [env: WAYPOST_CLIENT_TLS_SERVER_NAME]
          --client-tls-assume <true|false>  Assume TLS of nodes whose record does not state it, such as
                                            those of go-micro
                                            [env: WAYPOST_CLIENT_TLS_ASSUME]
    ");
}

#[test]
fn every_flag_has_a_variable_of_its_name_and_the_help_shows_all_that_are_read() {
    let command = ServiceArgs::augment_args(Command::new("x"));
    let mut shown = Vec::new();
    for arg in command.get_arguments() {
        let help = arg.get_help().unwrap().to_string();
        let names = help
            .split("[env: ")
            .nth(1)
            .unwrap()
            .trim_end_matches(']')
            .split([',', ' ']);
        let names: Vec<_> = names
            .filter(|word| word.contains('_'))
            .map(ToOwned::to_owned)
            .collect();
        assert_eq!(
            names[0],
            format!(
                "WAYPOST_{}",
                arg.get_long().unwrap().to_uppercase().replace('-', "_")
            )
        );
        assert!(
            arg.get_default_values().is_empty(),
            "a default would overrule the code"
        );
        shown.extend(names);
    }
    assert_eq!(shown, variables());
}

/// Words of the program
#[derive(Parser)]
struct Own {
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    server: ServerArgs,
    #[arg(long)]
    name: Option<String>,
    #[arg(long)]
    id: Option<String>,
}

#[derive(Parser)]
struct Silent {
    #[command(flatten)]
    server: ServerArgs,
}

#[test]
fn flattened_they_leave_the_parsers_own_words_and_flags_alone() {
    Own::command().debug_assert();
    assert_eq!(
        Own::command()
            .get_about()
            .map(ToString::to_string)
            .as_deref(),
        Some("Words of the program")
    );
    assert!(Silent::command().get_about().is_none());
    let own = Own::parse_from([
        "own",
        "--name",
        "a",
        "--server-name",
        "b",
        "--registry",
        "local://",
    ]);
    assert_eq!((own.name.as_deref(), own.id), (Some("a"), None));
    assert_eq!(
        format!("{:?}", own.registry),
        r#"RegistryArgs { registry: Some("local://") }"#
    );
    assert!(format!("{:?}", own.server).contains(r#"name: Some("b")"#));
    assert!(format!("{:?}", Silent::parse_from(["silent"]).server).contains("name: None"));
}
