//! Semantics of gRPC: deadlines, retries and status codes in HTTP headers and trailers (the gRPC
//! over HTTP/2 protocol, gRFC A6).

use std::time::Duration;

use http::header::{HeaderName, USER_AGENT};
use http::{HeaderMap, HeaderValue, StatusCode};
use waypost_http::{BodyError, BoxError, Protocol, Pushback, ResponseClass};

use crate::status;

static TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
static STATUS: HeaderName = HeaderName::from_static("grpc-status");
static PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");
static PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
const AGENT: HeaderValue = HeaderValue::from_static(concat!("waypost/", env!("CARGO_PKG_VERSION")));

/// Default deadline in the form in which nearly every call sends it.
const USUAL_TIMEOUT: HeaderValue = HeaderValue::from_static("30S");
const SECOND: u64 = 1_000_000_000;
/// Units of `grpc-timeout` and their nanoseconds, from the largest.
const UNITS: [(u64, char); 4] = [(SECOND, 'S'), (1_000_000, 'm'), (1_000, 'u'), (1, 'n')];
/// Larger units and their seconds.
const LARGE_UNITS: [(u64, char); 2] = [(60, 'M'), (3_600, 'H')];
/// Largest number in a `grpc-timeout`: eight digits.
const MOST: u64 = 99_999_999;

const RESOURCE_EXHAUSTED: &[u8] = b"8";
const INTERNAL: &[u8] = b"13";
const UNAVAILABLE: &[u8] = b"14";

/// gRPC protocol.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grpc;

impl Protocol for Grpc {
    fn timeout(&self, headers: &HeaderMap) -> Option<Duration> {
        parse_timeout(headers.get(&TIMEOUT)?.to_str().ok()?)
    }

    fn prepare(&self, headers: &mut HeaderMap, earlier_attempts: u32, remaining: Option<Duration>) {
        if let Some(remaining) = remaining {
            headers.insert(&TIMEOUT, format_timeout(remaining));
        }
        if earlier_attempts > 0 {
            headers.insert(&PREVIOUS_ATTEMPTS, HeaderValue::from(earlier_attempts));
        }
        headers.entry(USER_AGENT).or_insert(AGENT);
    }

    fn classify_head(&self, status: StatusCode, headers: &HeaderMap) -> ResponseClass {
        match status {
            StatusCode::OK => self.classify_trailers(headers),
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => ResponseClass::Unavailable(pushback(headers)),
            _ => ResponseClass::NodeFailed,
        }
    }

    fn classify_trailers(&self, trailers: &HeaderMap) -> ResponseClass {
        match trailers.get(&STATUS).map(HeaderValue::as_bytes) {
            Some(UNAVAILABLE) => ResponseClass::Unavailable(pushback(trailers)),
            Some(INTERNAL | RESOURCE_EXHAUSTED) => ResponseClass::NodeFailed,
            _ => ResponseClass::Success,
        }
    }

    fn body_error(&self, error: BodyError) -> BoxError {
        Box::new(status::from_body_error(error))
    }
}

/// Returns the delay that a server requests before the next attempt. A value that is negative or
/// cannot be parsed forbids a retry (gRFC A6).
fn pushback(headers: &HeaderMap) -> Pushback {
    let Some(value) = headers.get(&PUSHBACK) else {
        return Pushback::None;
    };
    match value.to_str().ok().and_then(|ms| ms.parse::<u32>().ok()) {
        Some(ms) => Pushback::After(Duration::from_millis(ms.into())),
        None => Pushback::Never,
    }
}

fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(n * 3600),
        "M" => Duration::from_secs(n * 60),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        "u" => Duration::from_micros(n),
        "n" => Duration::from_nanos(n),
        _ => return None,
    })
}

/// Formats a timeout with three significant digits, rounded up, and so less than 1 % too long. The
/// caller's own timer is exact and fires first. Each distinct value would cost both sides an entry
/// in the table of header compression, and the client a search through all of them for every call.
fn format_timeout(timeout: Duration) -> HeaderValue {
    match shortest(timeout) {
        (30, 'S') => USUAL_TIMEOUT,
        (n, unit) => HeaderValue::try_from(format!("{n}{unit}")).unwrap_or(USUAL_TIMEOUT),
    }
}

/// Returns the rounded timeout in the largest unit that divides it. Minutes and hours are used only
/// where seconds take too many digits.
fn shortest(timeout: Duration) -> (u64, char) {
    let (secs, nanos) = (timeout.as_secs(), u64::from(timeout.subsec_nanos()));
    if secs <= MOST {
        let nanos = three_digits(secs * SECOND + nanos);
        let (size, unit) = UNITS
            .into_iter()
            .find(|(size, _)| nanos > 0 && nanos.is_multiple_of(*size))
            .unwrap_or((1, 'n'));
        if nanos / size <= MOST {
            return (nanos / size, unit);
        }
    }
    let secs = secs.saturating_add(u64::from(nanos > 0));
    let large = LARGE_UNITS.map(|(size, unit)| (three_digits(secs.div_ceil(size)), unit));
    large
        .into_iter()
        .find(|(n, _)| *n <= MOST)
        .unwrap_or((MOST, 'H'))
}

