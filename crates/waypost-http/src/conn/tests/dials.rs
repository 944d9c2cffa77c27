//! Frozen nodes do not delay the dials of others, and an address that drops packets does not delay
//! the other addresses of its name.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use h2::server;
use socket2::{Domain, Socket, Type};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use waypost_core::record::Address;

use super::net::{self, Dialled, FnConnect, boxed, dial_with};
use crate::conn::connect::{AddressPolicy, Connecting, dial_any};
use crate::conn::{ConnectionConfig, ConnectionEvent, DialSlots};

/// Returns a connector whose node on port 1 accepts and never sends anything; any other port is
/// served.
fn frozen_and_good()
-> Arc<FnConnect<impl Fn(&Address) -> Connecting<'static> + Send + Sync + 'static>> {
    let servers = std::sync::Mutex::new(JoinSet::new());
    Arc::new(FnConnect(move |address: &Address| -> Connecting<'static> {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let frozen = address.port == 1;
        servers.lock().unwrap().spawn(async move {
            match frozen {
                true => drop((theirs, std::future::pending::<()>().await)),
                false => net::serve(theirs, server::Builder::new()).await,
            }
        });
        Box::pin(async move { Ok(boxed(ours)) })
    }))
}

async fn ready_after(frozen: usize, good: usize) -> Duration {
    let connect = frozen_and_good();
    let (config, slots) = (ConnectionConfig::default(), DialSlots::new(16));
    let start = Instant::now();
    let frozen: Vec<Dialled> = (0..frozen)
        .map(|_| dial_with(connect.clone(), &config, &slots, "127.0.0.1:1"))
        .collect();
    tokio::task::yield_now().await;
    let good: Vec<Dialled> = (0..good)
        .map(|_| dial_with(connect.clone(), &config, &slots, "127.0.0.1:2"))
        .collect();
    for mut dialled in good {
        dialled.ready().await;
    }
    drop(frozen);
    start.elapsed()
}

#[tokio::test(start_paused = true)]
async fn frozen_nodes_give_their_slots_back() {
    let took = ready_after(96, 4).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    let took = ready_after(500, 4).await;
    assert!(took < Duration::from_millis(3_500), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_frozen_node_is_given_up_after_the_connect_timeout() {
    let connect = frozen_and_good();
    let start = Instant::now();
    let mut dialled = dial_with(
        connect,
        &ConnectionConfig::default(),
        &DialSlots::new(16),
        "127.0.0.1:1",
    );
    let error = dialled.ended().await.unwrap_err();
    assert_eq!(
        (&*error, start.elapsed().as_secs()),
        ("connect 127.0.0.1:1: no SETTINGS within 2s", 2)
    );
}

#[tokio::test]
async fn settings_without_end_dial_too() {
    let config = ConnectionConfig {
        connect_timeout: Duration::MAX,
        dial_slot_timeout: Duration::MAX,
        ..ConnectionConfig::default()
    };
    let mut dialled = dial_with(
        frozen_and_good(),
        &config,
        &DialSlots::new(16),
        "127.0.0.1:2",
    );
    dialled.ready().await;
}

/// Listener whose accept queue is full, so that the system drops the first packet of each further
/// connection.
struct Swallowing {
    address: SocketAddr,
    _listener: Socket,
    _queued: Vec<TcpStream>,
}

async fn swallowing() -> Swallowing {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener
        .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let mut queued = Vec::new();
    while let Ok(connected) = timeout(Duration::from_millis(200), TcpStream::connect(address)).await
    {
        queued.push(connected.unwrap());
    }
    Swallowing {
        address,
        _listener: listener,
        _queued: queued,
    }
}

#[tokio::test]
async fn an_address_that_swallows_packets_does_not_hide_the_next_one() {
    let swallowing = swallowing().await;
    let good = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let _listener = std::net::TcpListener::bind(good).unwrap();
    let start = Instant::now();
    let stream = dial_any(
        &[swallowing.address, good],
        &AddressPolicy { loopback: true },
    )
    .await
    .unwrap();
    assert_eq!(stream.peer_addr().unwrap(), good);
    let took = start.elapsed();
    assert!(
        took >= Duration::from_millis(250) && took < Duration::from_millis(1_000),
        "{took:?}"
    );
}

/// Measures from the dial to the response of a call: the connect timeout covers all addresses of
/// the name together.
#[tokio::test]
async fn a_name_is_reached_and_answers_though_its_first_addresses_swallow_packets() {
    let (good, _server) = net::tcp_server(server::Builder::new()).await;
    let mut swallowed = Vec::new();
    for _ in 0..3 {
        swallowed.push(swallowing().await);
    }
    for count in [1, 3] {
        let mut addresses: Vec<SocketAddr> = swallowed[..count]
            .iter()
            .map(|swallowing| swallowing.address)
            .collect();
        addresses.push(good.parse().unwrap());
        let connect = Arc::new(FnConnect(move |_: &Address| -> Connecting<'static> {
            let addresses = addresses.clone();
            Box::pin(async move {
                Ok(boxed(
                    dial_any(&addresses, &AddressPolicy { loopback: true }).await?,
                ))
            })
        }));
        let (config, slots) = (ConnectionConfig::default(), DialSlots::new(16));
        for _ in 0..2 {
            let mut dialled = dial_with(connect.clone(), &config, &slots, "name.test:1");
            let connection = loop {
                match dialled.next().await {
                    ConnectionEvent::Ready(connection) => break connection,
                    ConnectionEvent::Slow => {}
                    other => panic!("{count} swallow: {other:?}"),
                }
            };
            net::call(&connection).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_name_whose_addresses_the_policy_refuses_reports_it() {
    let addresses = ["127.0.0.1:1", "[::1]:1"].map(|address| address.parse().unwrap());
    let error = dial_any(&addresses, &AddressPolicy { loopback: false })
        .await
        .unwrap_err();
    let text = "the name has no address that may be dialled: 127.0.0.1 and 1 others are refused by the address policy";
    assert_eq!(error.to_string(), text);
}
