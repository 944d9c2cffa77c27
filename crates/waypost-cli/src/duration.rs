//! Durations as people write them: `30s`, `500ms`, `2m`, `1h30m`.

use std::time::Duration;

/// Reads a duration; several parts add up.
///
/// # Errors
/// What is wrong, and how it is written.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let mut rest = text;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let unit = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        sum = part(number, unit).and_then(|part| sum.checked_add(part)).ok_or_else(|| wrong(text))?;
        rest = after;
    }
    if sum.is_zero() { Err(wrong(text)) } else { Ok(sum) }
}

fn part(number: &str, unit: &str) -> Option<Duration> {
    let number: u64 = number.parse().ok()?;
    let seconds = |each: u64| number.checked_mul(each).map(Duration::from_secs);
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => seconds(1),
        "m" => seconds(60),
        "h" => seconds(3600),
        _ => None,
    }
}

fn wrong(text: &str) -> String {
    let bare = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match bare {
        true if text.bytes().all(|byte| byte == b'0') => "is no time: give more than zero, such as 500ms".to_owned(),
        true => format!("has no unit: give {text}s for seconds, or {text}ms, {text}m, {text}h"),
        false => "is no duration: give a whole number and its unit, such as 500ms, 30s, 2m or 1h30m".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_read_and_parts_add_up() {
        for (text, ms) in [("500ms", 500), ("30s", 30_000), ("2m", 120_000), ("1h30m", 5_400_000), ("1s5ms", 1005)] {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_how_to_write_it() {
        for text in ["", "s", "1.5s", "-1s", "30 s", "1d", "30s5", "0s", "99999999999999999999s", "18446744073709551615h"] {
            let error = parse(text).unwrap_err();
            assert_eq!(error, "is no duration: give a whole number and its unit, such as 500ms, 30s, 2m or 1h30m", "{text}");
        }
        assert_eq!(parse("30").unwrap_err(), "has no unit: give 30s for seconds, or 30ms, 30m, 30h");
        assert_eq!(parse("0").unwrap_err(), "is no time: give more than zero, such as 500ms");
    }
}
