//! Each connection ends exactly once, and the end is always its last event.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, server};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use waypost_core::record::Address;

use super::net::{
    self, Dialled, FnConnect, boxed, call, dial, dial_with, memory_server, open, tcp,
};
use crate::conn::connect::Connecting;
use crate::conn::{ConnectionConfig, ConnectionEvent, DialSlots};

fn with_default(
    connect: impl Fn(&Address) -> Connecting<'static> + Send + Sync + 'static,
) -> Dialled {
    dial(FnConnect(connect))
}

fn text(result: Result<(), Arc<str>>) -> String {
    result.unwrap_err().to_string()
}

#[tokio::test]
async fn a_panic_of_the_connector_is_an_end() {
    let mut at_once = with_default(|_| panic!("no port today"));
    assert_eq!(
        text(at_once.ended().await),
        "connection to 127.0.0.1:1: panicked: no port today"
    );
    let mut later = with_default(|_| {
        Box::pin(async {
            tokio::task::yield_now().await;
            panic!("no port {}", "later")
        })
    });
    assert_eq!(
        text(later.ended().await),
        "connection to 127.0.0.1:1: panicked: no port later"
    );
    assert!(
        later.tasks.join_next().await.unwrap().is_ok(),
        "the panic is contained"
    );
}

/// Byte stream that panics at its n-th read or write.
struct Panicking {
    io: tokio::io::DuplexStream,
    reads: usize,
    writes: usize,
}

impl Panicking {
    fn count(left: &mut usize, what: &str) {
        *left = left.checked_sub(1).unwrap_or_else(|| panic!("{what}"));
    }
}

impl AsyncRead for Panicking {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        Self::count(&mut self.reads, "cannot read");
        std::pin::Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Panicking {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        Self::count(&mut self.writes, "cannot write");
        std::pin::Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn a_panic_of_the_stream_of_bytes_is_an_end_and_no_panic_of_its_calls() {
    for (reads, writes, what) in [
        (usize::MAX, 4, "cannot write"),
        (12, usize::MAX, "cannot read"),
    ] {
        let servers = Arc::new(std::sync::Mutex::new(JoinSet::new()));
        let mut dialled = with_default(move |_| {
            let (ours, theirs) = tokio::io::duplex(1 << 20);
            servers
                .lock()
                .unwrap()
                .spawn(net::serve(theirs, server::Builder::new()));
            Box::pin(async move {
                Ok(boxed(Panicking {
                    io: ours,
                    reads,
                    writes,
                }))
            })
        });
        let connection = dialled.ready().await;
        let held = open(&connection, "/hang");
        let mut calls = 0;
        while connection.end_reason().is_none() && call(&connection).await.is_ok() {
            calls += 1;
            assert!(calls < 100, "{what}: never panicked");
        }
        // Neither waiting for a response nor dropping a call panics.
        assert!(held.response.await.is_err(), "{what}");
        let end = text(dialled.ended().await);
        assert!(end.ends_with(what), "{end}");
    }
}

#[tokio::test]
async fn an_aborted_task_is_an_end() {
    let (connect, _frozen) = memory_server();
    let mut dialled = dial(connect);
    let connection = dialled.ready().await;
    let waiting = open(&connection, "/hang");
    dialled.tasks.abort_all();
    assert_eq!(
        text(dialled.ended().await),
        "the task of the connection was aborted"
    );
    assert!(waiting.response.await.is_err());
    assert_eq!(
        &**connection.end_reason().unwrap(),
        "the task of the connection was aborted"
    );
}

#[tokio::test]
async fn a_drained_connection_ends_after_its_last_call() {
    let (connect, _frozen) = memory_server();
    let mut dialled = dial(connect);
    let connection = dialled.ready().await;
    call(&connection).await.unwrap();
    let last = open(&connection, "/hang");
    connection.drain();
    assert!(connection.try_acquire().is_none() && !connection.has_capacity());
    tokio::task::yield_now().await;
    assert!(dialled.events.try_recv().is_err());
    last.cancel();
    assert_eq!(dialled.ended().await, Ok(()));
    assert_eq!(connection.streams(), 0);
}

/// Action of a server right after its SETTINGS.
#[derive(Clone, Copy, Debug)]
enum Farewell {
    Close,
    GoAway(Reason),
}

type ServerConnection = server::Connection<tokio::net::TcpStream, Bytes>;

async fn serve_for(connection: &mut ServerConnection, ms: u64) {
    let closed = std::future::poll_fn(|cx| connection.poll_closed(cx));
    let _ = tokio::time::timeout(Duration::from_millis(ms), closed).await;
}

async fn hello_and_goodbye(farewell: Farewell) -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            let Ok(mut connection) = server::Builder::new().handshake::<_, Bytes>(io).await else {
                continue;
            };
            serve_for(&mut connection, 5).await;
            if let Farewell::GoAway(reason) = farewell {
                connection.abrupt_shutdown(reason);
                serve_for(&mut connection, 100).await;
            }
        }
    });
    (address, tasks)
}

#[tokio::test]
async fn events_come_in_order_from_servers_that_leave_at_once() {
    for farewell in [
        Farewell::Close,
        Farewell::GoAway(Reason::NO_ERROR),
        Farewell::GoAway(Reason::ENHANCE_YOUR_CALM),
    ] {
        let (address, _server) = hello_and_goodbye(farewell).await;
        let connect = Arc::new(tcp());
        let mut complete = 0;
        for round in 0..100 {
            let mut dialled = dial_with(
                connect.clone(),
                &ConnectionConfig::default(),
                &DialSlots::new(16),
                &address,
            );
            let mut seen = Vec::new();
            while let Some(event) = dialled.events.recv().await {
                seen.push(match event {
                    ConnectionEvent::Ready(_) => "ready",
                    ConnectionEvent::GoAway(go_away) if go_away.calm => "calm",
                    ConnectionEvent::GoAway(_) => "goaway",
                    ConnectionEvent::Ended(_) => "ended",
                    ConnectionEvent::Slow
                    | ConnectionEvent::Liveness(_)
                    | ConnectionEvent::Capacity(_) => continue,
                });
            }
            let middle = match farewell {
                Farewell::Close => None,
                Farewell::GoAway(Reason::ENHANCE_YOUR_CALM) => Some("calm"),
                Farewell::GoAway(_) => Some("goaway"),
            };
            let all: Vec<&str> = ["ready"]
                .into_iter()
                .chain(middle)
                .chain(["ended"])
                .collect();
            // A server may close before its SETTINGS are read, and a GOAWAY without error ends an
            // idle connection at once.
            let short = seen == ["ended"]
                || (seen == ["ready", "ended"]
                    && matches!(farewell, Farewell::GoAway(Reason::NO_ERROR)));
            assert!(
                seen == all || short,
                "{farewell:?}, round {round}: {seen:?}"
            );
            complete += usize::from(seen[0] == "ready");
        }
        assert!(complete > 0, "{farewell:?}: never ready");
    }
}
