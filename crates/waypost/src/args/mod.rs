//! Flags for services, to be flattened into a parser of one's own (feature `args`, with `clap` 4).
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
//! let server = waypost::Server::builder("greeter").version("1.2.0").registry(cli.registry.connect().await?);
//! cli.server.apply(server)?.serve().await?;
//! # Ok(()) }
//! ```
//!
//! **Precedence** is default < code < environment < flag, each setting by itself: no flag has a default of its own, so what is not given
//! leaves what the code says. `apply` therefore comes after the code's own settings.
//!
//! **The environment**: each flag can also be given as `WAYPOST_` and its name in capitals (`--register-ttl`: `WAYPOST_REGISTER_TTL`),
//! and, where go-micro has the same setting, by go-micro's `MICRO_` name in go-micro's form; `WAYPOST_` wins over `MICRO_`. An empty
//! variable is none. What of go-micro's has no counterpart here is not read; [`variables`] lists what is. `--help` shows them all.
//!
//! clap's own `env` is not used: it knows one variable a flag, cannot tell a go-micro value from ours, and would print a registry's password
//! in its errors.
//!
//! This room knows builders and the environment of the process, and never a backend: a registry's URL is [`connect`](crate::connect)'s.

#[cfg(feature = "tonic")]
mod client;
pub mod duration;
mod environment;
mod registry;
#[cfg(feature = "tonic")]
mod server;
mod setting;
mod url;
#[cfg(feature = "tonic")]
mod value;

#[cfg(feature = "tonic")]
#[cfg(test)]
mod tests;

#[cfg(feature = "tonic")]
pub use client::ClientArgs;
pub use registry::RegistryArgs;
#[cfg(feature = "tonic")]
pub use server::ServerArgs;
pub use url::RegistryUrl;

/// Where the flags stand in the help.
const HEADING: &str = "Waypost";

/// All flags: for a service that calls other services.
#[cfg(feature = "tonic")]
#[derive(Clone, Debug, Default, clap::Args)]
#[command(about = None, long_about = None)]
#[group(skip)]
pub struct ServiceArgs {
    /// Which registry.
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// How it serves and registers.
    #[command(flatten)]
    pub server: ServerArgs,
    /// How it calls others.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Every variable that is read, the `ETCD_…` of [`connect`](crate::connect) apart: for programs that start others and let them inherit
/// none.
pub fn variables() -> Vec<&'static str> {
    let names = registry::variables().into_iter();
    #[cfg(feature = "tonic")]
    let names = names.chain(server::variables()).chain(client::variables());
    names.collect()
}
