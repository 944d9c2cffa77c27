//! Calls that are cancelled in large numbers at once. No other call of the connection is affected.
//! The frames are written by hand, in one piece, so that the server reads each reset before it has
//! accepted the stream.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use waypost_core::memory::MemoryRegistry;

use super::lifecycle::builder;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Returns the headers of a call, each a literal that is not indexed.
fn headers(stream: u32) -> Vec<u8> {
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/echo.Echo/IdempotentEcho"),
        (":authority", "echo"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    let block: Vec<_> = fields
        .iter()
        .flat_map(|(name, value)| [vec![0], text(name), text(value)].concat())
        .collect();
    frame(HEADERS, END_HEADERS, stream, &block)
}

fn call(stream: u32) -> Vec<u8> {
    [headers(stream), frame(DATA, END_STREAM, stream, &[0; 5])].concat()
}

fn cancelled(stream: u32) -> Vec<u8> {
    [
        headers(stream),
        frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()),
    ]
    .concat()
}

/// Reads frames until each of `streams` has ended; a GOAWAY or the end of the connection is a
/// failure.
async fn answered(connection: &mut TcpStream, mut streams: BTreeSet<u32>) -> Result<(), String> {
    while !streams.is_empty() {
        let mut head = [0; 9];
        connection
            .read_exact(&mut head)
            .await
            .map_err(|error| format!("{error} before {streams:?}"))?;
        let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
        let mut payload =
            vec![0; usize::try_from(u32::from_be_bytes([0, head[0], head[1], head[2]])).unwrap()];
        connection
            .read_exact(&mut payload)
            .await
            .map_err(|error| error.to_string())?;
        match (head[3], head[4] & END_STREAM) {
            (GOAWAY, _) => {
                return Err(format!(
                    "GOAWAY: {}",
                    String::from_utf8_lossy(&payload[8..])
                ));
            }
            (HEADERS, END_STREAM) => drop(streams.remove(&stream)),
            _ => {}
        }
    }
    Ok(())
}

#[tokio::test]
async fn many_calls_cancelled_at_once_lose_no_other_call() {
    let (builder, _) = builder(&MemoryRegistry::new());
    let server = builder.start().await.unwrap();
    for count in [21, 500] {
        let mut connection = TcpStream::connect(server.address()).await.unwrap();
        let last = 2 * count + 3;
        let cancelled = (1..=count).flat_map(|number| cancelled(2 * number + 1));
        let bytes = [
            PREFACE.to_vec(),
            frame(SETTINGS, 0, 0, &[]),
            call(1),
            cancelled.collect(),
            call(last),
        ]
        .concat();
        connection.write_all(&bytes).await.unwrap();
        let innocent = answered(&mut connection, BTreeSet::from([1, last]));
        assert_eq!(
            timeout(Duration::from_secs(10), innocent).await.unwrap(),
            Ok(()),
            "{count} cancelled"
        );
    }
}
