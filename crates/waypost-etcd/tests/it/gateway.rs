//! Direct access to etcd's keys, independent of waypost-etcd: the JSON gateway, with one short HTTP
//! request each. It supports neither authentication nor TLS.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Timeout of a member; etcd itself times out after 7 s.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Value and lease of one key.
#[derive(Debug)]
pub(crate) struct StoredValue {
    pub(crate) value: Vec<u8>,
    /// 0 if it has none.
    pub(crate) lease: i64,
}

/// One change in etcd's history.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) key: Vec<u8>,
    pub(crate) deleted: bool,
    /// Value before the change.
    pub(crate) before: Option<Vec<u8>>,
}

/// Executes one transaction; `None` deletes. Returns its revision.
pub(crate) async fn write(address: SocketAddr, changes: &[(Vec<u8>, Option<Vec<u8>>)]) -> i64 {
    let operation = |(key, value): &(Vec<u8>, Option<Vec<u8>>)| match value {
        Some(value) => json!({ "request_put": { "key": base64(key), "value": base64(value) } }),
        None => json!({ "request_delete_range": { "key": base64(key) } }),
    };
    let operations: Vec<Value> = changes.iter().map(operation).collect();
    revision_of(&post(address, "/v3/kv/txn", json!({ "success": operations })).await)
}

/// Writes one key with this lease.
pub(crate) async fn put(address: SocketAddr, key: &[u8], value: &[u8], lease: i64) {
    let request = json!({ "key": base64(key), "value": base64(value), "lease": lease.to_string() });
    post(address, "/v3/kv/put", request).await;
}

/// Reads all keys with this prefix, which ends with a slash.
///
/// # Errors
/// The member does not respond, or refuses.
pub(crate) async fn read(address: SocketAddr, prefix: &str) -> Result<Vec<StoredValue>, String> {
    let end = format!("{}0", prefix.strip_suffix('/').expect("a path"));
    let request = json!({ "key": base64(prefix.as_bytes()), "range_end": base64(end.as_bytes()) });
    Ok(values(&try_post(address, "/v3/kv/range", request).await?))
}

/// Parses the key-value pairs of a response, in the format of the gateway and of etcdctl.
pub(crate) fn values(response: &Value) -> Vec<StoredValue> {
    let value = |kv: &Value| StoredValue {
        value: bytes(&kv["value"]),
        lease: number(&kv["lease"]),
    };
    response["kvs"]
        .as_array()
        .into_iter()
        .flatten()
        .map(value)
        .collect()
}

/// Returns the lease of a key; none if the key does not exist, 0 if it has none.
pub(crate) async fn lease_of(address: SocketAddr, key: &[u8]) -> Option<i64> {
    let found = post(address, "/v3/kv/range", json!({ "key": base64(key) })).await;
    values(&found).first().map(|value| value.lease)
}

/// Returns the `mod_revision` of a key; 0 if the key does not exist.
pub(crate) async fn written_at(address: SocketAddr, key: &[u8]) -> i64 {
    number(
        &post(address, "/v3/kv/range", json!({ "key": base64(key) })).await["kvs"][0]["mod_revision"],
    )
}

/// Grants a lease that is not kept alive.
pub(crate) async fn grant(address: SocketAddr, seconds: u64) -> i64 {
    number(
        &post(
            address,
            "/v3/lease/grant",
            json!({ "TTL": seconds.to_string() }),
        )
        .await["ID"],
    )
}

