//! Errors of flags and variables: each names its source and what to write, and none shows a
//! password.

use clap::Parser;
use insta::assert_snapshot;

use super::super::environment::Environment;
use super::super::{ServiceArgs, variables};
use super::{Cli, parsed};
use crate::registry::Result;
use crate::{AnyRegistry, Client, MemoryRegistry, Server};

fn refused_flag(flag: &str, value: &str) -> String {
    let error = Cli::try_parse_from(["greeterd", flag, value])
        .map(drop)
        .unwrap_err()
        .to_string();
    error.lines().next().unwrap_or_default().to_owned()
}

fn applied(args: &ServiceArgs, environment: &Environment) -> Result<()> {
    args.registry.given(environment)?;
    drop(args.server.apply_in(
        Server::builder("greeter", MemoryRegistry::new()),
        environment,
    )?);
    drop(args.client.apply_in(
        Client::builder(AnyRegistry::new(MemoryRegistry::new())),
        environment,
    )?);
    Ok(())
}

fn refused(flags: &[&str], variables: &[(&'static str, &str)]) -> String {
    applied(&parsed(flags), &Environment::of(variables))
        .unwrap_err()
        .to_string()
}

fn refused_variable(name: &'static str, value: &str) -> String {
    refused(&[], &[(name, value)])
}

#[test]
fn a_wrong_flag_is_named_with_what_to_write() {
    assert_snapshot!(refused_flag("--server-name", "a/b"), @"error: invalid value 'a/b' for '--server-name <NAME>': has a character that is not allowed: use only a-z, A-Z, 0-9, '.', '_' and '-'");
    assert_snapshot!(refused_flag("--server-version", ""), @"error: invalid value '' for '--server-version <VERSION>': is empty: give a version, such as 1.2.0");
    assert_snapshot!(refused_flag("--server-id", ".a"), @"error: invalid value '.a' for '--server-id <ID>': does not begin with a letter or digit: put one in front");
    assert_snapshot!(refused_flag("--server-address", "localhost"), @"error: invalid value 'localhost' for '--server-address <HOST:PORT>': has no port: give host:port, such as 10.0.0.7:8080 or [::1]:8080");
    assert_snapshot!(refused_flag("--server-advertise", "http://a:1"), @"error: invalid value 'http://a:1' for '--server-advertise <HOST[:PORT]>': is a URL: give host:port without the scheme");
    assert_snapshot!(refused_flag("--server-metadata", "a=1,b"), @"error: invalid value 'b' for '--server-metadata <KEY=VALUE>': must be key=value, without a comma in the value");
    assert_snapshot!(refused_flag("--register-ttl", "30"), @"error: invalid value '30' for '--register-ttl <TIME>': must have a unit: 30s for seconds, or 30ms, 30m, 30h");
    assert_snapshot!(refused_flag("--register-interval", "0s"), @"error: invalid value '0s' for '--register-interval <TIME>': must be more than zero, such as 500ms");
    assert_snapshot!(refused_flag("--client-strategy", "fastest"), @"error: invalid value 'fastest' for '--client-strategy <NAME>': is not known: give random, round-robin or least-request");
    assert_snapshot!(refused_flag("--client-retries", "-1"), @"error: invalid value '-1' for '--client-retries <N>': must be a whole number of at least 0, such as 2");
    assert_snapshot!(refused_flag("--client-request-timeout", "soon"), @"error: invalid value 'soon' for '--client-request-timeout <TIME>': must be a number and its unit, such as 500ms, 30s, 2m or 1h30m");
}

#[test]
fn a_wrong_variable_is_named_with_what_to_write() {
    assert_snapshot!(refused_variable("WAYPOST_SERVER_NAME", "a/b"), @r#"WAYPOST_SERVER_NAME "a/b": has a character that is not allowed: use only a-z, A-Z, 0-9, '.', '_' and '-'"#);
    assert_snapshot!(refused_variable("MICRO_SERVER_ID", "-"), @r#"MICRO_SERVER_ID "-": does not begin with a letter or digit: put one in front"#);
    assert_snapshot!(refused_variable("MICRO_SERVER_ADDRESS", "8080"), @r#"MICRO_SERVER_ADDRESS "8080": has no port: give host:port, such as 10.0.0.7:8080 or [::1]:8080"#);
    assert_snapshot!(refused_variable("MICRO_SERVER_ADVERTISE", ":80"), @r#"MICRO_SERVER_ADVERTISE ":80": has no host: give host:port, such as 10.0.0.7:8080"#);
    assert_snapshot!(refused_variable("WAYPOST_SERVER_METADATA", "a=1,b"), @r#"WAYPOST_SERVER_METADATA "a=1,b": has "b", which must be key=value, without a comma in the value"#);
    assert_snapshot!(refused_variable("MICRO_SERVER_METADATA", "=1"), @r#"MICRO_SERVER_METADATA "=1": must be key=value, without a comma in the value"#);
    assert_snapshot!(refused_variable("WAYPOST_REGISTER_TTL", "30"), @r#"WAYPOST_REGISTER_TTL "30": must have a unit: 30s for seconds, or 30ms, 30m, 30h"#);
    assert_snapshot!(refused_variable("MICRO_REGISTER_TTL", "30s"), @r#"MICRO_REGISTER_TTL "30s": must be a whole number of seconds, such as 15; a value with a unit goes into the WAYPOST_ variable"#);
    assert_snapshot!(refused_variable("MICRO_REGISTER_INTERVAL", "0"), @r#"MICRO_REGISTER_INTERVAL "0": must be more than zero, such as 15"#);
    assert_snapshot!(refused_variable("WAYPOST_CLIENT_STRATEGY", "fastest"), @r#"WAYPOST_CLIENT_STRATEGY "fastest": is not known: give random, round-robin or least-request"#);
    assert_snapshot!(refused_variable("MICRO_CLIENT_RETRIES", "-1"), @r#"MICRO_CLIENT_RETRIES "-1": must be a whole number of at least 0, such as 2"#);
    assert_snapshot!(refused_variable("MICRO_CLIENT_REQUEST_TIMEOUT", "5"), @r#"MICRO_CLIENT_REQUEST_TIMEOUT "5": must have a unit: 5s for seconds, or 5ms, 5m, 5h"#);
    assert_snapshot!(refused_variable("MICRO_REGISTRY", "consul"), @r#"MICRO_REGISTRY "consul": must be etcd or memory, the two of go-micro's registries that Waypost supports; for another registry set --registry or WAYPOST_REGISTRY to its URL, such as etcd://host:2379"#);
    assert_snapshot!(refused_variable("MICRO_REGISTRY_ADDRESS", "a:2379"), @"MICRO_REGISTRY_ADDRESS: gives addresses without a registry: set MICRO_REGISTRY=etcd too, or set WAYPOST_REGISTRY to a URL");
}

#[test]
fn times_that_do_not_fit_are_reported_with_their_sources() {
    assert_snapshot!(refused(&["--register-ttl", "4s"], &[]), @"--register-ttl: registration ttl: 4s must be more than the interval, 5s, or the record comes and goes");
    assert_snapshot!(refused(&["--register-ttl", "10s"], &[("MICRO_REGISTER_INTERVAL", "10")]), @"--register-ttl and MICRO_REGISTER_INTERVAL: registration ttl: 10s must be more than the interval, 10s, or the record comes and goes");
    assert_snapshot!(refused_variable("MICRO_REGISTER_INTERVAL", "30"), @"MICRO_REGISTER_INTERVAL: registration ttl: 15s must be more than the interval, 30s, or the record comes and goes");
    let code =
        || Server::builder("greeter", MemoryRegistry::new()).ttl(std::time::Duration::from_secs(1));
    assert!(
        parsed(&[])
            .server
            .apply_in(code(), &Environment::of(&[]))
            .is_ok(),
        "the code's own is the server's to refuse"
    );
    assert!(
        parsed(&["--register-ttl", "6s"])
            .server
            .apply_in(code(), &Environment::of(&[]))
            .is_ok()
    );
}

#[test]
fn a_stronger_word_passes_over_a_wrong_one_that_is_weaker() {
    let wrong = [
        ("WAYPOST_REGISTER_TTL", "wrong"),
        ("MICRO_REGISTER_TTL", "wrong"),
        ("MICRO_REGISTRY", "consul"),
    ];
    applied(
        &parsed(&["--register-ttl", "30s", "--registry", "local://"]),
        &Environment::of(&wrong),
    )
    .unwrap();
}

#[test]
fn an_empty_variable_is_none_and_one_that_is_not_text_is_reported() {
    let all = variables();
    applied(
        &parsed(&[]),
        &Environment::of(&all.iter().map(|name| (*name, "")).collect::<Vec<_>>()),
    )
    .unwrap();
    #[cfg(unix)]
    for name in all {
        use std::os::unix::ffi::OsStringExt;
        let raw = std::ffi::OsString::from_vec(vec![0xff]);
        let error = applied(&parsed(&[]), &Environment::raw(vec![(name, raw)]))
            .unwrap_err()
            .to_string();
        assert_eq!(error, format!("{name}: must be text in UTF-8"));
    }
}

async fn unreachable(flags: &[&str], variables: &[(&'static str, &str)]) -> String {
    let args = parsed(flags).registry;
    let error = args
        .connect_in("local://", &Environment::of(variables))
        .await
        .unwrap_err();
    error
        .chain()
        .split("; this build")
        .next()
        .unwrap_or_default()
        .to_owned()
}

#[tokio::test]
async fn a_wrong_url_is_reported_with_its_source() {
    assert_snapshot!(unreachable(&["--registry", "nowhere"], &[]).await, @r#"--registry: registry URL "nowhere": it has no scheme"#);
    assert_snapshot!(unreachable(&[], &[("WAYPOST_REGISTRY", "nowhere")]).await, @r#"WAYPOST_REGISTRY: registry URL "nowhere": it has no scheme"#);
    assert_snapshot!(unreachable(&[], &[("MICRO_REGISTRY", "etcd"), ("MICRO_REGISTRY_ADDRESS", "http://a:1")]).await, @"MICRO_REGISTRY_ADDRESS: must be a list such as host:2379,host:2379: give the user in ETCD_USERNAME and ETCD_PASSWORD, and anything else in WAYPOST_REGISTRY=etcd://…");
    #[cfg(feature = "etcd")]
    assert_snapshot!(unreachable(&[], &[("MICRO_REGISTRY", "etcd"), ("MICRO_REGISTRY_ADDRESS", "a:b")]).await, @r#"MICRO_REGISTRY_ADDRESS: registry URL "etcd://a:b": address "a:b" has a bad port: give a number from 1 to 65535"#);
}

#[tokio::test]
async fn a_password_is_never_shown() {
    const PASSWORD: &str = "hunter2";
    let urls = [
        "etcd://ann:hunter2@a:1/?tls=hm",
        "ann:hunter2@a:1",
        "static://ann:hunter2@a:1",
        "etcd://a?password=hunter2",
        "x://hunter2@",
    ];
    for url in urls {
        let args = parsed(&["--registry", url]);
        let mut errors = vec![
            format!("{args:?} {:#?}", args.registry),
            format!("{}", args.registry.flag().unwrap()),
        ];
        errors.push(unreachable(&["--registry", url], &[]).await);
        errors.push(unreachable(&[], &[("WAYPOST_REGISTRY", url)]).await);
        errors.push(unreachable(&[], &[("MICRO_REGISTRY", url)]).await);
        errors.push(
            unreachable(
                &[],
                &[("MICRO_REGISTRY", "etcd"), ("MICRO_REGISTRY_ADDRESS", url)],
            )
            .await,
        );
        for wrong in [
            &["--registry", url, "--register-ttl", "x"][..],
            &["--registry", url, "more"],
            &["--registry", url, "--registry", url],
        ] {
            errors.push(
                Cli::try_parse_from([&["greeterd"], wrong].concat())
                    .unwrap_err()
                    .to_string(),
            );
        }
        assert!(
            errors
                .iter()
                .all(|text| !text.is_empty() && !text.contains(PASSWORD)),
            "{url}: {errors:#?}"
        );
    }
}
