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
          --registry <URL>                  The registry: etcd://host:2379, local://, static://host:port
                                            [env: WAYPOST_REGISTRY, MICRO_REGISTRY with
                                            MICRO_REGISTRY_ADDRESS]
          --server-name <NAME>              What the service is called in the registry
                                            [env: WAYPOST_SERVER_NAME, MICRO_SERVER_NAME]
          --server-version <VERSION>        Its version
                                            [env: WAYPOST_SERVER_VERSION, MICRO_SERVER_VERSION]
          --server-id <ID>                  The node is called NAME-ID; a random id unless given
                                            [env: WAYPOST_SERVER_ID, MICRO_SERVER_ID]
          --server-address <HOST:PORT>      What it listens on; port 0 is any, :8080 is on all
                                            interfaces
                                            [env: WAYPOST_SERVER_ADDRESS, MICRO_SERVER_ADDRESS]
          --server-advertise <HOST[:PORT]>  Where clients reach it, if not there
                                            [env: WAYPOST_SERVER_ADVERTISE, MICRO_SERVER_ADVERTISE]
          --server-metadata <KEY=VALUE>     Metadata of its node; several with commas, or again
                                            [env: WAYPOST_SERVER_METADATA, MICRO_SERVER_METADATA]
          --register-ttl <TIME>             How long the record stays if the process dies, such as 15s
                                            [env: WAYPOST_REGISTER_TTL, MICRO_REGISTER_TTL (s)]
          --register-interval <TIME>        Interval between heartbeats, less than the TTL
                                            [env: WAYPOST_REGISTER_INTERVAL, MICRO_REGISTER_INTERVAL
                                            (s)]
          --server-config <KEY=VALUE>       Any other setting; several with commas, or again. The keys:
                                            drain-delay, timeout, backoff-initial, backoff-max,
                                            reregister-jitter, failure-threshold, success-threshold,
                                            drain-timeout
                                            [env: WAYPOST_SERVER_CONFIG]
          --server-tls-cert <FILE>          Certificate (PEM) of the server, with its chain: it serves
                                            TLS
                                            [env: WAYPOST_SERVER_TLS_CERT]
          --server-tls-key <FILE>           Its private key (PEM)
                                            [env: WAYPOST_SERVER_TLS_KEY]
          --server-tls-client-ca <FILE>     CA certificates (PEM) that clients must prove themselves by
                                            [env: WAYPOST_SERVER_TLS_CLIENT_CA]
          --client-strategy <NAME>          How a node is chosen: random, round-robin or least-request
                                            [env: WAYPOST_CLIENT_STRATEGY]
          --client-retries <N>              How often a call is tried again, if it may be
                                            [env: WAYPOST_CLIENT_RETRIES, MICRO_CLIENT_RETRIES]
          --client-request-timeout <TIME>   The deadline of unary calls that set none
                                            [env: WAYPOST_CLIENT_REQUEST_TIMEOUT,
                                            MICRO_CLIENT_REQUEST_TIMEOUT]
          --client-connect-timeout <TIME>   How long connecting to a node may take
                                            [env: WAYPOST_CLIENT_CONNECT_TIMEOUT]
          --client-wait-for-ready <TIME>    How long a call waits for a ready node
                                            [env: WAYPOST_CLIENT_WAIT_FOR_READY]
          --client-config <KEY=VALUE>       Any other setting; several with commas, or again. The keys:
                                            suspect-grace, idle-watch, watch-backoff-initial,
                                            watch-backoff-max, backoff-initial, backoff-max,
                                            settled-after, max-dials, idle-timeout, ping-after,
                                            ping-timeout, close-timeout, budget-per-call,
                                            budget-per-second, budget-initial, budget-window,
                                            waiting-calls, waiting-bytes, max-peers, wait-for-node,
                                            stall-after, stall-p50s, replay-limit
                                            [env: WAYPOST_CLIENT_CONFIG]
          --client-tls-ca <FILE|system>     CA certificates (PEM) that servers must prove themselves by;
                                            system: those of the system
                                            [env: WAYPOST_CLIENT_TLS_CA]
          --client-tls-cert <FILE>          Certificate (PEM) of the client, for servers that require
                                            one
                                            [env: WAYPOST_CLIENT_TLS_CERT]
          --client-tls-key <FILE>           Its private key (PEM)
                                            [env: WAYPOST_CLIENT_TLS_KEY]
          --client-tls-server-name <NAME>   Name in the servers' certificates, such as
                                            {service}.internal; the service's name unless given
                                            [env: WAYPOST_CLIENT_TLS_SERVER_NAME]
          --client-tls-assume <true|false>  Assume TLS of nodes whose record does not state it, such as those
                                            of go-micro
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