/// Returns the number of keys with this prefix; retries until the member serves.
pub(crate) async fn count(address: SocketAddr, prefix: &str) -> usize {
    loop {
        match read(address, prefix).await {
            Ok(value) => return value.len(),
            Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    }
}

/// Revokes a lease, and deletes the keys attached to it.
pub(crate) async fn revoke(address: SocketAddr, lease: i64) {
    post(
        address,
        "/v3/lease/revoke",
        json!({ "ID": lease.to_string() }),
    )
    .await;
}

/// Revokes a lease, if it still exists.
pub(crate) async fn revoke_if_there(address: SocketAddr, lease: i64) {
    let _ = try_post(
        address,
        "/v3/lease/revoke",
        json!({ "ID": lease.to_string() }),
    )
    .await;
}

/// Compacts the history before `revision`.
pub(crate) async fn compact(address: SocketAddr, revision: i64) {
    post(
        address,
        "/v3/kv/compaction",
        json!({ "revision": revision.to_string() }),
    )
    .await;
}

/// Returns the current revision.
///
/// # Errors
/// The member does not respond, or refuses.
pub(crate) async fn revision(address: SocketAddr) -> Result<i64, String> {
    Ok(revision_of(
        &try_post(address, "/v3/kv/range", json!({ "key": base64(b"/") })).await?,
    ))
}

/// Returns all changes to keys that are paths after `revision`, from a watch of its own; none if
/// they are compacted.
pub(crate) async fn history(address: SocketAddr, revision: i64) -> Option<Vec<Change>> {
    const MARK: &[u8] = b"/mark-in-history";
    let mark = write(address, &[(MARK.to_vec(), Some(Vec::new()))]).await;
    let first = revision + 1;
    if mark < first {
        return None;
    }
    let watch = json!({ "key": base64(b"/"), "range_end": base64(b"0"), "start_revision": first.to_string(), "prev_kv": true });
    let reading = async {
        let mut lines = send(
            address,
            "/v3/watch",
            &json!({ "create_request": watch }).to_string(),
        )
        .await?
        .lines();
        let mut changes = Vec::new();
        while let Some(line) = lines.next_line().await? {
            let Ok(message) = serde_json::from_str::<Value>(&line) else {
                continue;
            };
            if message["result"]["canceled"] == true {
                return Ok(None);
            }
            for event in message["result"]["events"].as_array().into_iter().flatten() {
                if number(&event["kv"]["mod_revision"]) == mark {
                    return Ok(Some(changes));
                }
                changes.push(change(event));
            }
        }
        Err(std::io::Error::other("the watch has ended"))
    };
    timeout(TIMEOUT, reading)
        .await
        .expect("etcd returns its history")
        .unwrap()
}

fn change(event: &Value) -> Change {
    let before = event.get("prev_kv").map(|kv| bytes(&kv["value"]));
    Change {
        key: bytes(&event["kv"]["key"]),
        deleted: event["type"] == "DELETE",
        before,
    }
}

async fn post(address: SocketAddr, path: &str, request: Value) -> Value {
    try_post(address, path, request).await.unwrap()
}

/// Sends a request to a member's JSON gateway.
async fn try_post(address: SocketAddr, path: &str, request: Value) -> Result<Value, String> {
    let request = request.to_string();
    let exchange = async {
        let mut response = String::new();
        send(address, path, &request)
            .await?
            .read_to_string(&mut response)
            .await?;
        Ok::<_, std::io::Error>(response)
    };
    let failed = |why: &str| format!("{path} {request}: {why}");
    let response = timeout(TIMEOUT, exchange)
        .await
        .map_err(|_| failed("no response"))?
        .map_err(|error| failed(&error.to_string()))?;
    let body = response
        .split_once("\r\n\r\n")
        .filter(|(head, _)| head.starts_with("HTTP/1.0 200"))
        .map(|(_, body)| body);
    serde_json::from_str(body.ok_or_else(|| failed(&response))?).map_err(|_| failed(&response))
}

async fn send(
    address: SocketAddr,
    path: &str,
    request: &str,
) -> std::io::Result<BufReader<TcpStream>> {
    let head = format!(
        "POST {path} HTTP/1.0\r\nContent-Length: {}\r\n\r\n",
        request.len()
    );
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all((head + request).as_bytes()).await?;
    Ok(BufReader::new(stream))
}

fn revision_of(response: &Value) -> i64 {
    number(&response["header"]["revision"])
}

/// Parses a number: the gateway writes text, etcdctl numbers; both omit a zero.
fn number(value: &Value) -> i64 {
    value
        .as_str()
        .map_or(value.as_i64(), |digits| digits.parse().ok())
        .unwrap_or_default()
}

fn bytes(value: &Value) -> Vec<u8> {
    unbase64(value.as_str().unwrap_or_default())
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let word = three
            .iter()
            .fold(0, |word, byte| word << 8 | u32::from(*byte))
            << (8 * (3 - three.len()));
        for place in 0..4 {
            let digit = char::from(DIGITS[(word >> (18 - 6 * place)) as usize & 63]);
            text.push(if place > three.len() { '=' } else { digit });
        }
    }
    text
}

fn unbase64(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let value = |digit: &u8| {
        DIGITS
            .iter()
            .position(|known| known == digit)
            .and_then(|value| u32::try_from(value).ok())
    };
    let digits: Vec<u32> = text.as_bytes().iter().map_while(value).collect();
    for four in digits.chunks(4) {
        let word = four.iter().fold(0, |word, digit| word << 6 | digit) << (6 * (4 - four.len()));
        bytes.extend_from_slice(&word.to_be_bytes()[1..four.len()]);
    }
    bytes
}

#[test]
fn base64_is_base64() {
    for (bytes, text) in [
        (&b""[..], ""),
        (b"a", "YQ=="),
        (b"ab", "YWI="),
        (b"abc", "YWJj"),
        (b"\xff\xfe\xfd\xfc", "//79/A=="),
    ] {
        assert_eq!(
            (base64(bytes).as_str(), unbase64(text).as_slice()),
            (text, bytes)
        );
    }
}
