//! Adaptation of request headers to HTTP/2: connection-specific fields and the peer's size limit.

use http::header::{CONNECTION, HeaderName, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue, Method};

use crate::request_error::RequestError;

/// Size that HTTP/2 counts for a field in addition to its name and value (RFC 9113, 6.5.2).
const FIELD_OVERHEAD: usize = 32;

/// Maximum size of the headers that a protocol may add unmeasured
/// ([`Protocol::prepare`](crate::Protocol::prepare)).
const MAX_PREPARED: usize = 512;

static CONNECTION_SPECIFIC: [HeaderName; 5] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Removes the fields that HTTP/2 forbids (RFC 9113, 8.2.2): h2 refuses a request that has one. A
/// `Connection` field names further ones.
pub(crate) fn strip_connection_specific(headers: &mut HeaderMap) {
    let is_forbidden = |name: &HeaderName, value: &HeaderValue| {
        CONNECTION_SPECIFIC.contains(name) || *name == TE && value != "trailers"
    };
    for connection in headers
        .get_all(CONNECTION)
        .iter()
        .cloned()
        .collect::<Vec<_>>()
    {
        for name in connection.to_str().unwrap_or_default().split(',') {
            headers.remove(name.trim());
        }
    }
    let forbidden: Vec<HeaderName> = headers
        .iter()
        .filter(|(name, value)| is_forbidden(name, value))
        .map(|(name, _)| name.clone())
        .collect();
    for name in forbidden {
        headers.remove(name);
    }
}

/// Checks that a request fits into `limit`, the peer's SETTINGS_MAX_HEADER_LIST_SIZE. `kept` is the
/// size of its headers before the protocol prepared them.
///
/// # Errors
/// [`RequestError::HeadersTooLarge`]: the peer would reset the stream, and might close the
/// connection.
pub(crate) fn check_size(
    method: &Method,
    authority: &str,
    path: &str,
    kept: usize,
    headers: &HeaderMap,
    limit: Option<u32>,
) -> Result<(), RequestError> {
    let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else {
        return Ok(());
    };
    let pseudo = [
        (":method", method.as_str()),
        (":scheme", "https"),
        (":authority", authority),
        (":path", path),
    ];
    let pseudo: usize = pseudo
        .iter()
        .map(|(name, value)| field_size(name, value))
        .sum();
    if pseudo + kept + MAX_PREPARED <= limit {
        return Ok(());
    }
    let fields: usize = headers
        .iter()
        .map(|(name, value)| field_size(name.as_str(), value))
        .sum();
    let size = pseudo + fields;
    if size > limit {
        Err(RequestError::HeadersTooLarge { size, limit })
    } else {
        Ok(())
    }
}

/// Returns the size of a field as counted by HTTP/2.
pub(super) fn field_size(name: &str, value: impl AsRef<[u8]>) -> usize {
    name.len() + value.as_ref().len() + FIELD_OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stripped(pairs: &[(&'static str, &'static str)]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        strip_connection_specific(&mut headers);
        headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect()
    }

    #[test]
    fn fields_that_http2_forbids_are_removed_and_no_others() {
        let kept = ["te: trailers", "authorization: x"];
        let base = [("te", "trailers"), ("authorization", "x")];
        for extra in [
            ("connection", "close"),
            ("connection", ""),
            ("connection", "no such name, \u{7f}"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
        ] {
            if HeaderValue::try_from(extra.1).is_ok() {
                assert_eq!(stripped(&[base[0], base[1], extra]), kept, "{extra:?}");
            }
        }
        assert_eq!(stripped(&[("te", "gzip"), ("x", "1")]), ["x: 1"]);
        assert_eq!(stripped(&[("te", "trailers"), ("te", "gzip")]), [""; 0]);
    }

    #[test]
    fn connection_names_further_fields() {
        let pairs = [
            ("connection", "X-Hop, close"),
            ("connection", " y-hop"),
            ("x-hop", "1"),
            ("y-hop", "2"),
            ("z", "3"),
        ];
        assert_eq!(stripped(&pairs), ["z: 3"]);
    }

    #[test]
    fn headers_above_the_limit_of_the_peer_are_an_error_that_reports_it() {
        let headers = HeaderMap::from_iter([(
            HeaderName::from_static("big"),
            HeaderValue::from_str(&"x".repeat(1_000)).unwrap(),
        )]);
        let check = |limit| check_size(&Method::POST, "h:1", "/a/b", 1_003 + 32, &headers, limit);
        // 7+4, 7+5, 10+3, 5+4 and 3+1000, with 32 each.
        let size = 11 + 12 + 13 + 9 + 1_003 + 5 * 32;
        assert!(check(None).is_ok() && check(Some(size)).is_ok());
        assert_eq!(
            check(Some(size - 1)).unwrap_err().to_string(),
            "request headers take 1208 bytes, and the server accepts 1207 (SETTINGS_MAX_HEADER_LIST_SIZE): send less metadata"
        );
    }
}
