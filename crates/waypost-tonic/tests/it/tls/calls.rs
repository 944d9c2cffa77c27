//! Calls over TLS, certificates of both sides, and fleets in which only some nodes speak TLS.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use tonic::body::Body;
use tonic::server::NamedService;
use tower::ServiceExt;
use waypost_core::balance::Decision;
use waypost_core::peer::Exclusion;
use waypost_core::record::keys;
use waypost_core::registry::AnyRegistry;
use waypost_greeter::greeter::greeter_server::GreeterServer;
use waypost_testkit::etcd::Authority;
use waypost_tonic::{Channel, Server};

use super::support::{
    DEADLINE, certificate, channel, client_tls, decisions, hello, identity, list, plain_channel,
    server_tls,
};
use crate::support::{Service, Town, serving, text};

const PICKED: Decision = Decision::Picked;

/// Service that answers with the scheme of the request.
#[derive(Clone)]
struct Scheme;

impl NamedService for Scheme {
    const NAME: &'static str = "test.Scheme";
}

impl tower::Service<http::Request<Body>> for Scheme {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let scheme = request.uri().scheme_str().unwrap_or("none");
        let response = http::Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-status", "0")
            .header("scheme", scheme);
        std::future::ready(Ok(response.body(Body::empty()).unwrap()))
    }
}

