//! Each fault of the proxy, against an echo server.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use waypost_testkit::Proxy;

use crate::{DEADLINE, eventually};

/// Time without an event after which a connection counts as silent.
const QUIET: Duration = Duration::from_millis(100);

/// Server that echoes what it receives; its tasks end with it.
struct Echo {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Echo {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                connections.spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                    let _ = to.shutdown().await;
                });
            }
        });
        Self {
            address,
            _tasks: tasks,
        }
    }
}

async fn pair() -> (Echo, Proxy, TcpStream) {
    let echo = Echo::start().await;
    let proxy = Proxy::start(echo.address).await.expect("a proxy");
    let mut client = connect(&proxy).await;
    assert_eq!(echoed(&mut client, b"first").await, b"first");
    (echo, proxy, client)
}

async fn connect(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(proxy.address())
        .await
        .expect("a connection")
}

async fn echoed(client: &mut TcpStream, bytes: &[u8]) -> Vec<u8> {
    client.write_all(bytes).await.expect("a write");
    answer(client, bytes.len()).await
}

async fn answer(client: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut answer = vec![0; length];
    timeout(DEADLINE, client.read_exact(&mut answer))
        .await
        .expect("an answer in time")
        .expect("an answer");
    answer
}

async fn is_silent(client: &mut TcpStream) -> bool {
    timeout(QUIET, client.read_u8()).await.is_err()
}

/// Returns the error of the next read, which shows how the connection ended.
async fn end(client: &mut TcpStream) -> ErrorKind {
    timeout(DEADLINE, client.read_u8())
        .await
        .expect("an end in time")
        .expect_err("an end")
        .kind()
}

#[tokio::test]
async fn bytes_pass_and_are_counted_and_ends_pass_too() {
    let (_echo, proxy, mut client) = pair().await;
    let large = vec![7; 3_000_000];
    let (mut from, mut to) = client.split();
    let mut back = Vec::new();
    let (sent, read) = tokio::join!(
        async {
            to.write_all(&large).await?;
            to.shutdown().await
        },
        timeout(DEADLINE, from.read_to_end(&mut back)),
    );
    sent.unwrap();
    read.unwrap().unwrap();
    assert_eq!(back, large);
    assert_eq!(
        (proxy.bytes_to_target(), proxy.bytes_to_client()),
        (3_000_005, 3_000_005)
    );
    proxy.wait_open(0, DEADLINE).await.unwrap();
    assert_eq!(proxy.accepted(), 1);
}

#[tokio::test]
async fn a_delay_holds_each_direction_and_keeps_the_order() {
    let (_echo, proxy, mut client) = pair().await;
    proxy.delay(Duration::from_millis(60));
    let start = Instant::now();
    client.write_all(b"a").await.unwrap();
    client.write_all(b"b").await.unwrap();
    assert_eq!(answer(&mut client, 2).await, b"ab");
    assert!(
        start.elapsed() >= Duration::from_millis(120),
        "{:?}",
        start.elapsed()
    );
    proxy.delay(Duration::from_secs(3600));
    client.write_all(b"c").await.unwrap();
    assert!(is_silent(&mut client).await);
    proxy.delay(Duration::ZERO);
    assert_eq!(echoed(&mut connect(&proxy).await, b"d").await, b"d");
}

#[tokio::test]
async fn a_cut_resets_what_is_there_and_serves_what_comes() {
    let (_echo, proxy, mut client) = pair().await;
    proxy.cut();
    assert_eq!(end(&mut client).await, ErrorKind::ConnectionReset);
    proxy.wait_open(0, DEADLINE).await.unwrap();
    let mut second = connect(&proxy).await;
    assert_eq!(echoed(&mut second, b"second").await, b"second");
    assert_eq!((proxy.accepted(), proxy.open()), (2, 1));
}

