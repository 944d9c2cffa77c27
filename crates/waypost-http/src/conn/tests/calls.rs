//! Abandoned calls do not affect other calls of the connection.

use std::sync::Arc;
use std::time::Duration;

use h2::server;
use tokio::time::timeout;

use super::net::{Dialled, Opened, call, dial_with, open, tcp, tcp_server};
use crate::conn::{ConnectionConfig, DialSlots};

const ROUNDS: usize = 20;

async fn tcp_dial(address: &str) -> Dialled {
    dial_with(
        Arc::new(tcp()),
        &ConnectionConfig::default(),
        &DialSlots::new(16),
        address,
    )
}

/// Opens calls and abandons them at once, next to an unrelated one; returns the number of rounds in
/// which the unrelated call was lost.
async fn lost(burst: usize, give_up: fn(Opened)) -> usize {
    let (address, _server) = tcp_server(server::Builder::new()).await;
    let mut lost = 0;
    for _ in 0..ROUNDS {
        let mut dialled = tcp_dial(&address).await;
        let connection = dialled.ready().await;
        call(&connection).await.unwrap();
        let mut innocent = open(&connection, "/hang");
        let burst: Vec<Opened> = (0..burst).map(|_| open(&connection, "/hang")).collect();
        burst.into_iter().for_each(give_up);
        let fine = call(&connection).await.is_ok();
        let innocent_ended = timeout(Duration::ZERO, &mut innocent.response)
            .await
            .is_ok();
        lost += usize::from(!fine || innocent_ended);
    }
    lost
}

#[tokio::test]
async fn calls_given_up_at_once_lose_no_other_call() {
    assert!(
        lost(21, drop).await > 0,
        "h2's server no longer minds: the pace may go"
    );
    assert_eq!(lost(21, Opened::cancel).await, 0);
    assert_eq!(lost(100, Opened::cancel).await, 0);
}
