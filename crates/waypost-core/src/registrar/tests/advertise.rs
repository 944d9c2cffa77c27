//! Address that a server registers, in every case, and the errors' texts.

use std::net::{IpAddr, SocketAddr};

use super::scripted::{Mood, Scripted};
use crate::memory::MemoryRegistry;
use crate::record::{Node, Service, keys};
use crate::registrar::{Advertise, Registration};
use crate::registry::AnyRegistry;

const DEFAULT_ROUTE: &str = "198.51.100.7";

/// Registry that other hosts read.
fn remote() -> AnyRegistry {
    AnyRegistry::new(Scripted::new(Mood::Well))
}

/// Registry of this host.
fn near() -> AnyRegistry {
    AnyRegistry::new(MemoryRegistry::new())
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn bound(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn chosen(
    advertise: &Advertise,
    registry: &AnyRegistry,
    routes: &[&str],
) -> Result<String, String> {
    let choice = advertise.choose(registry, &ips(routes));
    choice
        .map(|choice| choice.address.to_string())
        .map_err(|error| error.to_string())
}

fn on(listener: &str) -> Advertise {
    Advertise::default().listener(bound(listener))
}

fn ok(address: &str) -> Result<String, String> {
    Ok(address.to_owned())
}

#[test]
fn a_listener_on_every_interface_is_advertised_on_the_route_to_the_registry() {
    let rows: [(&str, &[&str], &str); 9] = [
        ("0.0.0.0:80", &["10.0.0.7"], "10.0.0.7:80"),
        ("[::]:80", &["10.0.0.7"], "10.0.0.7:80"),
        ("[::ffff:0.0.0.0]:80", &["10.0.0.7"], "10.0.0.7:80"),
        ("[::]:80", &["2001:db8::7"], "[2001:db8::7]:80"),
        ("[::]:80", &["2001:db8::7", "10.0.0.7"], "[2001:db8::7]:80"),
        ("0.0.0.0:80", &["2001:db8::7", "10.0.0.7"], "10.0.0.7:80"),
        ("[::]:80", &["127.0.0.1", "10.0.0.7"], "10.0.0.7:80"),
        ("[::]:80", &["fe80::1", "10.0.0.7"], "10.0.0.7:80"),
        ("0.0.0.0:80", &["169.254.0.7", "10.0.0.7"], "10.0.0.7:80"),
    ];
    for (listener, routes, expected) in rows {
        let advertise = on(listener)
            .fallback(ips(&[DEFAULT_ROUTE]))
            .allow_loopback(true);
        for registry in [remote(), near()] {
            assert_eq!(
                chosen(&advertise, &registry, routes),
                ok(expected),
                "{listener} {routes:?}"
            );
        }
    }
    let specific = on("198.51.100.9:80");
    assert_eq!(
        chosen(&specific, &remote(), &["10.0.0.7"]),
        ok("198.51.100.9:80")
    );
}

#[test]
fn without_a_route_it_is_loopback_near_the_registry_and_the_default_route_elsewhere() {
    for listener in ["0.0.0.0:80", "[::]:80"] {
        let advertise = on(listener).fallback(ips(&[DEFAULT_ROUTE]));
        for routes in [&[][..], &["127.0.0.1"], &["::1"]] {
            assert_eq!(chosen(&advertise, &near(), routes), ok("127.0.0.1:80"));
            assert_eq!(chosen(&advertise, &remote(), routes), ok("198.51.100.7:80"));
        }
        let allowed = on(listener).allow_loopback(true);
        assert_eq!(chosen(&allowed, &remote(), &[]), ok("127.0.0.1:80"));
    }
    let other_family = on("0.0.0.0:80").fallback(ips(&["2001:db8::1", DEFAULT_ROUTE]));
    assert_eq!(
        chosen(&other_family, &remote(), &["2001:db8::7"]),
        ok("198.51.100.7:80")
    );
}

#[test]
fn a_given_address_gets_the_port_of_the_listener_if_it_has_none() {
    for (given, expected) in [
        ("greeter.example", "greeter.example:80"),
        ("greeter.example:0", "greeter.example:80"),
        ("greeter.example:443", "greeter.example:443"),
        ("198.51.100.9", "198.51.100.9:80"),
        ("2001:db8::7", "[2001:db8::7]:80"),
        ("[2001:db8::7]", "[2001:db8::7]:80"),
        ("[2001:db8::7]:9", "[2001:db8::7]:9"),
    ] {
        let advertise = on("0.0.0.0:80").address(given);
        assert_eq!(chosen(&advertise, &remote(), &[]), ok(expected), "{given}");
    }
    let alone = Advertise::default().address("greeter.example:443");
    assert_eq!(chosen(&alone, &remote(), &[]), ok("greeter.example:443"));
}

#[test]
fn what_clients_could_not_reach_is_an_error_that_names_setter_flag_and_variable() {
    let error =
        |advertise: Advertise, routes: &[&str]| chosen(&advertise, &remote(), routes).unwrap_err();
    insta::assert_snapshot!(error(on("127.0.0.1:80"), &[]), @r#"cannot advertise 127.0.0.1:80: it is loopback, and clients of this registry may be on other hosts; listen where they reach it, such as 0.0.0.0:0, with .bind(..), --server-address or WAYPOST_SERVER_ADDRESS, give an address with .advertise("host:port"), --server-advertise or WAYPOST_SERVER_ADVERTISE (waypost register: --address), or allow loopback with .allow_loopback(true) (--server-config allow-loopback=true, waypost register: --allow-loopback)"#);
    insta::assert_snapshot!(error(on("0.0.0.0:80").address("0.0.0.0"), &[]), @r#"cannot advertise 0.0.0.0:80: it is every interface, which no client can dial; give an address that clients reach with .advertise("host:port"), --server-advertise or WAYPOST_SERVER_ADVERTISE (waypost register: --address), or only the listener's, with .bind(..) or start_on(listener.local_addr()?): then the route to the registry decides"#);
    insta::assert_snapshot!(error(on("0.0.0.0:80").address("a:b"), &[]), @r#"cannot advertise a:b: the address has a bad port: give a number from 1 to 65535; it is set with .advertise("host:port"), --server-advertise or WAYPOST_SERVER_ADVERTISE (waypost register: --address)"#);
    insta::assert_snapshot!(error(on("0.0.0.0:80"), &[]), @r#"cannot advertise 0.0.0.0:80: this host has no known route to the scripted registry; give an address that clients reach with .advertise("host:port"), --server-advertise or WAYPOST_SERVER_ADVERTISE (waypost register: --address)"#);
    insta::assert_snapshot!(error(on("0.0.0.0:80"), &["2001:db8::7"]), @r#"cannot advertise 0.0.0.0:80: it accepts IPv4 only, and this host reaches the scripted registry from 2001:db8::7; listen on [::]:80 with .bind(..), --server-address or WAYPOST_SERVER_ADDRESS, or give an address that clients reach with .advertise("host:port"), --server-advertise or WAYPOST_SERVER_ADVERTISE (waypost register: --address)"#);
    insta::assert_snapshot!(error(on("0.0.0.0:80"), &["127.0.0.1"]), @r#"cannot advertise 0.0.0.0:80: this host reaches the scripted registry from 127.0.0.1, which clients on other hosts cannot dial; give an address that they reach with .advertise("host:port"), --server-advertise or WAYPOST_SERVER_ADVERTISE (waypost register: --address)"#);
    insta::assert_snapshot!(error(Advertise::default(), &[]), @r#"cannot advertise the server: it has no address; give one that clients reach with .advertise("host:port"), --server-advertise or WAYPOST_SERVER_ADVERTISE (waypost register: --address), or the listener's with start_on(listener.local_addr()?)"#);
    for loopback in ["localhost", "127.8.8.8", "[::1]", "[::ffff:127.0.0.1]"] {
        let given = on("0.0.0.0:80").address(loopback);
        assert!(
            error(given.clone(), &[]).contains("is loopback"),
            "{loopback}"
        );
        assert!(chosen(&given, &near(), &[]).is_ok());
        assert!(chosen(&given.allow_loopback(true), &remote(), &[]).is_ok());
    }
    for wrong in [":80", "", "http://a:80", "a b"] {
        let text = error(on("0.0.0.0:80").address(wrong), &[]);
        assert!(text.contains(": the address "), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_panics_or_hangs_over_its_routes_has_none() {
    for mood in [Mood::Panics, Mood::Hangs] {
        let registry = AnyRegistry::new(Scripted::new(mood));
        let resolved = on("0.0.0.0:80")
            .fallback(ips(&[DEFAULT_ROUTE]))
            .resolve(&registry)
            .await;
        assert_eq!(resolved.unwrap().to_string(), "198.51.100.7:80");
    }
}

#[tokio::test(start_paused = true)]
async fn a_registration_takes_its_address_from_the_listener() {
    let memory = MemoryRegistry::new();
    let registration = Registration::builder(memory.open(), Service::new("web"))
        .metadata(keys::PROTOCOL, "http")
        .id("one")
        .name("shop")
        .version("2")
        .start_on(bound("0.0.0.0:8080"))
        .await
        .unwrap();
    registration.registered().await.unwrap();
    let service = registration.service();
    let node = &service.nodes[0];
    assert_eq!(
        (service.name.as_str(), service.version.as_str()),
        ("shop", "2")
    );
    assert_eq!(
        (node.id.as_str(), node.address.as_str()),
        ("shop-one", "127.0.0.1:8080")
    );
    assert_eq!(node.metadata.get(keys::PROTOCOL), Some("http"));
    registration.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_registration_on_a_listener_that_clients_cannot_reach_is_not_started() {
    let builder = || Registration::builder(remote(), Service::new("web"));
    let error = builder().start_on(bound("127.0.0.1:80")).await.unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("cannot advertise 127.0.0.1:80: it is loopback")
    );
    let error = builder().start_on(bound("0.0.0.0:80")).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("no known route to the scripted registry"),
        "{error}"
    );
    let error = builder()
        .advertise("0.0.0.0")
        .start_on(bound("0.0.0.0:80"))
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("is every interface, which no client can dial")
    );
    let given = builder()
        .advertise("web.example")
        .start_on(bound("127.0.0.1:80"))
        .await
        .unwrap();
    assert_eq!(given.service().nodes[0].address, "web.example:80");
}

#[tokio::test(start_paused = true)]
async fn a_registration_without_a_listener_has_the_given_address_else_that_of_its_node() {
    let service = || {
        let mut service = Service::new("web");
        service
            .nodes
            .push(Node::with_id("web", "one", "10.0.0.7:80"));
        service
    };
    let of_node = Registration::builder(remote(), service()).start().unwrap();
    assert_eq!(of_node.service().nodes[0].address, "10.0.0.7:80");
    let given = Registration::builder(remote(), service()).advertise("web.example:80");
    let given = given.name("shop").start().unwrap();
    let record = given.service();
    assert_eq!(record.nodes[0].address, "web.example:80");
    assert_eq!(
        record.nodes[0].id, "shop-one",
        "the id begins with the name"
    );
    let no_port = Registration::builder(remote(), service())
        .advertise("web.example")
        .start();
    insta::assert_snapshot!(no_port.unwrap_err(), @r#"cannot advertise web.example: the address has no port: give host:port, such as 10.0.0.7:8080 or [::1]:8080; it is set with .advertise("host:port"), --server-advertise or WAYPOST_SERVER_ADVERTISE (waypost register: --address)"#);
}