#[tokio::test]
async fn a_cut_resets_the_target_too() {
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::start(target.local_addr().unwrap()).await.unwrap();
    let _client = connect(&proxy).await;
    let (mut server, _) = timeout(DEADLINE, target.accept()).await.unwrap().unwrap();
    proxy.cut();
    assert_eq!(end(&mut server).await, ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn refusing_is_refused_by_the_system_and_ends() {
    let (_echo, mut proxy, mut client) = pair().await;
    for _ in 0..3 {
        proxy.refuse(true).await.unwrap();
        let refused = TcpStream::connect(proxy.address()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        assert_eq!(echoed(&mut client, b"still").await, b"still");
        proxy.refuse(false).await.unwrap();
        let mut second = connect(&proxy).await;
        assert_eq!(echoed(&mut second, b"again").await, b"again");
    }
}

#[tokio::test]
async fn a_dead_target_is_a_reset_and_retargeting_helps() {
    let echo = Echo::start().await;
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = unused.local_addr().unwrap();
    drop(unused);
    let proxy = Proxy::start(dead).await.unwrap();
    assert_eq!(
        end(&mut connect(&proxy).await).await,
        ErrorKind::ConnectionReset
    );
    proxy.retarget(echo.address);
    assert_eq!(echoed(&mut connect(&proxy).await, b"x").await, b"x");
}

#[tokio::test]
async fn half_open_ends_the_target_and_not_the_client() {
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::start(target.local_addr().unwrap()).await.unwrap();
    let mut client = connect(&proxy).await;
    let (mut server, _) = timeout(DEADLINE, target.accept()).await.unwrap().unwrap();
    proxy.wait_open(1, DEADLINE).await.unwrap();
    proxy.half_open();
    assert_eq!(end(&mut server).await, ErrorKind::UnexpectedEof);
    client.write_all(&vec![1; 2_000_000]).await.unwrap();
    assert!(is_silent(&mut client).await);
    assert_eq!((proxy.open(), proxy.bytes_to_target()), (1, 0));
    proxy.cut();
    assert_eq!(end(&mut client).await, ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn swallowed_bytes_are_lost_in_both_directions() {
    let (_echo, proxy, mut client) = pair().await;
    proxy.swallow(true);
    client.write_all(b"lost").await.unwrap();
    assert!(is_silent(&mut client).await);
    assert_eq!(proxy.bytes_to_target(), 5);
    let mut newcomer = connect(&proxy).await;
    newcomer.write_all(b"lost too").await.unwrap();
    assert!(is_silent(&mut newcomer).await);
    proxy.swallow(false);
    for loser in [&mut newcomer, &mut client] {
        assert_eq!(end(loser).await, ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn who_lost_nothing_to_the_swallowing_goes_on() {
    let (_echo, proxy, mut client) = pair().await;
    proxy.swallow(true);
    assert!(is_silent(&mut client).await);
    proxy.swallow(false);
    assert_eq!(echoed(&mut client, b"found").await, b"found");
}

#[tokio::test]
async fn swallowed_answers_leave_requests_alone() {
    let (_echo, proxy, mut client) = pair().await;
    proxy.swallow_answers(true);
    client.write_all(b"asked").await.unwrap();
    assert!(is_silent(&mut client).await);
    assert_eq!((proxy.bytes_to_target(), proxy.bytes_to_client()), (10, 5));
    proxy.swallow_answers(false);
    assert_eq!(end(&mut client).await, ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn frozen_bytes_and_connections_wait_and_are_delivered() {
    let (_echo, proxy, mut client) = pair().await;
    proxy.freeze(true);
    client.write_all(b"later").await.unwrap();
    let mut newcomer = connect(&proxy).await;
    newcomer.write_all(b"me too").await.unwrap();
    assert!(is_silent(&mut client).await && is_silent(&mut newcomer).await);
    assert_eq!((proxy.accepted(), proxy.bytes_to_target()), (1, 5));
    proxy.freeze(false);
    assert_eq!(answer(&mut client, 5).await, b"later");
    assert_eq!(answer(&mut newcomer, 6).await, b"me too");
}

#[tokio::test]
async fn closed_or_dropped_it_leaves_no_task_and_no_port() {
    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let (echo, proxy, mut client) = pair().await;
    let address = proxy.address();
    proxy.close().await;
    end(&mut client).await;
    assert_eq!(
        TcpStream::connect(address).await.unwrap_err().kind(),
        ErrorKind::ConnectionRefused
    );
    drop(echo);
    eventually(|| tasks() == 0).await;
    let (echo, proxy, mut client) = pair().await;
    drop(proxy);
    end(&mut client).await;
    drop(echo);
    eventually(|| tasks() == 0).await;
}
