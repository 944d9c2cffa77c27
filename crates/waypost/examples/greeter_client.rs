//! Example of a client that calls the greeters of this host:
//! `cargo run -p waypost --example greeter_client`, with servers from `greeter_server`.

use std::time::Duration;

use waypost::ServedBy;
use waypost_greeter::greeter::HelloRequest;
use waypost_greeter::greeter::greeter_client::GreeterClient;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "local://".to_owned());
    let client = waypost::Client::new(waypost::connect(&url).await?);
    let channel = client.channel("greeter")?;
    channel.ready(Duration::from_secs(10)).await?;

    let mut greeter = GreeterClient::new(channel);
    for name in ["Ann", "Bob", "Eve"] {
        let response = greeter
            .hello(HelloRequest {
                name: name.to_owned(),
            })
            .await?;
        let node = response
            .extensions()
            .get::<ServedBy>()
            .map(|picked| picked.node.id.clone())
            .unwrap_or_default();
        println!("{} (from {node})", response.into_inner().message);
    }
    client.close().await;
    Ok(())
}
