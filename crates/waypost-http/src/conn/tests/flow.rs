//! A stream that is not read blocks only itself.

use std::sync::Arc;
use std::time::Duration;

use h2::{RecvStream, server};

use super::net::{Opened, call, dial_with, open, tcp, tcp_server};
use crate::conn::{Connection, ConnectionConfig, ConnectionEvent, DialSlots};

struct Unread {
    body: RecvStream,
    _opened: Option<Opened>,
}

/// Opens a flood and waits until this number of bytes has arrived unread.
async fn unread(connection: &Arc<Connection>, path: &str, bytes: usize) -> Unread {
    let mut opened = open(connection, path);
    let body = (&mut opened.response).await.unwrap().into_body();
    let mut body = Unread {
        body,
        _opened: Some(opened),
    };
    let arrived = async {
        while body.body.flow_control().used_capacity() < bytes {
            connection.read_until_pending().await;
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), arrived)
        .await
        .expect("the flood arrives");
    body
}

async fn connected() -> (
    super::net::Dialled,
    Arc<Connection>,
    tokio::task::JoinSet<()>,
) {
    let (address, server) = tcp_server(server::Builder::new()).await;
    let mut dialled = dial_with(
        Arc::new(tcp()),
        &ConnectionConfig::default(),
        &DialSlots::new(16),
        &address,
    );
    let connection = dialled.ready().await;
    (dialled, connection, server)
}

const WINDOW: usize = 2 << 20;

#[tokio::test]
async fn unary_calls_end_well_beside_unread_streams_of_2_mib() {
    let (_dialled, connection, _server) = connected().await;
    let mut held = Vec::new();
    for _ in 0..12 {
        held.push(unread(&connection, "/flood/40/65536", WINDOW).await);
        call(&connection).await.unwrap();
    }
    assert!(connection.has_capacity());
}

#[tokio::test]
async fn small_messages_that_are_not_read_close_nothing() {
    let (_dialled, connection, _server) = connected().await;
    let held = unread(&connection, "/flood/40000/23", 40_000 * 23).await;
    call(&connection).await.unwrap();
    assert!(connection.end_reason().is_none());
    drop(held);
}

#[tokio::test]
async fn small_messages_of_cancelled_streams_close_nothing() {
    let (mut dialled, connection, _server) = connected().await;
    for round in 0..60 {
        let mut opened = open(&connection, "/flood/3000/23");
        let response = (&mut opened.response).await;
        assert!(response.is_ok(), "round {round}: {response:?}");
        drop((response, opened));
        call(&connection)
            .await
            .unwrap_or_else(|why| panic!("round {round}: {why}"));
    }
    while let Ok(event) = dialled.events.try_recv() {
        assert!(
            !matches!(
                event,
                ConnectionEvent::Ended(_) | ConnectionEvent::GoAway(_)
            ),
            "{event:?}"
        );
    }
}

#[tokio::test]
async fn the_peers_limits_are_known() {
    let mut builder = server::Builder::new();
    builder
        .max_header_list_size(12_345)
        .max_concurrent_streams(7);
    let (address, _server) = tcp_server(builder).await;
    let mut dialled = dial_with(
        Arc::new(tcp()),
        &ConnectionConfig::default(),
        &DialSlots::new(16),
        &address,
    );
    let connection = dialled.ready().await;
    assert_eq!(
        (connection.max_header_list_size(), connection.limit()),
        (Some(12_345), 7)
    );
}
