//! An axum service that registers itself, and leaves the registry before it stops.
//!
//! `cargo run -p waypost --example axum_drain -- local://`, and then, on another terminal, `waypost watch`. On SIGTERM or Ctrl-C it leaves
//! the registry, answers for one more second those who were told late, finishes what is in flight, and ends: at a restart no call is
//! lost.

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;
use waypost::Registration;
use waypost::record::{Node, Service, keys};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "local://".to_owned());
    let registry = waypost::connect(&url).await?;

    // From here on a signal is not lost, and does not end the process by itself.
    let asked_to_stop = asked_to_stop()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let mut node = Node::new("users", listener.local_addr()?.to_string());
    node.metadata.insert(keys::PROTOCOL, "http");
    let mut service = Service::new("users");
    service.nodes.push(node);

    // It registers in the background, and again for as long as it lives. Anything may be checked before each beat: while the check
    // says no, the node is out of the registry.
    let registration = Registration::builder(registry, service).check(|| async { Ok(()) }).start()?;
    println!("listening on {}", listener.local_addr()?);

    let app = Router::new().route("/", get(|| async { "hello\n" }));
    let drained = registration.drain_on(asked_to_stop);
    axum::serve(listener, app).with_graceful_shutdown(drained).await?;

    registration.close().await?;
    println!("left");
    Ok(())
}

/// Resolves at SIGTERM or Ctrl-C.
fn asked_to_stop() -> std::io::Result<impl Future<Output = ()> + Send> {
    #[cfg(unix)]
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    Ok(async move {
        #[cfg(unix)]
        let terminated = terminate.recv();
        #[cfg(not(unix))]
        let terminated = std::future::pending::<()>();
        tokio::select! {
            _ = terminated => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    })
}
