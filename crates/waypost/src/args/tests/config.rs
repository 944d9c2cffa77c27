//! `--client-config` and `--server-config`: every key, and the errors.

use insta::assert_snapshot;

use super::super::config::{CHANNEL, CLIENT, REGISTRATION};
use super::super::environment::Environment;
use super::parsed;
use crate::registry::Result;
use crate::{Client, ClientBuilder, MemoryRegistry, Server};

/// Key, a value, and its text in `Debug`.
type Given = (&'static str, &'static str, &'static str);

const OF_CLIENT: [Given; 18] = [
    ("suspect-grace", "61s", "suspect_grace: 61s"),
    ("idle-watch", "62s", "idle_watch: 62s"),
    ("watch-backoff-initial", "63ms", "initial: 63ms"),
    ("watch-backoff-max", "64s", "max: 64s"),
    ("backoff-initial", "65ms", "initial: 65ms"),
    ("backoff-max", "66s", "max: 66s"),
    ("settled-after", "67s", "settled_after: 67s"),
    ("max-dials", "68", "max_dials: 68"),
    ("idle-timeout", "69s", "idle_timeout: 69s"),
    ("ping-after", "7s/8s/8s", "Sparse([7s, 8s, 8s])"),
    ("ping-timeout", "71s", "ping_timeout: 71s"),
    ("close-timeout", "72s", "close_timeout: 72s"),
    ("budget-per-call", "0.73", "per_call: 0.73"),
    ("budget-per-second", "74", "per_second: 74.0"),
    ("budget-initial", "75", "initial: 75"),
    ("budget-window", "76s", "window: 76s"),
    ("waiting-calls", "77", "waiting_calls: 77"),
    ("waiting-bytes", "78", "waiting_bytes: 78"),
];

const OF_CHANNEL: [Given; 5] = [
    ("max-peers", "61", "max_peers: 61"),
    ("wait-for-node", "62s", "wait_for_node: 62s"),
    ("stall-after", "63s", "after: 63s"),
    ("stall-p50s", "64", "p50s: 64"),
    ("replay-limit", "66", "replay_limit: 66"),
];

const OF_SERVER: [Given; 9] = [
    ("drain-delay", "61s", "drain_delay: 61s"),
    ("timeout", "62s", "timeout: 62s"),
    ("backoff-initial", "63ms", "initial: 63ms"),
    ("backoff-max", "64s", "max: 64s"),
    ("reregister-jitter", "65s", "reregister_jitter: 65s"),
    ("failure-threshold", "66", "failure_threshold: 66"),
    ("success-threshold", "67", "success_threshold: 67"),
    ("drain-timeout", "68s", "drain_timeout: 68s"),
    ("allow-loopback", "true", "allow_loopback: true"),
];

fn client(flags: &[&str], variables: &[(&'static str, &str)]) -> Result<ClientBuilder> {
    let builder = Client::builder(MemoryRegistry::new());
    parsed(flags)
        .client
        .apply_in(builder, &Environment::of(variables))
}

fn server(flags: &[&str], variables: &[(&'static str, &str)]) -> Result<String> {
    let builder = Server::builder("greeter", MemoryRegistry::new());
    let server = parsed(flags)
        .server
        .apply_in(builder, &Environment::of(variables))?;
    Ok(format!("{server:?}"))
}

fn channel_of(client: ClientBuilder) -> String {
    format!("{:?}", client.build().channel("greeter").unwrap())
}

fn assert_changes(given: Given, before: &str, after: &str) {
    let (_, _, shown) = given;
    assert!(!before.contains(shown), "{given:?} in {before}");
    assert!(after.contains(shown), "{given:?} in {after}");
}

#[tokio::test]
async fn every_key_sets_its_setting_and_no_key_is_untested() {
    let pair = |(key, value, _): Given| format!("{key}={value}");
    let plain = || client(&[], &[]).unwrap();
    for given in OF_CLIENT {
        let changed = client(&["--client-config", &pair(given)], &[]).unwrap();
        assert_changes(given, &format!("{:?}", plain()), &format!("{changed:?}"));
    }
    for given in OF_CHANNEL {
        let changed = client(&["--client-config", &pair(given)], &[]).unwrap();
        assert_changes(given, &channel_of(plain()), &channel_of(changed));
    }
    for given in OF_SERVER {
        let changed = server(&["--server-config", &pair(given)], &[]).unwrap();
        assert_changes(given, &server(&[], &[]).unwrap(), &changed);
    }
    let tested = |given: &[Given]| given.iter().map(|(key, ..)| *key).collect::<Vec<_>>();
    let keys: Vec<_> = CLIENT.iter().map(|key| key.name).collect();
    assert_eq!(tested(&OF_CLIENT), keys);
    let keys: Vec<_> = CHANNEL.iter().map(|key| key.name).collect();
    assert_eq!(tested(&OF_CHANNEL), keys);
    let keys: Vec<_> = REGISTRATION.iter().map(|key| key.name).collect();
    assert_eq!(tested(&OF_SERVER[..7]), keys);
}

#[test]
fn a_key_of_a_flag_does_not_undo_another_of_the_variable() {
    let flags = ["--client-config", "max-dials=3,idle-watch=4s"];
    let variables = [("WAYPOST_CLIENT_CONFIG", "max-dials=1, waiting-calls=2")];
    let text = format!("{:?}", client(&flags, &variables).unwrap());
    for shown in ["max_dials: 3", "waiting_calls: 2", "idle_watch: 4s"] {
        assert!(text.contains(shown), "{shown} in {text}");
    }
}

#[test]
fn a_wrong_key_or_value_is_named_with_what_to_write() {
    let of_client = |text| {
        let error = client(&["--client-config", text], &[]).unwrap_err();
        error.to_string()
    };
    assert_snapshot!(of_client("max-peer=3"), @r#"--client-config: has no key "max-peer"; the keys are suspect-grace, idle-watch, watch-backoff-initial, watch-backoff-max, backoff-initial, backoff-max, settled-after, max-dials, idle-timeout, ping-after, ping-timeout, close-timeout, budget-per-call, budget-per-second, budget-initial, budget-window, waiting-calls, waiting-bytes, max-peers, wait-for-node, stall-after, stall-p50s, replay-limit"#);
    assert_snapshot!(of_client("max-peers=many"), @"--client-config: max-peers=many: must be a whole number that is not negative, such as 100");
    assert_snapshot!(of_client("suspect-grace=30"), @"--client-config: suspect-grace=30: must have a unit: 30s for seconds, or 30ms, 30m, 30h");
    assert_snapshot!(of_client("budget-per-call=-1"), @"--client-config: budget-per-call=-1: must be a number that is not negative, such as 0.2");
    assert_snapshot!(of_client("ping-after=5s"), @"--client-config: ping-after=5s: must be three durations, such as 5s/15s/45s");
    assert_snapshot!(of_client("ping-after=5s/4s/3s"), @"--client-config: ping-after=5s/4s/3s: must not decrease, such as 5s/15s/45s");
    let by_variable = client(&[], &[("WAYPOST_CLIENT_CONFIG", "stall-after=0")]);
    assert_snapshot!(by_variable.unwrap_err(), @"WAYPOST_CLIENT_CONFIG: stall-after=0: must be more than zero, such as 500ms");
    let of_server = |text| {
        server(&["--server-config", text], &[])
            .unwrap_err()
            .to_string()
    };
    assert_snapshot!(of_server("drain=3s"), @r#"--server-config: has no key "drain"; the keys are drain-delay, timeout, backoff-initial, backoff-max, reregister-jitter, failure-threshold, success-threshold, drain-timeout, allow-loopback"#);
    assert_snapshot!(of_server("allow-loopback=yes"), @"--server-config: allow-loopback=yes: must be true or false");
    assert_snapshot!(of_server("drain-timeout=3"), @"--server-config: drain-timeout=3: must have a unit: 3s for seconds, or 3ms, 3m, 3h");
    assert_snapshot!(of_server("failure-threshold=0"), @"--server-config: failure-threshold=0: must be a whole number above zero, such as 2");
    assert_snapshot!(of_server("backoff-initial=3m"), @"--server-config: registration backoff: 180s to 2s is not a range above zero");
}
