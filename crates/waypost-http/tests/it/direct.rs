//! One connection to one address: its requests, its PINGs and its end.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use waypost_http::direct::{DirectBody, DirectConnection};
use waypost_http::{AddressPolicy, BoxError, ConnectionConfig, Silence, StreamError};

use crate::net::World;

const ANYWHERE: AddressPolicy = AddressPolicy { loopback: true };

/// Settings as those of a connection to etcd.
fn config() -> ConnectionConfig {
    let mut config = ConnectionConfig::default();
    config.idle_timeout = Duration::MAX;
    config.silence = Silence::Every(Duration::from_secs(6));
    (config.ping_timeout, config.close_timeout) = (Duration::from_secs(3), Duration::from_secs(3));
    config
}

async fn connect(world: &World) -> (DirectConnection, JoinHandle<Result<(), BoxError>>) {
    let address = "a.test:80".parse().unwrap();
    let (connection, driver) =
        DirectConnection::connect(&world.net, &address, &ANYWHERE, &config())
            .await
            .unwrap();
    (connection, tokio::spawn(driver.run()))
}

async fn ask(
    connection: &DirectConnection,
    path: &str,
    body: &str,
) -> Result<Response<DirectBody>, StreamError> {
    let request = Request::post(path)
        .header("attempt", "0")
        .body(Full::new(Bytes::from(body.to_owned())))
        .unwrap();
    connection.send(request).await
}

#[tokio::test(start_paused = true)]
async fn a_frozen_server_is_asked_after_six_seconds_and_given_up_after_nine() {
    let world = World::new();
    let host = world.host("a").await;
    let (connection, driver) = connect(&world).await;
    let answer = ask(&connection, "/look", "half").await.unwrap();
    host.freeze(true);
    let begun = Instant::now();
    let ended = driver.await.unwrap().unwrap_err();
    assert!(ended.to_string().contains("PING"), "{ended}");
    assert!(
        (Duration::from_secs(8)..Duration::from_secs(10)).contains(&begun.elapsed()),
        "{:?}",
        begun.elapsed()
    );
    assert!(!connection.is_open());
    answer.into_body().collect().await.unwrap_err();
    ask(&connection, "/look", "").await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn a_quiet_stream_is_kept_while_the_server_answers_and_an_idle_connection_is_not_asked() {
    let world = World::new();
    let host = world.host("a").await;
    let (connection, driver) = connect(&world).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(host.pings.load(Relaxed), 0);
    let answer = ask(&connection, "/look", "half").await.unwrap();
    sleep(Duration::from_secs(60)).await;
    let pings = host.pings.load(Relaxed);
    assert!((9..=10).contains(&pings), "every six seconds: {pings}");
    drop(answer);
    sleep(Duration::from_secs(60)).await;
    assert!(host.pings.load(Relaxed) <= pings + 1, "no call waits");
    assert!(connection.is_open());
    drop(connection);
    timeout(Duration::from_secs(1), driver)
        .await
        .expect("it ends with its last handle")
        .unwrap()
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_dropped_driver_and_a_server_that_dies_end_the_connection() {
    let world = World::new();
    let host = world.host("a").await;
    let (connection, driver) = connect(&world).await;
    driver.abort();
    assert!(driver.await.unwrap_err().is_cancelled());
    assert!(!connection.is_open());
    let (connection, driver) = connect(&world).await;
    host.kill();
    // The reason of the end depends on the network; only the end is asserted.
    let _ = driver.await.unwrap();
    assert!(!connection.is_open());
}
