//! Example of a greeter that registers itself: `cargo run -p waypost --example greeter_server`.
//! Several instances can run at once.
//!
//! On SIGTERM or Ctrl-C the server leaves the registry, serves for one more second, finishes the
//! calls in flight, and ends.

use tonic::{Request, Response, Status};
use waypost_greeter::greeter::greeter_server::{Greeter, GreeterServer};
use waypost_greeter::greeter::{FILE_DESCRIPTOR_SET, HelloRequest, HelloResponse};

struct MyGreeter;

#[tonic::async_trait]
impl Greeter for MyGreeter {
    async fn hello(
        &self,
        request: Request<HelloRequest>,
    ) -> Result<Response<HelloResponse>, Status> {
        let message = format!("Hello {}", request.into_inner().name);
        Ok(Response::new(HelloResponse { message }))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "local://".to_owned());
    waypost::Server::builder("greeter", waypost::connect(&url).await?)
        .descriptor(FILE_DESCRIPTOR_SET)
        .reflection(true)
        .after_start(|| async {
            println!("serving");
            Ok(())
        })
        .add_service(GreeterServer::new(MyGreeter))
        .serve()
        .await?;
    println!("left");
    Ok(())
}
