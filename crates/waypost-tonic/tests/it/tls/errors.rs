//! Text of each error of a handshake, on real handshakes, and what the server logs about it.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use waypost_http::{Pem, ServerTlsConfig, TlsConfig, TlsIdentity};
use waypost_testkit::etcd::Authority;
use waypost_tonic::{Client, Server, ServerHandle};

use super::log::Log;
use super::support::{channel, client_tls, hello, identity, list, plain_channel, server_tls};
use crate::support::{Town, serving, text};

/// Starts a server with this configuration.
async fn server(tls: ServerTlsConfig) -> ServerHandle {
    serving(Town::new().builder("a").0.tls(tls)).await
}

/// Returns the error of a call over TLS to the only server.
async fn refused(server: &ServerHandle, mut tls: TlsConfig) -> String {
    tls.assume_tls = true;
    let error = hello(&channel(list(server.address()), tls)).await;
    text(&error.unwrap_err())
}

/// Returns the lines of the server's log at WARN, without the client's port.
fn warnings(log: &Log) -> Vec<String> {
    let lines = log
        .take()
        .into_iter()
        .filter(|line| line.starts_with("WARN"));
    lines
        .map(|line| {
            let (before, port) = line.split_once("peer=Some(127.0.0.1:").unwrap();
            let (_, after) = port.split_once(')').unwrap();
            format!("{before}peer=PEER{after}")
        })
        .collect()
}