async fn scheme(channel: Channel) -> String {
    let request = http::Request::post("/test.Scheme/Get").body(Body::empty());
    let response = channel.oneshot(request.unwrap()).await.unwrap();
    response.headers()["scheme"].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn calls_over_tls_carry_https_and_others_http() {
    let (town, authority) = (Town::new(), Authority::new().unwrap());
    let server = |id| {
        Server::builder("greeter", town.registry())
            .id(id)
            .add_service(Scheme)
    };
    let _tls = serving(server("tls").tls(server_tls(&authority))).await;
    let _plain = serving(server("plain")).await;
    let with_tls = channel(town.registry(), client_tls(&authority));
    assert_eq!(scheme(with_tls).await, "https");
    assert_eq!(scheme(plain_channel(town.registry())).await, "http");
}

#[tokio::test]
async fn both_sides_prove_themselves_and_the_handler_sees_the_clients_certificate() {
    let (town, authority) = (Town::new(), Authority::new().unwrap());
    let mut tls = server_tls(&authority);
    tls.client_ca = Some(waypost_http::Pem::file(authority.certificate()));
    let seen = Arc::new(Mutex::new(None));
    let seen_by = Arc::clone(&seen);
    let service =
        GreeterServer::with_interceptor(Service::default(), move |request: tonic::Request<()>| {
            let chain = request.peer_certs().unwrap();
            let peer = request.remote_addr().unwrap().ip();
            *seen_by.lock().unwrap() = Some((chain[0].clone(), peer.is_loopback()));
            Ok(request)
        });
    let server = Server::builder("greeter", town.registry()).tls(tls);
    let _server = serving(server.add_service(service)).await;

    let ours = authority.client("app").unwrap();
    let mut tls = client_tls(&authority);
    tls.identity = Some(identity(&ours));
    hello(&channel(town.registry(), tls)).await.unwrap();
    let seen = seen.lock().unwrap().take();
    assert_eq!(seen, Some((certificate(&ours.certificate), true)));
}

#[tokio::test]
async fn in_a_mixed_fleet_each_client_uses_its_nodes_and_states_why_not_the_others() {
    let (town, authority) = (Town::new(), Authority::new().unwrap());
    let _encrypted = serving(town.builder("encrypted").0.tls(server_tls(&authority))).await;
    let (_open, _) = town.server("open").await;

    let service = &town.registry().get_service("greeter").await.unwrap()[0];
    let tls: Vec<_> = service
        .nodes
        .iter()
        .map(|node| node.metadata.get(keys::TLS))
        .collect();
    assert_eq!(tls, [Some("true"), None]);

    let with_tls = channel(town.registry(), client_tls(&authority));
    let plain = plain_channel(town.registry());
    for _ in 0..10 {
        assert_eq!(hello(&with_tls).await.unwrap(), "encrypted");
        assert_eq!(hello(&plain).await.unwrap(), "open");
    }
    let node = |name: &str, decision| (format!("greeter-{name}"), decision);
    assert_eq!(
        decisions(&with_tls),
        [
            node("encrypted", PICKED),
            node("open", Decision::Excluded(Exclusion::Plaintext))
        ]
    );
    assert_eq!(
        decisions(&plain),
        [
            node("encrypted", Decision::Excluded(Exclusion::TlsRequired)),
            node("open", PICKED)
        ]
    );
}

#[tokio::test]
async fn a_call_that_finds_only_excluded_nodes_states_what_to_do() {
    let (town, authority) = (Town::new(), Authority::new().unwrap());
    let encrypted = serving(town.builder("a").0.tls(server_tls(&authority))).await;
    let error = hello(&plain_channel(town.registry())).await.unwrap_err();
    insta::assert_snapshot!(text(&error), @r#"Unavailable: greeter: no node was ready within N ms (1 known, 0 ready, 1 tls_required; give the client TLS: ClientBuilder::tls (--client-tls-ca, WAYPOST_CLIENT_TLS_CA))"#);

    // The list does not say that its node speaks TLS.
    let with_tls = channel(list(encrypted.address()), client_tls(&authority));
    let error = hello(&with_tls).await.unwrap_err();
    insta::assert_snapshot!(text(&error), @r#"Unavailable: greeter: no node was ready within N ms (1 known, 0 ready, 1 plaintext; their records do not state that they speak TLS; if they do, set TlsConfig::assume_tls (--client-tls-assume, WAYPOST_CLIENT_TLS_ASSUME))"#);
}

#[tokio::test]
async fn nodes_that_do_not_state_it_can_be_assumed_to_speak_tls() {
    let (town, authority) = (Town::new(), Authority::new().unwrap());
    let server = serving(town.builder("a").0.tls(server_tls(&authority))).await;
    let mut tls = client_tls(&authority);
    tls.assume_tls = true;
    let assuming = channel(list(server.address()), tls);
    assert_eq!(hello(&assuming).await.unwrap(), "a");
}

#[tokio::test]
async fn the_expected_name_is_the_services_or_made_of_it() {
    let (town, authority) = (Town::new(), Authority::new().unwrap());
    let names = |names: &[&str]| {
        let issued = identity(&authority.server(names).unwrap());
        waypost_http::ServerTlsConfig::new(issued)
    };
    // The host that the registry gives is in the certificate, and proves nothing.
    let address = serving(town.builder("address").0.tls(names(&["127.0.0.1"]))).await;
    let _internal = serving(town.builder("internal").0.tls(names(&["greeter.internal"]))).await;
    let mut tls = client_tls(&authority);
    tls.server_name = Some("{service}.internal".to_owned());
    let internal = channel(town.registry(), tls.clone());
    for _ in 0..10 {
        assert_eq!(hello(&internal).await.unwrap(), "internal");
    }
    let decision = |channel: &Channel, id: &str| {
        let decisions = decisions(channel).into_iter();
        decisions
            .filter(|(node, _)| node == id)
            .map(|(_, decision)| decision)
            .next()
    };
    let not_connected = Some(Decision::Excluded(Exclusion::NotConnected));
    assert_eq!(decision(&internal, address.node_id()), not_connected);

    let by_service = channel(town.registry(), client_tls(&authority));
    by_service
        .ready(Duration::from_millis(300))
        .await
        .unwrap_err();
    tls.server_name = Some("127.0.0.1".to_owned());
    let by_address = channel(town.registry(), tls);
    by_address.ready(DEADLINE).await.unwrap();
    assert_eq!(decision(&by_address, address.node_id()), Some(PICKED));
}

#[tokio::test]
async fn a_stop_of_a_server_with_tls_loses_no_call() {
    let (town, authority) = (Town::new(), Authority::new().unwrap());
    let start = async |name: &str| serving(town.builder(name).0.tls(server_tls(&authority))).await;
    let (mut a, _b) = (start("a").await, start("b").await);
    let channel = channel(AnyRegistry::new(town.memory.open()), client_tls(&authority));
    let calls = tokio::spawn({
        let channel = channel.clone();
        async move {
            let mut answers = 0;
            let start = tokio::time::Instant::now();
            while start.elapsed() < Duration::from_secs(2) {
                hello(&channel).await.unwrap();
                answers += 1;
            }
            answers
        }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    a.stop();
    a.wait().await.unwrap();
    assert!(calls.await.unwrap() > 50);
}
