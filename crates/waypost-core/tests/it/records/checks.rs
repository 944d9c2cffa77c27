//! Tests of the validation of records, to the exact byte, and of its errors.

use waypost_core::record::{Endpoint, Metadata, NilableVec, Node, Service};
use waypost_core::registry;

fn service() -> Service {
    let mut service = Service::new("greeter");
    service
        .nodes
        .push(Node::with_id("greeter", "1", "127.0.0.1:80"));
    service
}

fn entries(count: usize) -> Metadata {
    (0..count).map(|at| (format!("key{at}"), "value")).collect()
}

fn endpoints(count: usize) -> NilableVec<Endpoint> {
    (0..count).map(|_| Endpoint::default()).collect()
}

fn error(change: impl FnOnce(&mut Service)) -> String {
    let mut service = service();
    change(&mut service);
    service.check().unwrap_err().to_string()
}

/// Pads the version until the record of its first node has `length` bytes.
fn padded(length: usize) -> Service {
    let mut service = service();
    service.version = "v".repeat(length - service.to_json().len() + service.version.len());
    assert_eq!(service.to_json().len(), length);
    service
}

#[test]
fn a_record_may_be_as_large_as_the_limits() {
    let mut large = service();
    large.metadata = entries(64);
    large.endpoints = endpoints(1024);
    large.nodes[0].metadata = entries(64);
    large.endpoints[0].metadata = entries(64);
    large.check().unwrap();
    padded(64 * 1024).check().unwrap();
}

#[test]
fn the_length_is_that_of_one_node() {
    let mut service = padded(64 * 1024);
    service
        .nodes
        .push(Node::with_id("greeter", "2", "127.0.0.1:81"));
    service.check().unwrap();
    service
        .nodes
        .push(Node::with_id("greeter", "33", "127.0.0.1:82"));
    service.check().unwrap_err();
}

#[test]
fn what_is_refused() {
    insta::assert_snapshot!(error(|service| service.name = "team/orders".to_owned()), @r#"service name "team/orders" has a character that is not allowed: use only a-z, A-Z, 0-9, '.', '_' and '-'"#);
    insta::assert_snapshot!(error(|service| service.nodes = NilableVec::null()), @r#"service "greeter" has no node: give it one with the address it serves at"#);
    insta::assert_snapshot!(error(|service| service.nodes[0].id = "a/b".to_owned()), @r#"node id "a/b" has a character that is not allowed: use only a-z, A-Z, 0-9, '.', '_' and '-'"#);
    insta::assert_snapshot!(error(|service| service.nodes[0].address = "127.0.0.1:0".to_owned()), @r#"address "127.0.0.1:0" has port 0: give the port that the server really listens on"#);
    insta::assert_snapshot!(error(|service| service.metadata = entries(65)), @r#"service "greeter" has 65 metadata entries: use at most 64"#);
    insta::assert_snapshot!(error(|service| service.nodes[0].metadata = entries(65)), @r#"node "greeter-1" has 65 metadata entries: use at most 64"#);
    insta::assert_snapshot!(error(|service| service.endpoints = NilableVec::from(vec![Endpoint { name: "Greeter.Hello".to_owned(), metadata: entries(65), ..Endpoint::default() }])), @r#"endpoint "Greeter.Hello" has 65 metadata entries: use at most 64"#);
    insta::assert_snapshot!(error(|service| service.endpoints = endpoints(1025)), @r#"service "greeter" has 1025 endpoints: register at most 1024, or split it into several services"#);
    insta::assert_snapshot!(error(|service| *service = padded(64 * 1024 + 1)), @r#"service "greeter" has a record of 65537 bytes: use at most 65536, with less metadata or fewer endpoints"#);
}

#[test]
fn a_registry_reports_the_same() {
    let refused = Service {
        name: "a b".to_owned(),
        ..service()
    }
    .check()
    .unwrap_err();
    insta::assert_snapshot!(registry::Error::from(refused), @r#"service name "a b": has a character that is not allowed: use only a-z, A-Z, 0-9, '.', '_' and '-'"#);
}
