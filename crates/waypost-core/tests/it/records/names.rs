//! Tests of names and addresses: the accepted ones, and the errors of the others.

use waypost_core::record::{Address, NodeId, ServiceName};

#[test]
fn good_names() {
    for name in [
        "a",
        "Z",
        "0",
        "greeter",
        "shop.orders",
        "go.micro.srv.greeter",
        "a_b-c.d",
        "a-",
        "a.",
        &"a".repeat(128),
    ] {
        assert_eq!(name.parse::<ServiceName>().unwrap().as_str(), name);
    }
    assert_eq!(
        "a".repeat(255).parse::<NodeId>().unwrap().to_string(),
        "a".repeat(255)
    );
}

#[test]
fn bad_names() {
    let error = |name: &str| name.parse::<ServiceName>().unwrap_err().to_string();
    insta::assert_snapshot!(error(""), @r#"service name "" is empty: give it letters, digits, '.', '_' and '-'"#);
    insta::assert_snapshot!(error("team/orders"), @r#"service name "team/orders" has a character that is not allowed: use only a-z, A-Z, 0-9, '.', '_' and '-'"#);
    insta::assert_snapshot!(error("žluť\u{1b}[2J"), @r#"service name "žluť\u{1b}[2J" has a character that is not allowed: use only a-z, A-Z, 0-9, '.', '_' and '-'"#);
    insta::assert_snapshot!(error(".hidden"), @r#"service name ".hidden" does not begin with a letter or digit: put one in front"#);
    insta::assert_snapshot!(error("a..b"), @r#"service name "a..b" has two dots in a row: use one"#);
    insta::assert_snapshot!(error(&"a".repeat(129)), @r#"service name "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…" is too long: use at most 128 characters"#);
    insta::assert_snapshot!("a".repeat(256).parse::<NodeId>().unwrap_err().to_string(), @r#"node id "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…" is too long: use at most 255 characters"#);
    for name in [
        "..", "-a", "_a", "a b", "a\n", "a\0", "é", "a/", "../a", "a%2f",
    ] {
        assert!(name.parse::<ServiceName>().is_err(), "{name:?}");
        assert!(name.parse::<NodeId>().is_err(), "{name:?}");
    }
}

#[test]
fn good_addresses() {
    let cases = [
        ("127.0.0.1:80", "127.0.0.1", 80),
        (
            "greeter.example.internal:9090",
            "greeter.example.internal",
            9090,
        ),
        ("my_host-1:65535", "my_host-1", 65535),
        ("[::1]:1", "::1", 1),
        ("[2001:db8::7]:9090", "2001:db8::7", 9090),
        ("[fe80::1%eth0]:80", "fe80::1%eth0", 80),
        ("[::ffff:10.0.0.1]:80", "::ffff:10.0.0.1", 80),
    ];
    for (text, host, port) in cases {
        let address: Address = text.parse().unwrap();
        assert_eq!((address.host.as_str(), address.port), (host, port));
        assert_eq!(address.to_string(), text);
    }
}

#[test]
fn bad_addresses() {
    let error = |address: &str| address.parse::<Address>().unwrap_err().to_string();
    insta::assert_snapshot!(error("198.51.100.7"), @r#"address "198.51.100.7" has no port: give host:port, such as 10.0.0.7:8080 or [::1]:8080"#);
    insta::assert_snapshot!(error("[::1]"), @r#"address "[::1]" has no port: give host:port, such as 10.0.0.7:8080 or [::1]:8080"#);
    insta::assert_snapshot!(error("::1:80"), @r#"address "::1:80" has more than one colon: give host:port, and an IPv6 address in brackets, such as [::1]:8080"#);
    insta::assert_snapshot!(error("[[2001:db8::7]]:9090"), @r#"address "[[2001:db8::7]]:9090" has no IPv6 address in its brackets: give [address]:port, such as [::1]:8080 or [fe80::1%eth0]:8080"#);
    insta::assert_snapshot!(error(":80"), @r#"address ":80" has no host: give host:port, such as 10.0.0.7:8080"#);
    insta::assert_snapshot!(error("http://greeter:80"), @r#"address "http://greeter:80" is a URL: give host:port without the scheme"#);
    insta::assert_snapshot!(error("me@greeter:80"), @r#"address "me@greeter:80" has a host that is neither a name nor an IP address: give host:port without user, path or spaces"#);
    insta::assert_snapshot!(error(&format!("{}:80", "a".repeat(254))), @r#"address "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…" has too long a host: use at most 253 characters"#);
    insta::assert_snapshot!(error("greeter:0"), @r#"address "greeter:0" has port 0: give the port that the server really listens on"#);
    insta::assert_snapshot!(error("greeter:http"), @r#"address "greeter:http" has a bad port: give a number from 1 to 65535"#);
    for address in [
        "",
        ":",
        "a:",
        "a:+80",
        "a:65536",
        "a: 80",
        "a b:80",
        "a/b:80",
        "a:80/",
        "[]:80",
        "[a]:80",
        "[127.0.0.1]:80",
    ] {
        assert!(address.parse::<Address>().is_err(), "{address:?}");
    }
    for address in [
        "[::1]80",
        "[::1]:",
        "[::1",
        "::1]:80",
        "[::1%]:80",
        "[::1%a b]:80",
        "[::1]x:80",
        "a\0:80",
        "é:80",
        "a?b:80",
    ] {
        assert!(address.parse::<Address>().is_err(), "{address:?}");
    }
}
