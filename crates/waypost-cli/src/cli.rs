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
    /// Shows what changes, as it changes, until Ctrl-C
    Watch(Watch),
    /// Registers a node, and holds it until Ctrl-C or SIGTERM
    Register(Register),
    /// Removes a node whose process left its record behind
    Deregister(Deregister),
    /// Waits until a service has enough nodes
    Wait(Wait),
    /// Restarts and kills servers under load, and counts the calls that failed
    Demo(DemoArgs),
    /// Prints what lets a shell complete commands and flags
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
    /// The service's name
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) show: Show,
}

#[derive(Args, Debug)]
#[command(after_help = exit_codes!("the reader of stdout is gone"))]
pub(crate) struct Watch {
    /// The service's name; all services without it
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) show: Show,
}

#[derive(Args, Debug)]
#[command(after_help = exit_codes!("stopped by a signal and left the registry", "the id is taken"))]
pub(crate) struct Register {
    /// The service's name
    #[arg(long)]
    pub(crate) name: String,
    /// The node is called NAME-ID; a random id unless given
    #[arg(long)]
    pub(crate) id: Option<String>,
    /// Address that clients reach it at, as host:port; :port is this host's on the route to the registry
    #[arg(long)]
    pub(crate) address: String,
    /// Allows an address of this host only in a registry that other hosts read
    #[arg(long)]
    pub(crate) allow_loopback: bool,
    /// The service's version
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
    /// The service's name
    pub(crate) name: String,
    /// The node's id, as `waypost get` shows it; the part after NAME- will do
    pub(crate) id: String,
}

#[derive(Args, Debug)]
#[command(after_help = exit_codes!("enough nodes", "not in time"))]
pub(crate) struct Wait {
    /// The service's name
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
    /// For which shell
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
              --registry <URL>   The registry: etcd://host:2379, local://, static://host:port
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
              --registry <URL>  The registry: etcd://host:2379, local://, static://host:port
                                [env: WAYPOST_REGISTRY, MICRO_REGISTRY with MICRO_REGISTRY_ADDRESS]
          -h, --help            Print help

        Waypost:
              --server-name <NAME>              What the service is called in the registry
                                                [env: WAYPOST_SERVER_NAME, MICRO_SERVER_NAME]
              --server-version <VERSION>        Its version
                                                [env: WAYPOST_SERVER_VERSION, MICRO_SERVER_VERSION]
              --server-id <ID>                  The node is called NAME-ID; a random id unless given
                                                [env: WAYPOST_SERVER_ID, MICRO_SERVER_ID] [alias: --id]
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

        Exit codes: 0 stopped by a signal and left the registry, 2 wrong usage, 3 the registry cannot be
        reached or refuses, 130 interrupted
        ");
        insta::assert_snapshot!(help(&["demo", "client"]), @r"
        Calls the greeters at a steady rate; one JSON line a call, then a summary

        Usage: waypost demo client [OPTIONS]

        Options:
              --registry <URL>  The registry: etcd://host:2379, local://, static://host:port
                                [env: WAYPOST_REGISTRY, MICRO_REGISTRY with MICRO_REGISTRY_ADDRESS]
              --service <NAME>  Service to call, if it is not called greeter
              --rate <RATE>     Calls a second, whatever the answers [default: 200]
              --for <TIME>      For how long [default: 30s]
              --not-idempotent  Send no call twice, though its method allows it
          -h, --help            Print help

        Waypost:
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

        Exit codes: 0 all calls answered, 1 a call failed, or no server was ready, 2 wrong usage, 3 the
        registry cannot be reached or refuses, 130 interrupted
        ");
    }
}
