//! Definition of the command line.

use std::num::NonZeroUsize;
use std::time::Duration;

use clap::{Arg, Args, Parser, Subcommand};
use clap_complete::Shell;
use waypost::args::RegistryArgs;

use crate::demo::DemoArgs;
use crate::duration;
use crate::error::exit_codes;
use crate::output::Show;

/// Service registration, discovery and client-side load balancing
#[derive(Debug, Parser)]
#[command(name = "waypost", version, max_term_width = 100)]
#[command(
    after_help = concat!(
        "Without --registry and its variables it is local://, the processes of this host.\n\n",
        exit_codes!("yes", "the answer is no: not found, not in time, calls failed")
    )
)]
#[command(mut_arg("registry", everywhere))]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Makes `--registry` a flag of every command.
fn everywhere(registry: Arg) -> Arg {
    registry.global(true).help_heading(None)
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Lists all services
    List(List),
    /// Shows one service: its nodes and its methods
    Get(Get),
    /// Prints changes as they happen, until Ctrl-C
    Watch(Watch),
    /// Registers a node, and holds it until Ctrl-C or SIGTERM
    Register(Register),
    /// Removes the record of a node whose process is gone
    Deregister(Deregister),
    /// Waits until a service has enough nodes
    Wait(Wait),
    /// Restarts and kills servers under load, and counts the calls that failed
    Demo(DemoArgs),
    /// Prints a shell's completion script
    Completions(Completions),
}

#[derive(Args, Debug)]
#[command(after_help = exit_codes!("listed, even if nothing is registered"))]
pub(crate) struct List {
    #[command(flatten)]
    pub(crate) show: Show,
}

#[derive(Args, Debug)]
#[command(after_help = exit_codes!("found", "not registered"))]
pub(crate) struct Get {
    /// Name of the service
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) show: Show,
}

#[derive(Args, Debug)]
#[command(after_help = exit_codes!("the reader of stdout is gone"))]
pub(crate) struct Watch {
    /// Name of the service; all services by default
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) show: Show,
}

#[derive(Args, Debug)]
#[command(after_help = exit_codes!("stopped by a signal and left the registry", "the id is taken"))]
pub(crate) struct Register {
    /// Name of the service
    #[arg(long)]
    pub(crate) name: String,
    /// Id of the node, NAME-ID in the registry; random by default
    #[arg(long)]
    pub(crate) id: Option<String>,
    /// Address that clients dial, as host:port; :port takes this host's address on the route to the registry
    #[arg(long)]
    pub(crate) address: String,
    /// Allows an address of this host only in a registry that other hosts read
    #[arg(long)]
    pub(crate) allow_loopback: bool,
    /// Version of the service
    #[arg(long, default_value = waypost::record::DEFAULT_VERSION)]
    pub(crate) version: String,
    /// Metadata of the node; can be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) metadata: Vec<(String, String)>,
    /// Time to live of the record if this process dies, such as 15s
    #[arg(long, value_parser = duration::parse, default_value = "15s", value_name = "TIME")]
    pub(crate) ttl: Duration,
    /// Interval between heartbeats, less than the TTL
    #[arg(long, value_parser = duration::parse, default_value = "5s", value_name = "TIME")]
    pub(crate) interval: Duration,
    #[command(flatten)]
    pub(crate) show: Show,
}

#[derive(Args, Debug)]
#[command(after_help = exit_codes!("removed", "not registered"))]
pub(crate) struct Deregister {
    /// Name of the service
    pub(crate) name: String,
    /// Id of the node, as `waypost get` shows it; the part after NAME- is enough
    pub(crate) id: String,
}

#[derive(Args, Debug)]
#[command(after_help = exit_codes!("enough nodes", "not in time"))]
pub(crate) struct Wait {
    /// Name of the service
    pub(crate) name: String,
    /// Number of registered nodes to wait for
    #[arg(long, default_value = "1", value_name = "N")]
    pub(crate) ready: NonZeroUsize,
    /// Maximum time to wait
    #[arg(long, value_parser = duration::parse, default_value = "30s", value_name = "TIME")]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) show: Show,
}

