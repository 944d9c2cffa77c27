//! Durations in Go's notation: `30s`, `500ms`, `2m`, `1h30m`, `1.5s`.

use std::fmt;
use std::time::Duration;

/// Error of a text that is not a duration: what is wrong, and how to write one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DurationError(String);

impl fmt::Display for DurationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for DurationError {}

/// Parses a duration: numbers with a unit (`ns`, `us`, `ms`, `s`, `m`, `h`), which are added up.
/// Zero is rejected.
///
/// # Errors
/// [`DurationError`] names the fault and shows how to write a duration.
///
/// ```
/// use std::time::Duration;
/// use waypost::args::duration;
///
/// assert_eq!(duration::parse("1m30s"), Ok(Duration::from_secs(90)));
/// assert!(duration::parse("30").unwrap_err().to_string().contains("30s"));
/// ```
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let mut rest = text;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let (number, after) = split(rest, |c| !is_of_number(c));
        let (unit, after) = split(after, is_of_number);
        sum = part(number, unit)
            .and_then(|part| sum.checked_add(part))
            .ok_or_else(|| wrong(text))?;
        rest = after;
    }
    if sum.is_zero() {
        Err(wrong(text))
    } else {
        Ok(sum)
    }
}

fn is_of_number(c: char) -> bool {
    c.is_ascii_digit() || c == '.'
}

fn split(text: &str, end: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(end).unwrap_or(text.len()))
}

fn part(number: &str, unit: &str) -> Option<Duration> {
    let unit_ns: u64 = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let whole_ns = u128::from(whole.parse::<u64>().ok()?) * u128::from(unit_ns);
    let parts = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let fraction_ns = u128::from(fraction.parse::<u64>().ok()?) * u128::from(unit_ns) / parts;
    let ns = whole_ns + fraction_ns;
    let seconds = u64::try_from(ns / 1_000_000_000).ok()?;
    Some(Duration::new(seconds, (ns % 1_000_000_000) as u32))
}

fn wrong(text: &str) -> DurationError {
    let bare = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let zero = text.bytes().any(|byte| byte == b'0')
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0' | b'a'..=b'z' | b'.'));
    DurationError(match bare {
        _ if zero => "must be more than zero, such as 500ms".to_owned(),
        true => format!("must have a unit: {text}s for seconds, or {text}ms, {text}m, {text}h"),
        false => "must be a number and its unit, such as 500ms, 30s, 2m or 1h30m".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_read_and_parts_add_up() {
        for (text, ns) in [
            ("500ms", 500_000_000),
            ("30s", 30_000_000_000),
            ("2m", 120_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1s5ms", 1_005_000_000),
            ("1.5s", 1_500_000_000),
            ("0.25ms", 250_000),
            ("1m0.5s", 60_500_000_000),
            ("3us", 3_000),
            ("3µs", 3_000),
            ("7ns", 7),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_nanos(ns)), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_reported_with_how_to_write_it() {
        let (huge, tiny) = (
            format!("0.{}s", "1".repeat(40)),
            format!("0.{}1s", "0".repeat(40)),
        );
        for text in [
            "",
            "s",
            ".5s",
            "5.s",
            "1.2.3s",
            "-1s",
            "30 s",
            "1d",
            "30s5",
            "99999999999999999999s",
            "18446744073709551615h",
            &huge,
            &tiny,
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(
                error.to_string(),
                "must be a number and its unit, such as 500ms, 30s, 2m or 1h30m",
                "{text}"
            );
        }
        assert_eq!(
            parse("30").unwrap_err().to_string(),
            "must have a unit: 30s for seconds, or 30ms, 30m, 30h"
        );
        for zero in ["0", "0s", "0h0.0s"] {
            assert_eq!(
                parse(zero).unwrap_err().to_string(),
                "must be more than zero, such as 500ms"
            );
        }
    }
}
