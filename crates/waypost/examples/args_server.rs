//! Example of a greeter that is configured by flags and environment variables:
//! `cargo run -p waypost --features args --example args_server -- --help`.
//!
//! The precedence of each setting is code < environment variable (`WAYPOST_SERVER_VERSION=2`, or
//! go-micro's `MICRO_SERVER_VERSION=2`) < flag (`--server-version 2`).

use clap::Parser;
use tonic::{Request, Response, Status};
use waypost::args::ServiceArgs;
use waypost::{Client, Server};
use waypost_greeter::greeter::greeter_client::GreeterClient;
use waypost_greeter::greeter::greeter_server::{Greeter, GreeterServer};
use waypost_greeter::greeter::{FILE_DESCRIPTOR_SET, HelloRequest, HelloResponse};

/// Greets each caller, itself or through another greeter
#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    waypost: ServiceArgs,
    /// Greeting to answer with; without it, calls are forwarded to the service `greeter`
    #[arg(long)]
    greeting: Option<String>,
}

struct MyGreeter {
    greeting: Option<String>,
    next: GreeterClient<waypost::Channel>,
}

#[tonic::async_trait]
impl Greeter for MyGreeter {
    async fn hello(
        &self,
        request: Request<HelloRequest>,
    ) -> Result<Response<HelloResponse>, Status> {
        let name = request.into_inner().name;
        match &self.greeting {
            Some(greeting) => Ok(Response::new(HelloResponse {
                message: format!("{greeting} {name}"),
            })),
            None => self.next.clone().hello(HelloRequest { name }).await,
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Cli {
        waypost: args,
        greeting,
    } = Cli::parse();
    let registry = args.registry.connect().await?;
    let client = args
        .client
        .apply(Client::builder(registry.clone()))?
        .build();
    let next = GreeterClient::new(client.channel("greeter")?);

    let server = Server::builder("greeter", registry.clone())
        .version("1")
        .descriptor(FILE_DESCRIPTOR_SET);
    let server = args.server.apply(server)?;
    server
        .add_service(GreeterServer::new(MyGreeter { greeting, next }))
        .serve()
        .await?;

    client.close().await;
    registry.close().await?;
    println!("left");
    Ok(())
}
