//! Settings without a flag of their own, as `KEY=VALUE`: those of
//! [`ClientConfig`](crate::ClientConfig), of [`ChannelConfig`](crate::ChannelConfig) and of the
//! registration.

use std::num::NonZeroU32;
use std::time::Duration;

use super::value::{self, Pair};
use crate::registrar;
#[cfg(feature = "tonic")]
use crate::{ChannelConfig, ClientConfig, Silence};

/// Setting of a `T`: its key, and the function that parses and sets its value.
pub(super) struct Key<T> {
    pub(super) name: &'static str,
    pub(super) set: fn(&mut T, &str) -> Result<(), String>,
}

/// Settings shared by all channels of a client.
#[cfg(feature = "tonic")]
pub(super) const CLIENT: &[Key<ClientConfig>] = &[
    key("suspect-grace", |c: &mut ClientConfig, text| {
        duration(&mut c.directory.suspect_grace, text)
    }),
    key("idle-watch", |c, text| {
        duration(&mut c.directory.idle_watch, text)
    }),
    key("watch-backoff-initial", |c, text| {
        duration(&mut c.directory.backoff.initial, text)
    }),
    key("watch-backoff-max", |c, text| {
        duration(&mut c.directory.backoff.max, text)
    }),
    key("backoff-initial", |c, text| {
        duration(&mut c.reconnect.backoff.initial, text)
    }),
    key("backoff-max", |c, text| {
        duration(&mut c.reconnect.backoff.max, text)
    }),
    key("settled-after", |c, text| {
        duration(&mut c.reconnect.settled_after, text)
    }),
    key("max-dials", |c, text| count(&mut c.max_dials, text)),
    key("idle-timeout", |c, text| {
        duration(&mut c.connection.idle_timeout, text)
    }),
    key("ping-after", |c, text| {
        let periods = text
            .split('/')
            .map(value::duration)
            .collect::<Result<Vec<_>, _>>()?;
        let periods: [Duration; 3] = periods
            .try_into()
            .map_err(|_| "must be three durations, such as 5s/15s/45s".to_owned())?;
        if !periods.is_sorted() {
            return Err("must not decrease, such as 5s/15s/45s".to_owned());
        }
        c.connection.silence = Silence::Sparse(periods);
        Ok(())
    }),
    key("ping-timeout", |c, text| {
        duration(&mut c.connection.ping_timeout, text)
    }),
    key("close-timeout", |c, text| {
        duration(&mut c.connection.close_timeout, text)
    }),
    key("budget-per-call", |c, text| {
        ratio(&mut c.budget.per_call, text)
    }),
    key("budget-per-second", |c, text| {
        ratio(&mut c.budget.per_second, text)
    }),
    key("budget-initial", |c, text| {
        count(&mut c.budget.initial, text)
    }),
    key("budget-window", |c, text| {
        duration(&mut c.budget.window, text)
    }),
    key("waiting-calls", |c, text| count(&mut c.waiting_calls, text)),
    key("waiting-bytes", |c, text| count(&mut c.waiting_bytes, text)),
];

/// Settings of each channel of a client.
#[cfg(feature = "tonic")]
pub(super) const CHANNEL: &[Key<ChannelConfig>] = &[
    key("max-peers", |c: &mut ChannelConfig, text| {
        count(&mut c.balance.max_peers, text)
    }),
    key("wait-for-node", |c, text| {
        duration(&mut c.wait_for_node, text)
    }),
    key("stall-after", |c, text| duration(&mut c.stall.after, text)),
    key("stall-p50s", |c, text| count(&mut c.stall.p50s, text)),
    key("replay-limit", |c, text| count(&mut c.replay_limit, text)),
];

/// Settings of a registration. The TTL and the interval have flags of their own.
pub(super) const REGISTRATION: &[Key<registrar::Config>] = &[
    key("drain-delay", |c: &mut registrar::Config, text| {
        duration(&mut c.drain_delay, text)
    }),
    key("timeout", |c, text| duration(&mut c.timeout, text)),
    key("backoff-initial", |c, text| {
        duration(&mut c.backoff.initial, text)
    }),
    key("backoff-max", |c, text| duration(&mut c.backoff.max, text)),
    key("reregister-jitter", |c, text| {
        duration(&mut c.reregister_jitter, text)
    }),
    key("failure-threshold", |c, text| {
        positive(&mut c.failure_threshold, text)
    }),
    key("success-threshold", |c, text| {
        positive(&mut c.success_threshold, text)
    }),
];

const fn key<T>(name: &'static str, set: fn(&mut T, &str) -> Result<(), String>) -> Key<T> {
    Key { name, set }
}

/// Sets `value` in `config` if `keys` has its key; returns false if it has not.
///
/// # Errors
/// Names the key, and what its value must be.
pub(super) fn set<T>(keys: &[Key<T>], config: &mut T, (name, text): &Pair) -> Result<bool, String> {
    let Some(key) = keys.iter().find(|key| key.name == name.as_str()) else {
        return Ok(false);
    };
    (key.set)(config, text).map_err(|why| format!("{name}={text}: {why}"))?;
    Ok(true)
}

/// Returns the help of a flag with these keys.
pub(super) fn help(keys: impl Iterator<Item = &'static str>) -> String {
    format!(
        "Other settings; several with commas, or repeat the flag. Keys: {}",
        list(keys)
    )
}

/// Returns the error for a key that does not exist.
pub(super) fn unknown(name: &str, keys: impl Iterator<Item = &'static str>) -> String {
    format!("has no key {name:?}; the keys are {}", list(keys))
}

fn list(keys: impl Iterator<Item = &'static str>) -> String {
    keys.collect::<Vec<_>>().join(", ")
}

fn duration(to: &mut Duration, text: &str) -> Result<(), String> {
    *to = value::duration(text)?;
    Ok(())
}

#[cfg(feature = "tonic")]
fn count<N: std::str::FromStr>(to: &mut N, text: &str) -> Result<(), String> {
    *to = text
        .parse()
        .map_err(|_| "must be a whole number that is not negative, such as 100".to_owned())?;
    Ok(())
}

fn positive(to: &mut NonZeroU32, text: &str) -> Result<(), String> {
    *to = text
        .parse()
        .map_err(|_| "must be a whole number above zero, such as 2".to_owned())?;
    Ok(())
}

#[cfg(feature = "tonic")]
fn ratio(to: &mut f64, text: &str) -> Result<(), String> {
    match text.parse() {
        Ok(number) if number >= 0.0 => *to = number,
        _ => return Err("must be a number that is not negative, such as 0.2".to_owned()),
    }
    Ok(())
}
