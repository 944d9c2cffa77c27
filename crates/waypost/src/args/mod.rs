//! Flags for services, to flatten into the service's own parser (feature `args`, with `clap` 4).
//!
//! ```no_run
//! use clap::Parser;
//! use waypost::args::{RegistryArgs, ServerArgs};
//!
//! #[derive(Parser)]
//! struct Cli {
//!     #[command(flatten)]
//!     registry: RegistryArgs,
//!     #[command(flatten)]
//!     server: ServerArgs,
//!     // and flags of one's own
//! }
//!
//! # #[cfg(feature = "tonic")]
//! # async fn serve() -> Result<(), Box<dyn std::error::Error>> {
//! let cli = Cli::parse();
//! let server = waypost::Server::builder("greeter", cli.registry.connect().await?).version("1.2.0");
//! cli.server.apply(server)?.serve().await?;
//! # Ok(()) }
//! ```
//!
//! **Precedence** is default < code < environment < flag, for each setting by itself. No flag has a
//! default of its own, so a setting that is not given keeps the value from the code. `apply` is
//! therefore called after the code's own settings.
//!
//! **The environment**: each flag can also be given as a variable, `WAYPOST_` and its name in
//! capitals (`--register-ttl`: `WAYPOST_REGISTER_TTL`). Where go-micro has the same setting, its
//! `MICRO_` variable is read too, in go-micro's format; `WAYPOST_` overrides `MICRO_`. An empty
//! variable counts as unset. Variables of go-micro without a counterpart here are not read.
//! [`variables`] lists all that are read, and `--help` shows them.
//!
//! clap's own `env` is not used: it supports one variable per flag, cannot distinguish go-micro's
//! format from ours, and would print a registry's password in its errors.
//!
//! This module knows builders and the environment of the process, and never a backend:
//! [`connect`](crate::connect) interprets the URL of a registry.

#[cfg(feature = "tonic")]
mod client;
mod config;
pub mod duration;
mod environment;
mod registry;
mod server;
mod setting;
#[cfg(all(feature = "tonic", feature = "tls"))]
mod tls;
mod url;
mod value;

#[cfg(feature = "tonic")]
#[cfg(test)]
mod tests;

#[cfg(feature = "tonic")]
pub use client::ClientArgs;
pub use registry::RegistryArgs;
pub use server::{ServerArgs, ServerSettings};
pub use url::RegistryUrl;

/// Heading of the flags in the help.
const HEADING: &str = "Waypost";

/// All flags, for a service that calls other services.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use clap::Parser;
/// use waypost::{Client, Server};
///
/// #[derive(Parser)]
/// struct Cli {
///     #[command(flatten)]
///     waypost: waypost::args::ServiceArgs,
/// }
///
/// let flags = ["greeterd", "--registry", "memory://", "--server-name", "salute"];
/// let args = Cli::try_parse_from(flags)?.waypost;
/// let registry = args.registry.connect().await?;
/// let server = args.server.apply(Server::builder("greeter", registry.clone()))?.start().await?;
/// let client = args.client.apply(Client::builder(registry))?.build();
///
/// client.channel("salute")?.ready(std::time::Duration::from_secs(5)).await?;
/// assert_eq!(server.service(), "salute");
/// # Ok(()) }
/// ```
#[cfg(feature = "tonic")]
#[derive(Clone, Debug, Default, clap::Args)]
#[command(about = None, long_about = None)]
#[group(skip)]
pub struct ServiceArgs {
    /// Flags of the registry.
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// Flags of the server and its registration.
    #[command(flatten)]
    pub server: ServerArgs,
    /// Flags of the client.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Returns the names of all variables that are read, except the `ETCD_…` of
/// [`connect`](crate::connect). A program can use it to start others that inherit none of them.
pub fn variables() -> Vec<&'static str> {
    let names = registry::variables().into_iter();
    let names = names.chain(server::variables());
    #[cfg(feature = "tonic")]
    let names = names.chain(client::variables());
    names.collect()
}
