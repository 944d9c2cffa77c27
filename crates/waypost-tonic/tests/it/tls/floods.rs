//! Clients that do not complete their handshakes.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use waypost_testkit::etcd::Authority;

use super::support::{DEADLINE, channel, client_tls, hello, server_tls};
use crate::support::{Town, serving};

#[tokio::test]
async fn a_connection_without_a_client_hello_is_closed_after_the_timeout() {
    let (town, authority) = (Town::new(), Authority::new().unwrap());
    let mut tls = server_tls(&authority);
    tls.handshake_timeout = Duration::from_millis(400);
    let server = serving(town.builder("a").0.tls(tls)).await;
    let start = Instant::now();
    let mut silent = TcpStream::connect(server.address()).await.unwrap();
    let read = timeout(DEADLINE, silent.read(&mut [0; 64])).await.unwrap();
    let took = start.elapsed();
    assert!(matches!(read, Ok(0)), "{read:?}");
    assert!(
        took >= Duration::from_millis(400) && took < Duration::from_secs(2),
        "{took:?}"
    );
}

#[tokio::test]
async fn a_flood_of_handshakes_stops_neither_new_connections_nor_the_server() {
    let (town, authority) = (Town::new(), Authority::new().unwrap());
    let mut server = serving(town.builder("a").0.tls(server_tls(&authority))).await;
    let mut flood = Vec::new();
    for _ in 0..400 {
        flood.push(TcpStream::connect(server.address()).await.unwrap());
    }
    let channel = channel(town.registry(), client_tls(&authority));
    let start = Instant::now();
    assert_eq!(hello(&channel).await.unwrap(), "a");
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
    server.stop();
    timeout(DEADLINE, server.wait()).await.unwrap().unwrap();
    drop(flood);
}
