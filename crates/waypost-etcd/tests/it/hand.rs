//! The hand that changes keys: etcd's own JSON gateway, one short HTTP request each.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Asks a member's JSON gateway.
async fn ask(address: SocketAddr, path: &str, question: Value) -> Value {
    let question = question.to_string();
    let head = format!("POST {path} HTTP/1.0\r\nContent-Length: {}\r\n\r\n", question.len());
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all((head + &question).as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer to {question}: {answer}"));
    let body: Value = serde_json::from_str(body).unwrap();
    assert!(body.get("error").is_none(), "{path} {question}: {body}");
    body
}

/// One transaction; `None` deletes. The revision it made.
pub(crate) async fn write(address: SocketAddr, changes: &[(Vec<u8>, Option<Vec<u8>>)]) -> i64 {
    let operation = |(key, value): &(Vec<u8>, Option<Vec<u8>>)| match value {
        Some(value) => json!({ "request_put": { "key": base64(key), "value": base64(value) } }),
        None => json!({ "request_delete_range": { "key": base64(key) } }),
    };
    let operations: Vec<Value> = changes.iter().map(operation).collect();
    revision(&ask(address, "/v3/kv/txn", json!({ "success": operations })).await)
}

/// The lease of a key; none if there is no such key, 0 if it has none.
pub(crate) async fn lease_of(address: SocketAddr, key: &[u8]) -> Option<i64> {
    let found = ask(address, "/v3/kv/range", json!({ "key": base64(key) })).await;
    let lease = &found["kvs"].get(0)?["lease"];
    Some(lease.as_str().map_or(0, |lease| lease.parse().unwrap()))
}

/// Revokes a lease, and deletes what is on it.
pub(crate) async fn revoke(address: SocketAddr, lease: i64) {
    ask(address, "/v3/lease/revoke", json!({ "ID": lease.to_string() })).await;
}

/// Forgets all history before `revision`.
pub(crate) async fn compact(address: SocketAddr, revision: i64) {
    ask(address, "/v3/kv/compaction", json!({ "revision": revision.to_string() })).await;
}

fn revision(answer: &Value) -> i64 {
    answer["header"]["revision"].as_str().unwrap().parse().unwrap()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let word = three.iter().fold(0, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for place in 0..4 {
            let digit = char::from(DIGITS[(word >> (18 - 6 * place)) as usize & 63]);
            text.push(if place > three.len() { '=' } else { digit });
        }
    }
    text
}

#[test]
fn base64_is_base64() {
    for (bytes, text) in [(&b""[..], ""), (b"a", "YQ=="), (b"ab", "YWI="), (b"abc", "YWJj"), (b"\xff\xfe\xfd\xfc", "//79/A==")] {
        assert_eq!(base64(bytes), text);
    }
}
