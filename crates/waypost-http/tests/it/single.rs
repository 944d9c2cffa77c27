//! One connection to one address: its requests, its PINGs and its end.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use waypost_http::single::{KeepAlive, Single, SingleBody};
use waypost_http::{AddressPolicy, BoxError};

use crate::net::World;

const ANYWHERE: AddressPolicy = AddressPolicy { loopback: true };

async fn connect(world: &World) -> (Single, JoinHandle<Result<(), BoxError>>) {
    let address = "a.test:80".parse().unwrap();
    let (single, driver) = Single::connect(&world.net, &address, &ANYWHERE, KeepAlive::default()).await.unwrap();
    (single, tokio::spawn(driver.run()))
}

async fn ask(single: &Single, path: &str, body: &str) -> Result<Response<SingleBody>, h2::Error> {
    let request = Request::post(path).header("attempt", "0").body(Full::new(Bytes::from(body.to_owned()))).unwrap();
    single.send(request).await
}

#[tokio::test(start_paused = true)]
async fn a_frozen_server_is_asked_after_six_seconds_and_given_up_after_nine() {
    let world = World::new();
    let host = world.host("a").await;
    let (single, driver) = connect(&world).await;
    let answer = ask(&single, "/look", "half").await.unwrap();
    host.freeze(true);
    let begun = Instant::now();
    let ended = driver.await.unwrap().unwrap_err();
    assert!(ended.to_string().contains("PING"), "{ended}");
    assert!((Duration::from_secs(8)..Duration::from_secs(10)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert!(!single.is_open());
    answer.into_body().collect().await.unwrap_err();
    ask(&single, "/look", "").await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn a_quiet_stream_is_kept_while_the_server_answers_and_an_idle_connection_is_not_asked() {
    let world = World::new();
    let host = world.host("a").await;
    let (single, driver) = connect(&world).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(host.pings.load(Relaxed), 0);
    let answer = ask(&single, "/look", "half").await.unwrap();
    sleep(Duration::from_secs(60)).await;
    let pings = host.pings.load(Relaxed);
    assert!((9..=10).contains(&pings), "every six seconds: {pings}");
    drop(answer);
    sleep(Duration::from_secs(60)).await;
    assert!(host.pings.load(Relaxed) <= pings + 1, "nobody waits for anything");
    assert!(single.is_open());
    drop(single);
    timeout(Duration::from_secs(1), driver).await.expect("it ends with its last handle").unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_dropped_driver_and_a_server_that_dies_end_the_connection() {
    let world = World::new();
    let host = world.host("a").await;
    let (single, driver) = connect(&world).await;
    driver.abort();
    assert!(driver.await.unwrap_err().is_cancelled());
    assert!(!single.is_open());
    let (single, driver) = connect(&world).await;
    host.kill();
    // The reason of the end depends on the network; only the end is asserted.
    let _ = driver.await.unwrap();
    assert!(!single.is_open());
}