#[tokio::test]
async fn a_server_of_another_ca() {
    let log = Log::capture();
    let (ours, theirs) = (Authority::new().unwrap(), Authority::new().unwrap());
    let server = server(server_tls(&theirs)).await;
    insta::assert_snapshot!(refused(&server, client_tls(&ours)).await, @r#"Unavailable: greeter: no node was ready within N ms (1 known, 0 ready, 1 not_connected; last connection failure: connect 127.0.0.1:PORT: the server's certificate is signed by none of the trusted CAs; to trust the one that signed it, set TlsConfig::ca (--client-tls-ca, WAYPOST_CLIENT_TLS_CA))"#);
    insta::assert_snapshot!(warnings(&log).join("\n"), @r#"WARN TLS handshake failed peer=PEER failures=1 error=the client refuses this server's certificate or settings (DecryptError)"#);
}

#[tokio::test]
async fn a_certificate_that_has_expired() {
    let authority = Authority::new().unwrap();
    let expired = identity(&authority.expired(&["greeter"]).unwrap());
    let server = server(ServerTlsConfig::new(expired)).await;
    insta::assert_snapshot!(refused(&server, client_tls(&authority)).await, @r#"Unavailable: greeter: no node was ready within N ms (1 known, 0 ready, 1 not_connected; last connection failure: connect 127.0.0.1:PORT: the server's certificate has expired; replace it on the server)"#);
}

#[tokio::test]
async fn a_certificate_for_another_name() {
    let authority = Authority::new().unwrap();
    let other = identity(&authority.server(&["users", "127.0.0.1"]).unwrap());
    let server = server(ServerTlsConfig::new(other)).await;
    insta::assert_snapshot!(refused(&server, client_tls(&authority)).await, @r#"Unavailable: greeter: no node was ready within N ms (1 known, 0 ready, 1 not_connected; last connection failure: connect 127.0.0.1:PORT: the server's certificate is valid for "users", 127.0.0.1, not for "greeter"; issue one for this name, or set TlsConfig::server_name (--client-tls-server-name, WAYPOST_CLIENT_TLS_SERVER_NAME))"#);
}

#[tokio::test]
async fn a_plain_client_at_a_server_with_tls() {
    let log = Log::capture();
    let authority = Authority::new().unwrap();
    let server = server(server_tls(&authority)).await;
    let error = hello(&plain_channel(list(server.address()))).await;
    insta::assert_snapshot!(text(&error.unwrap_err()), @r#"Unavailable: greeter: no node was ready within N ms (1 known, 0 ready, 1 not_connected; last connection failure: connect 127.0.0.1:PORT: the server speaks TLS: its first bytes are a TLS record, not an HTTP/2 frame; give the client TLS: ClientBuilder::tls (--client-tls-ca, WAYPOST_CLIENT_TLS_CA))"#);
    insta::assert_snapshot!(warnings(&log).join("\n"), @r#"WARN client does not speak TLS peer=PEER failures=1"#);
}

#[tokio::test]
async fn a_client_with_tls_at_a_plain_server() {
    let authority = Authority::new().unwrap();
    let server = serving(Town::new().builder("a").0).await;
    insta::assert_snapshot!(refused(&server, client_tls(&authority)).await, @r#"Unavailable: greeter: no node was ready within N ms (1 known, 0 ready, 1 not_connected; last connection failure: connect 127.0.0.1:PORT: the server does not speak TLS; call it without TLS, or serve TLS there: ServerBuilder::tls (--server-tls-cert and --server-tls-key))"#);
}

/// Starts a server that reads some bytes, answers every connection with `answer`, and closes it.
async fn answering(answer: &'static str) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut io, _)) = listener.accept().await {
            let _ = io.read(&mut [0; 4096]).await;
            let _ = io.write_all(answer.as_bytes()).await;
        }
    });
    address
}

#[tokio::test]
async fn a_client_with_tls_at_a_server_that_speaks_http_1_or_only_closes() {
    let authority = Authority::new().unwrap();
    let mut tls = client_tls(&authority);
    tls.assume_tls = true;
    let http_1 = answering("HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let error = hello(&channel(list(http_1), tls.clone()))
        .await
        .unwrap_err();
    insta::assert_snapshot!(text(&error), @r#"Unavailable: greeter: no node was ready within N ms (1 known, 0 ready, 1 not_connected; last connection failure: connect 127.0.0.1:PORT: the server does not speak TLS; call it without TLS, or serve TLS there: ServerBuilder::tls (--server-tls-cert and --server-tls-key))"#);
    let error = hello(&channel(list(answering("").await), tls)).await;
    insta::assert_snapshot!(text(&error.unwrap_err()), @r#"Unavailable: greeter: no node was ready within N ms (1 known, 0 ready, 1 not_connected; last connection failure: connect 127.0.0.1:PORT: the server closed the connection during the TLS handshake; if it does not speak TLS: call it without TLS, or serve TLS there: ServerBuilder::tls (--server-tls-cert and --server-tls-key))"#);
}

#[tokio::test]
async fn a_plain_client_at_a_server_that_only_closes() {
    let error = hello(&plain_channel(list(answering("").await))).await;
    insta::assert_snapshot!(text(&error.unwrap_err()), @r#"Unavailable: greeter: no node was ready within N ms (1 known, 0 ready, 1 not_connected; last connection failure: connect 127.0.0.1:PORT: the peer closed the connection before its SETTINGS; if it speaks TLS, give the client TLS: ClientBuilder::tls (--client-tls-ca, WAYPOST_CLIENT_TLS_CA))"#);
}

#[tokio::test]
async fn a_client_without_a_certificate_and_one_of_another_ca() {
    let log = Log::capture();
    let (ours, theirs) = (Authority::new().unwrap(), Authority::new().unwrap());
    let mut tls = server_tls(&ours);
    tls.client_ca = Some(Pem::file(ours.certificate()));
    let server = server(tls).await;
    insta::assert_snapshot!(refused(&server, client_tls(&ours)).await, @r#"Unavailable: greeter: no node was ready within N ms (1 known, 0 ready, 1 not_connected; last connection failure: connect 127.0.0.1:PORT: the server requires a client certificate; set TlsConfig::identity (--client-tls-cert and --client-tls-key, WAYPOST_CLIENT_TLS_CERT and WAYPOST_CLIENT_TLS_KEY))"#);
    insta::assert_snapshot!(warnings(&log).join("\n"), @r#"WARN TLS handshake failed peer=PEER failures=1 error=the client presents no certificate"#);

    let mut stranger = client_tls(&ours);
    stranger.identity = Some(identity(&theirs.client("app").unwrap()));
    insta::assert_snapshot!(refused(&server, stranger).await, @r#"Unavailable: greeter: no node was ready within N ms (1 known, 0 ready, 1 not_connected; last connection failure: connect 127.0.0.1:PORT: the server refuses the client certificate (DecryptError); set another with TlsConfig::identity (--client-tls-cert and --client-tls-key, WAYPOST_CLIENT_TLS_CERT and WAYPOST_CLIENT_TLS_KEY))"#);
}

/// Returns the error of a client that cannot be built.
fn unusable(tls: TlsConfig) -> String {
    let town = Town::new();
    let error = Client::builder(town.registry()).tls(tls).unwrap_err();
    error.to_string()
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new().unwrap();
    let shown = |text: &str| text.replace(&folder.path().display().to_string(), "DIR");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        Pem::file(path)
    };
    let with_ca = |ca| {
        let mut tls = client_tls(&authority);
        tls.ca = Some(ca);
        shown(&unusable(tls))
    };
    insta::assert_snapshot!(with_ca(Pem::file(folder.path().join("none.pem"))), @r#"the CA certificate "DIR/none.pem" cannot be read: No such file or directory (os error 2)"#);
    insta::assert_snapshot!(with_ca(Pem::file(folder.path())), @r#"the CA certificate "DIR" cannot be read: it is not a regular file"#);
    insta::assert_snapshot!(with_ca(file("text.pem", "hello")), @r#"the CA certificate "DIR/text.pem" holds no CERTIFICATE section"#);
    let half = "-----BEGIN CERTIFICATE-----\nMIIB";
    insta::assert_snapshot!(with_ca(file("half.pem", half)), @r#"the CA certificate "DIR/half.pem" is not PEM: a section has no END line"#);
    insta::assert_snapshot!(with_ca(Pem::bytes(half)), @"the CA certificate, given as bytes, is not PEM: a section has no END line");

    let (a, b) = (
        authority.client("a").unwrap(),
        authority.client("b").unwrap(),
    );
    let copy = |name, from: &std::path::Path| file(name, &std::fs::read_to_string(from).unwrap());
    let with_identity = |certificate, key| {
        let mut tls = client_tls(&authority);
        tls.identity = Some(TlsIdentity::new(certificate, key));
        shown(&unusable(tls))
    };
    let (cert, key) = (copy("a.pem", &a.certificate), copy("b.key", &b.key));
    insta::assert_snapshot!(with_identity(cert.clone(), key), @r#"the private key "DIR/b.key" does not fit the certificate "DIR/a.pem""#);
    insta::assert_snapshot!(with_identity(cert.clone(), cert), @r#"the private key "DIR/a.pem" holds no PRIVATE KEY section"#);

    let mut tls = client_tls(&authority);
    tls.server_name = Some("{name}.internal".to_owned());
    insta::assert_snapshot!(unusable(tls), @r#"the server name "{name}.internal" is neither a DNS name nor an IP address; {service} in it is replaced by the service's name"#);
}

#[tokio::test]
async fn a_server_whose_key_cannot_be_read_does_not_start() {
    let authority = Authority::new().unwrap();
    let mut identity = identity(&authority.server(&["greeter"]).unwrap());
    identity.key = Pem::file("/nowhere/key.pem");
    let builder = Server::builder("greeter", Town::new().registry());
    let error = builder
        .tls(ServerTlsConfig::new(identity))
        .start()
        .await
        .unwrap_err();
    let source = std::error::Error::source(&error).unwrap();
    insta::assert_snapshot!(format!("{error}: {source}"), @r#"cannot serve TLS: the private key "/nowhere/key.pem" cannot be read: No such file or directory (os error 2)"#);
}

#[test]
fn no_debug_shows_a_key() {
    let authority = Authority::new().unwrap();
    let issued = authority.server(&["greeter"]).unwrap();
    let key = std::fs::read_to_string(&issued.key).unwrap();
    let bytes = TlsIdentity::new(
        Pem::bytes(std::fs::read(&issued.certificate).unwrap()),
        Pem::bytes(key.clone()),
    );
    let mut tls = client_tls(&authority);
    tls.identity = Some(bytes.clone());
    let acceptor = waypost_http::TlsAcceptor::new(ServerTlsConfig::new(bytes)).unwrap();
    let connect = waypost_http::TlsConnect::new(tls.clone()).unwrap();
    let builder = Client::builder(Town::new().registry()).tls(tls).unwrap();
    for shown in [
        format!("{acceptor:?}"),
        format!("{connect:?}"),
        format!("{builder:?}"),
    ] {
        assert!(shown.contains("Pem(bytes)"), "{shown}");
        assert!(
            key.lines()
                .skip(1)
                .take(2)
                .all(|line| !shown.contains(line)),
            "{shown}"
        );
    }
}
