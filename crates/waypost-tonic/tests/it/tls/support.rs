//! Certificates, clients with TLS, and bare handshakes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use waypost_core::balance::Decision;
use waypost_core::registry::AnyRegistry;
use waypost_core::static_list::StaticRegistry;
use waypost_greeter::greeter::HelloRequest;
use waypost_greeter::greeter::greeter_client::GreeterClient;
use waypost_http::{Pem, ServerTlsConfig, TlsConfig, TlsIdentity};
use waypost_testkit::etcd::{Authority, Identity};
use waypost_tonic::{Channel, Client, ServerHandle};

/// Maximum time for any change to take effect.
pub(super) const DEADLINE: Duration = Duration::from_secs(5);

pub(super) fn identity(identity: &Identity) -> TlsIdentity {
    TlsIdentity::new(Pem::file(&identity.certificate), Pem::file(&identity.key))
}

/// Returns the settings of a server with a certificate for `greeter`.
pub(super) fn server_tls(authority: &Authority) -> ServerTlsConfig {
    ServerTlsConfig::new(identity(&authority.server(&["greeter"]).unwrap()))
}

/// Returns the settings of a client that trusts `authority`.
pub(super) fn client_tls(authority: &Authority) -> TlsConfig {
    let mut config = TlsConfig::default();
    config.ca = Some(Pem::file(authority.certificate()));
    config
}

/// Returns a channel over TLS.
pub(super) fn channel(registry: impl Into<AnyRegistry>, tls: TlsConfig) -> Channel {
    let client = Client::builder(registry).tls(tls).unwrap().build();
    quick(&client)
}

/// Returns a channel without TLS.
pub(super) fn plain_channel(registry: impl Into<AnyRegistry>) -> Channel {
    quick(&Client::new(registry))
}

fn quick(client: &Client) -> Channel {
    let builder = client.channel_builder("greeter");
    builder
        .wait_for_ready(Duration::from_millis(500))
        .build()
        .unwrap()
}

/// Returns a registry that knows the address of the server, and nothing else about it.
pub(super) fn list(server: SocketAddr) -> StaticRegistry {
    StaticRegistry::new([server.to_string().parse().unwrap()], "grpc")
}

/// Makes a call, and returns the name of the server that answered.
pub(super) async fn hello(channel: &Channel) -> Result<String, tonic::Status> {
    let request = HelloRequest { name: "x".into() };
    let response = GreeterClient::new(channel.clone()).hello(request).await?;
    Ok(response.into_inner().message)
}

/// Returns the decision about each node, by id.
pub(super) fn decisions(channel: &Channel) -> Vec<(String, Decision)> {
    let nodes = channel.snapshot().nodes.into_iter();
    nodes.map(|node| (node.id, node.decision)).collect()
}

/// Waits until `done` returns true, for at most [`DEADLINE`], and returns the time that it took.
pub(super) async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) -> Duration {
    let start = tokio::time::Instant::now();
    while !done().await {
        assert!(
            start.elapsed() < DEADLINE,
            "not within {DEADLINE:?}: {what}"
        );
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    start.elapsed()
}

/// Returns the certificate in a PEM file.
pub(super) fn certificate(file: &std::path::Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(file).unwrap()
}

/// Handshakes with a server, and returns the certificate that it serves.
pub(super) async fn served(
    server: &ServerHandle,
    authority: &Authority,
) -> CertificateDer<'static> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate(&authority.certificate())).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(server.address()).await.unwrap();
    let name = ServerName::try_from("greeter").unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector.connect(name, stream).await.unwrap();
    let chain = stream.get_ref().1.peer_certificates().unwrap();
    chain[0].clone()
}