/// Not a doc comment, because clap would wrap its lines.
const INSTALL: &str = "\
To install them:
  bash  waypost completions bash > ~/.local/share/bash-completion/completions/waypost
  zsh   waypost completions zsh > ~/.zfunc/_waypost, with `fpath+=~/.zfunc; autoload -Uz compinit && compinit` in ~/.zshrc
  fish  waypost completions fish > ~/.config/fish/completions/waypost.fish";

#[derive(Args, Debug)]
#[command(after_help = INSTALL)]
pub(crate) struct Completions {
    /// Shell to complete for
    pub(crate) shell: Shell,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("must be a pair: give key=value".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    fn help(path: &[&str]) -> String {
        let mut command = Cli::command().term_width(100);
        command.build();
        let command = path.iter().fold(&mut command, |command, name| {
            command.find_subcommand_mut(name).unwrap()
        });
        command.render_help().to_string()
    }

    #[test]
    fn the_help_of_every_command_has_its_exit_codes() {
        for path in [
            &[][..],
            &["list"],
            &["get"],
            &["watch"],
            &["register"],
            &["deregister"],
            &["wait"],
            &["demo"],
            &["demo", "server"],
            &["demo", "client"],
        ] {
            let help = help(path).replace('\n', " ");
            let codes = help.split_once("Exit codes: 0 ").expect("they are named").1;
            assert!(codes.ends_with("130 interrupted "), "{path:?}: {codes}");
        }
    }

    #[test]
    fn every_command_takes_the_registry_url() {
        insta::assert_snapshot!(help(&["list"]), @r"
        Lists all services

        Usage: waypost list [OPTIONS]

        Options:
          -o, --output <FORMAT>  Output format [default: table] [possible values: table, wide, json, jsonl,
                                 name]
              --registry <URL>   Registry URL: etcd://host:2379, local://, static://host:port
                                 [env: WAYPOST_REGISTRY, MICRO_REGISTRY with MICRO_REGISTRY_ADDRESS]
              --json             The same as -o json
          -h, --help             Print help (see more with '--help')

        Exit codes: 0 listed, even if nothing is registered, 2 wrong usage, 3 the registry cannot be reached
        or refuses, 130 interrupted
        ");
    }

    #[test]
    fn the_demos_halves_have_the_flags_of_any_service() {
        insta::assert_snapshot!(help(&["demo", "server"]), @r"
        One greeter, until SIGTERM or Ctrl-C; one JSON line when registered, one when it has left

        Usage: waypost demo server [OPTIONS]

        Options:
              --registry <URL>  Registry URL: etcd://host:2379, local://, static://host:port
                                [env: WAYPOST_REGISTRY, MICRO_REGISTRY with MICRO_REGISTRY_ADDRESS]
          -h, --help            Print help

        Waypost:
              --server-name <NAME>              Name of the service in the registry
                                                [env: WAYPOST_SERVER_NAME, MICRO_SERVER_NAME]
              --server-version <VERSION>        Version of the service
                                                [env: WAYPOST_SERVER_VERSION, MICRO_SERVER_VERSION]
              --server-id <ID>                  Id of the node, NAME-ID in the registry; random by default
                                                [env: WAYPOST_SERVER_ID, MICRO_SERVER_ID] [alias: --id]
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

        Exit codes: 0 stopped by a signal and left the registry, 2 wrong usage, 3 the registry cannot be
        reached or refuses, 130 interrupted
        ");
        insta::assert_snapshot!(help(&["demo", "client"]), @r"
        Calls the greeters at a steady rate; one JSON line a call, then a summary

        Usage: waypost demo client [OPTIONS]

        Options:
              --registry <URL>  Registry URL: etcd://host:2379, local://, static://host:port
                                [env: WAYPOST_REGISTRY, MICRO_REGISTRY with MICRO_REGISTRY_ADDRESS]
              --service <NAME>  Service to call, if it is not called greeter
              --rate <RATE>     Calls a second, whatever the answers [default: 200]
              --for <TIME>      For how long [default: 30s]
              --not-idempotent  Send no call twice, though its method allows it
          -h, --help            Print help

        Waypost:
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

        Exit codes: 0 all calls answered, 1 a call failed, or no server was ready, 2 wrong usage, 3 the
        registry cannot be reached or refuses, 130 interrupted
        ");
    }
}
