//! What can be typed.

use std::num::NonZeroUsize;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::demo::DemoArgs;
use crate::duration;
use crate::output::Show;

/// Not a doc comment: its brackets are no links.
const REGISTRY_HELP: &str = "The registry: local://[dir] or static://host:port[,…]; else WAYPOST_REGISTRY, else local://";

/// Service registration, discovery and client-side load balancing
#[derive(Debug, Parser)]
#[command(name = "waypost", version, max_term_width = 100)]
pub(crate) struct Cli {
    /// The registry; without it what `WAYPOST_REGISTRY` says, else `local://`.
    #[arg(long, global = true, value_name = "URL", help = REGISTRY_HELP)]
    pub(crate) registry: Option<String>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// Where the registry is: as the flag says, or the environment, or in this host's own place.
    pub(crate) fn place(&self) -> String {
        let environment = || std::env::var_os("WAYPOST_REGISTRY").filter(|url| !url.is_empty());
        let url = self.registry.clone().or_else(|| environment().map(|url| url.to_string_lossy().into_owned()));
        url.unwrap_or_else(|| "local://".to_owned())
    }
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
    /// Removes a node that somebody left behind
    Deregister(Deregister),
    /// Waits until a service has enough nodes
    Wait(Wait),
    /// Restarts and kills servers under load, and counts the calls that failed
    Demo(DemoArgs),
}

#[derive(Args, Debug)]
pub(crate) struct List {
    #[command(flatten)]
    pub(crate) show: Show,
}

#[derive(Args, Debug)]
pub(crate) struct Get {
    /// The service's name
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) show: Show,
}

#[derive(Args, Debug)]
pub(crate) struct Watch {
    /// The service's name; all services without it
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) show: Show,
}

#[derive(Args, Debug)]
pub(crate) struct Register {
    /// The service's name
    #[arg(long)]
    pub(crate) name: String,
    /// The node is called NAME-ID; a random id unless given
    #[arg(long)]
    pub(crate) id: Option<String>,
    /// Where clients reach it, as host:port
    #[arg(long)]
    pub(crate) address: String,
    /// The service's version
    #[arg(long, default_value = waypost::record::DEFAULT_VERSION)]
    pub(crate) version: String,
    /// Metadata of the node; can be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) metadata: Vec<(String, String)>,
    /// How long the record stays if this process dies, such as 15s
    #[arg(long, value_parser = duration::parse, default_value = "15s", value_name = "TIME")]
    pub(crate) ttl: Duration,
    /// How often it is written again
    #[arg(long, value_parser = duration::parse, default_value = "5s", value_name = "TIME")]
    pub(crate) interval: Duration,
    #[command(flatten)]
    pub(crate) show: Show,
}

#[derive(Args, Debug)]
pub(crate) struct Deregister {
    /// The service's name
    pub(crate) name: String,
    /// The node's id, as `waypost get` shows it; the part after NAME- will do
    pub(crate) id: String,
}

#[derive(Args, Debug)]
pub(crate) struct Wait {
    /// The service's name
    pub(crate) name: String,
    /// How many registered nodes are enough
    #[arg(long, default_value = "1", value_name = "N")]
    pub(crate) ready: NonZeroUsize,
    /// How long to wait at most
    #[arg(long, value_parser = duration::parse, default_value = "30s", value_name = "TIME")]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) show: Show,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("is no pair: give key=value".to_owned()),
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
}
