//! Example of an axum service with a server of its own that registers itself, and leaves the registry before it stops.
//!
//! Run `cargo run -p waypost --example axum_drain -- local://`, and `waypost watch` in another
//! terminal. On SIGTERM or Ctrl-C the service leaves the registry, serves clients that have not yet
//! received the event for one more second, finishes the requests in flight, and ends. A restart
//! loses no call.

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;
use waypost::Registration;
use waypost::record::{Service, keys};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "local://".to_owned());
    let registry = waypost::connect(&url).await?;

    // From here on, a signal no longer ends the process by itself, and none is lost.
    let asked_to_stop = asked_to_stop()?;
    let listener = TcpListener::bind("0.0.0.0:0").await?;

    // Registers this host's address on the route to the registry, in the background, and again at
    // every interval. The check runs at every interval too; while it fails, the node is out of the
    // registry.
    let registration = Registration::builder(registry, Service::new("users"))
        .metadata(keys::PROTOCOL, "http")
        .check(|| async { Ok(()) })
        .start_on(listener.local_addr()?)
        .await?;
    println!("listening on {}", listener.local_addr()?);

    let app = Router::new().route("/", get(|| async { "hello\n" }));
    let drained = registration.drain_on(asked_to_stop);
    axum::serve(listener, app)
        .with_graceful_shutdown(drained)
        .await?;

    registration.close().await?;
    println!("left");
    Ok(())
}

/// Resolves on SIGTERM or Ctrl-C.
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
