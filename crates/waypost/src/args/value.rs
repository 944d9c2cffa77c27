//! Parsers of the values of flags and variables. Each error says what to write instead.

use std::time::Duration;

#[cfg(feature = "tonic")]
use crate::balance::{StrategyName, UnknownStrategy};
use crate::record::{Address, NameError, NodeId, ServiceName};

/// Metadata entry.
pub(super) type Pair = (String, String);

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    super::duration::parse(text).map_err(|error| error.to_string())
}

pub(super) fn service(text: &str) -> Result<String, String> {
    named(text.parse::<ServiceName>(), text)
}

pub(super) fn id(text: &str) -> Result<String, String> {
    named(text.parse::<NodeId>(), text)
}

pub(super) fn version(text: &str) -> Result<String, String> {
    if text.is_empty() {
        Err("is empty: give a version, such as 1.2.0".to_owned())
    } else {
        Ok(text.to_owned())
    }
}

/// Parses an address to listen on. As in Go, `:8080` means every interface.
pub(super) fn bind(text: &str) -> Result<String, String> {
    match text.strip_prefix(':') {
        Some(port) => with_port(&format!("[::]:{port}"))?,
        None => with_port(text)?,
    }
    Ok(text.to_owned())
}

/// Parses an address to advertise to clients. The port is optional.
pub(super) fn advertise(text: &str) -> Result<String, String> {
    Address::with_default_port(text, 1)
        .map(|_| text.to_owned())
        .map_err(|error| error.why().to_owned())
}

/// Parses one metadata entry.
pub(super) fn pair(text: &str) -> Result<Pair, String> {
    match text.trim().split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("must be key=value, without a comma in the value".to_owned()),
    }
}

/// Parses metadata entries separated by commas.
pub(super) fn pairs(text: &str) -> Result<Vec<Pair>, String> {
    text.split(',')
        .map(|part| pair(part).map_err(|why| format!("has {part:?}, which {why}")))
        .collect()
}

/// Parses metadata entries as go-micro does: a key without a value has an empty one.
pub(super) fn go_pairs(text: &str) -> Result<Vec<Pair>, String> {
    let parts = text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty());
    parts
        .map(|part| {
            if part.contains('=') {
                pair(part)
            } else {
                Ok((part.to_owned(), String::new()))
            }
        })
        .collect()
}

#[cfg(feature = "tonic")]
pub(super) fn retries(text: &str) -> Result<u32, String> {
    text.parse()
        .map_err(|_| "must be a whole number of at least 0, such as 2".to_owned())
}

#[cfg(feature = "tonic")]
pub(super) fn strategy(text: &str) -> Result<StrategyName, String> {
    text.parse()
        .map_err(|unknown: UnknownStrategy| unknown.why())
}

/// Parses `true` or `false`.
pub(super) fn switch(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "must be true or false".to_owned())
}

/// Parses a whole number of seconds, go-micro's format for the times of a registration.
pub(super) fn go_seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(0) => Err("must be more than zero, such as 15".to_owned()),
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => {
            Err("must be a whole number of seconds, such as 15; a value with a unit goes into the WAYPOST_ variable".to_owned())
        }
    }
}

fn named<T>(checked: Result<T, NameError>, text: &str) -> Result<String, String> {
    checked
        .map(|_| text.to_owned())
        .map_err(|error| error.why().to_owned())
}

/// Checks that the text is a host and a port. Port 0 means any port.
fn with_port(text: &str) -> Result<(), String> {
    let any = text.strip_suffix(":0").map(|host| format!("{host}:1"));
    let checked = any.as_deref().unwrap_or(text).parse::<Address>();
    checked.map(drop).map_err(|error| error.why().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_listened_on() {
        for (text, bound) in [
            (":8080", ":8080"),
            (":0", ":0"),
            ("[::]:0", "[::]:0"),
            ("localhost:80", "localhost:80"),
        ] {
            assert_eq!(bind(text), Ok(bound.to_owned()));
        }
        for text in [
            "",
            "8080",
            "localhost",
            "::1",
            "::",
            "a:b",
            "a:70000",
            "http://a:1",
            ":",
        ] {
            assert!(bind(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_accepted() {
        for text in [
            "a",
            "a:0",
            "a:1",
            "10.0.0.7",
            "10.0.0.7:80",
            "::1",
            "[::1]",
            "[::1]:80",
            "2001:db8::7",
        ] {
            assert_eq!(advertise(text), Ok(text.to_owned()));
        }
        for text in ["", ":80", "a:b", "http://a", "a b", "a:1:2"] {
            assert!(advertise(text).is_err(), "{text}");
        }
    }

    #[test]
    fn metadata_is_pairs() {
        let owned = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect::<Vec<_>>()
        };
        assert_eq!(pairs("a=1, b=x=y"), Ok(owned(&[("a", "1"), ("b", "x=y")])));
        assert_eq!(pairs("a=").unwrap(), owned(&[("a", "")]));
        assert_eq!(
            go_pairs("a=1,,canary, b=x=y"),
            Ok(owned(&[("a", "1"), ("canary", ""), ("b", "x=y")]))
        );
        assert!(go_pairs("=1").is_err());
        assert_eq!(
            pairs("a=1,2").unwrap_err(),
            r#"has "2", which must be key=value, without a comma in the value"#
        );
    }
}