fn three_digits(n: u64) -> u64 {
    let unit = 10_u64.pow(n.checked_ilog10().unwrap_or(0).saturating_sub(2));
    n.div_ceil(unit) * unit
}

#[cfg(test)]
mod tests {
    use proptest::strategy::Strategy;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_str(value).unwrap(),
                )
            })
            .collect()
    }

    #[test]
    fn timeouts_read_in_every_unit() {
        let table = [
            ("2H", Some(Duration::from_secs(7200))),
            ("3M", Some(Duration::from_secs(180))),
            ("4S", Some(Duration::from_secs(4))),
            ("200m", Some(Duration::from_millis(200))),
            ("99999999u", Some(Duration::from_micros(99_999_999))),
            ("7n", Some(Duration::from_nanos(7))),
            ("0n", Some(Duration::ZERO)),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("123456789m", None),
            ("m", None),
            ("-1S", None),
            ("5x", None),
            ("", None),
            ("5é", None),
        ];
        for (text, expected) in table {
            assert_eq!(parse_timeout(text), expected, "{text}");
        }
    }

    #[test]
    fn timeouts_are_written_in_three_digits_and_never_shorter() {
        for (timeout, text) in [
            (Duration::ZERO, "0n"),
            (Duration::from_nanos(1), "1n"),
            (Duration::from_nanos(999), "999n"),
            (Duration::from_nanos(1_500), "1500n"),
            (Duration::from_nanos(7_654_321), "7660u"),
            (Duration::from_millis(200), "200m"),
            (Duration::from_micros(199_871), "200m"),
            (Duration::from_micros(29_999_987), "30S"),
            (Duration::from_micros(29_900_001), "30S"),
            (Duration::from_micros(1_234_567), "1240m"),
            (Duration::from_secs(200_000), "200000S"),
            (Duration::from_secs(99_900_000), "99900000S"),
            (Duration::from_secs(99_900_001), "1670000M"),
            (Duration::from_secs(6_000_000_000), "1670000H"),
            (Duration::MAX, "99999999H"),
        ] {
            assert_eq!(format_timeout(timeout), text, "{timeout:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_timeout_as_it_is_written_is_never_shorter_and_at_most_a_hundredth_longer(
            // As many short timeouts as long ones, up to eleven thousand years.
            nanos in (0u32..88).prop_flat_map(|bits| 0u128..=(1 << bits)).prop_filter("fits", |n| *n <= 359_000_000_000_000_000_000),
        ) {
            let timeout = Duration::new((nanos / 1_000_000_000) as u64, (nanos % 1_000_000_000) as u32);
            let written = parse_timeout(format_timeout(timeout).to_str().unwrap()).unwrap();
            proptest::prop_assert!(timeout <= written && written <= timeout + timeout / 100, "{written:?}");
        }
    }

    #[test]
    fn what_answers_mean_for_the_node() {
        let table = [
            (200, vec![("grpc-status", "0")], ResponseClass::Success),
            (200, vec![("grpc-status", "5")], ResponseClass::Success),
            (200, vec![], ResponseClass::Success),
            (200, vec![("grpc-status", "13")], ResponseClass::NodeFailed),
            (
                200,
                vec![("grpc-status", "14")],
                ResponseClass::Unavailable(Pushback::None),
            ),
            (
                200,
                vec![("grpc-status", "14"), ("grpc-retry-pushback-ms", "70")],
                ResponseClass::Unavailable(Pushback::After(Duration::from_millis(70))),
            ),
            (
                200,
                vec![("grpc-status", "14"), ("grpc-retry-pushback-ms", "-1")],
                ResponseClass::Unavailable(Pushback::Never),
            ),
            (503, vec![], ResponseClass::Unavailable(Pushback::None)),
            (404, vec![], ResponseClass::NodeFailed),
        ];
        for (status, pairs, expected) in table {
            let verdict =
                Grpc.classify_head(StatusCode::from_u16(status).unwrap(), &headers(&pairs));
            assert_eq!(verdict, expected, "{status} {pairs:?}");
        }
    }

    #[test]
    fn each_attempt_carries_what_remains_and_what_came_before() {
        let mut map = headers(&[("grpc-timeout", "1S")]);
        Grpc.prepare(&mut map, 2, Some(Duration::from_millis(300)));
        assert_eq!(map["grpc-timeout"], "300m");
        assert_eq!(map["grpc-previous-rpc-attempts"], "2");
        assert!(map["user-agent"].to_str().unwrap().starts_with("waypost/"));
        let mut map = headers(&[("user-agent", "mine")]);
        Grpc.prepare(&mut map, 0, None);
        assert_eq!(
            (map["user-agent"].to_str().unwrap(), map.len()),
            ("mine", 1)
        );
    }
}
