//! Example of an axum service that registers itself:
//! `cargo run -p waypost --features axum,args --example axum_server -- --help`.
//!
//! It listens on every interface and advertises the address on the route to the registry. On SIGTERM
//! or Ctrl-C it leaves the registry, serves for one more second, finishes the requests in flight, and
//! ends. `axum_drain` is for those who have a server of their own.

use axum::Router;
use axum::routing::get;
use clap::Parser;
use waypost::args::{RegistryArgs, ServerArgs};

/// Greets over HTTP
#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    server: ServerArgs,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cli = Cli::parse();
    let server = waypost::Server::builder("users", cli.registry.connect().await?)
        .bind(":0")
        .router(Router::new().route("/", get(|| async { "hello\n" })));
    cli.server.apply(server)?.serve().await?;
    println!("left");
    Ok(())
}
