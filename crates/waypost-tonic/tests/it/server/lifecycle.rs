//! Start and stop of a server in this process.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use waypost_core::memory::MemoryRegistry;
use waypost_core::record::{Service, keys};
use waypost_core::registrar::{Config, State};
use waypost_core::registry::{AnyRegistry, Registry};
use waypost_greeter::echo::FILE_DESCRIPTOR_SET;
use waypost_tonic::server::{Error, REGISTRATION, Server, ServerBuilder, ServerHandle};

use super::echo::{self, BidiStream, HANG, Hanging, word};

pub(super) const SOON: Duration = Duration::from_secs(10);

pub(super) fn config(drain_delay: Duration) -> Config {
    let mut config = Config::default();
    config.drain_delay = drain_delay;
    config
}

/// Returns a builder for an echo server with a drain delay of 200 ms.
pub(super) fn builder(registry: &MemoryRegistry) -> (ServerBuilder, Hanging) {
    let (service, hanging) = echo::service();
    let builder = Server::builder("echo", AnyRegistry::new(registry.open()))
        .descriptor(FILE_DESCRIPTOR_SET)
        .register(config(Duration::from_millis(200)))
        .add_service(service);
    (builder, hanging)
}

pub(super) async fn started(registry: &MemoryRegistry) -> (ServerHandle, Hanging) {
    let (builder, hanging) = builder(registry);
    let running = builder.start().await.unwrap();
    timeout(SOON, running.registered()).await.unwrap().unwrap();
    (running, hanging)
}

pub(super) async fn stopped(mut running: ServerHandle) {
    timeout(SOON, running.wait())
        .await
        .expect("it stops in time")
        .unwrap();
}

pub(super) async fn registered(registry: &MemoryRegistry) -> Option<Service> {
    registry
        .get_service("echo")
        .await
        .ok()
        .map(|mut services| services.remove(0))
}

pub(super) async fn left(running: &ServerHandle) {
    timeout(SOON, running.registration().wait_for(State::is_left))
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn the_name_and_the_times_may_be_set_after_the_rest() {
    let registry = MemoryRegistry::new();
    let (builder, _) = builder(&registry);
    let builder = builder
        .name("cockatoo")
        .ttl(Duration::from_secs(60))
        .interval(Duration::from_secs(20));
    let mut expected = config(Duration::from_millis(200));
    (expected.ttl, expected.interval) = (Duration::from_secs(60), Duration::from_secs(20));
    assert_eq!(*builder.register_config(), expected);
    let running = builder.id("one").start().await.unwrap();
    running.registered().await.unwrap();
    assert_eq!(
        (running.service(), running.node_id()),
        ("cockatoo", "cockatoo-one")
    );
    assert_eq!(
        registry.get_service("cockatoo").await.unwrap()[0].nodes[0].id,
        "cockatoo-one"
    );
    running.stop();
    stopped(running).await;
}

#[tokio::test]
async fn what_is_registered_is_complete() {
    let registry = MemoryRegistry::new();
    let (builder, _) = builder(&registry);
    let started = builder
        .version("1.2.0")
        .id("one")
        .metadata("zone", "eu-1")
        .metadata("protocol", "mine")
        .start()
        .await
        .unwrap();
    started.registered().await.unwrap();
    let service = registered(&registry).await.unwrap();
    assert_eq!(
        (service.name.as_str(), service.version.as_str()),
        ("echo", "1.2.0")
    );
    let names: Vec<_> = service
        .endpoints
        .iter()
        .map(|endpoint| endpoint.name.as_str())
        .collect();
    assert_eq!(
        names,
        [
            "Echo.BidirectionalStreamingEcho",
            "Echo.ClientStreamingEcho",
            "Echo.IdempotentEcho",
            "Echo.ServerStreamingEcho",
            "Echo.UnaryEcho"
        ]
    );
    let node = &service.nodes[0];
    assert_eq!(node.id, "echo-one");
    assert_eq!(node.id, started.node_id());
    assert_eq!(node.address, started.address().to_string());
    assert_eq!(node.address, started.advertised());
    let endpoints: Vec<_> = node
        .metadata
        .iter()
        .filter(|(key, _)| *key != keys::INSTANCE)
        .collect();
    let endpoints: Vec<_> = endpoints
        .into_iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    assert_eq!(
        endpoints,
        [
            "protocol=grpc",
            "registry=memory",
            "server=grpc",
            "transport=grpc",
            "waypost.interval=5000ms",
            "zone=eu-1"
        ]
    );
    started
        .update(|metadata| metadata.insert("zone", "eu-2"))
        .unwrap();
    let changed = async {
        while registered(&registry).await.unwrap().nodes[0]
            .metadata
            .get("zone")
            != Some("eu-2")
        {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, changed).await.unwrap();
    let mut client = echo::client(started.advertised()).await;
    assert_eq!(
        client
            .unary_echo(word("hello"))
            .await
            .unwrap()
            .into_inner()
            .text,
        "hello"
    );
}

#[tokio::test]
async fn a_stop_leaves_serves_on_refuses_and_finishes() {
    let registry = MemoryRegistry::new();
    let (running, _) = started(&registry).await;
    let address = running.advertised().to_owned();
    let mut client = echo::client(&address).await;
    let mut stream = BidiStream::begin(&mut client).await;
    running.stop();
    left(&running).await;
    assert_eq!(
        registered(&registry).await,
        None,
        "out of the registry first"
    );
    let mut late = echo::client(&address).await;
    assert_eq!(
        late.unary_echo(word("late"))
            .await
            .unwrap()
            .into_inner()
            .text,
        "late",
        "and still serving for those notified late"
    );
    echo::refuses(&address).await;
    assert_eq!(
        stream.exchange("still here").await.unwrap(),
        "still here",
        "what is in flight goes on"
    );
    assert_eq!(stream.close().await.unwrap(), None, "to its own end");
    stopped(running).await;
    assert_eq!(
        client
            .unary_echo(word("too late"))
            .await
            .unwrap_err()
            .code(),
        Code::Unavailable
    );
}

#[tokio::test]
async fn a_second_stop_cuts_at_once() {
    let registry = MemoryRegistry::new();
    let (builder, hanging) = builder(&registry);
    let running = builder
        .register(config(Duration::from_secs(5)))
        .start()
        .await
        .unwrap();
    let mut client = echo::client(running.advertised()).await;
    let call =
        tokio::task::JoinSet::from_iter([async move { client.unary_echo(word(HANG)).await }]);
    hanging.are(1).await;
    running.stop();
    running.stop();
    let start = Instant::now();
    stopped(running).await;
    assert!(
        start.elapsed() < Duration::from_millis(800),
        "not even the drain timeout's last second: {:?}",
        start.elapsed()
    );
    assert!(call.join_all().await.remove(0).is_err());
    hanging.are(0).await;
}

#[tokio::test]
async fn the_drain_limit_bounds_a_call_that_hangs() {
    let registry = MemoryRegistry::new();
    let (builder, hanging) = builder(&registry);
    let limit = Duration::from_millis(300);
    let running = builder.drain_timeout(limit).start().await.unwrap();
    let mut client = echo::client(running.advertised()).await;
    let call =
        tokio::task::JoinSet::from_iter([async move { client.unary_echo(word(HANG)).await }]);
    hanging.are(1).await;
    let start = Instant::now();
    running.stop();
    stopped(running).await;
    let took = start.elapsed();
    assert!(
        took >= limit + Duration::from_millis(200),
        "the call had its time: {took:?}"
    );
    assert!(
        took < limit + Duration::from_millis(200 + 800),
        "and no more: {took:?}"
    );
    assert!(call.join_all().await.remove(0).is_err());
    hanging.are(0).await;
}

#[tokio::test]
async fn a_dropped_server_is_cut() {
    let registry = MemoryRegistry::new();
    let (running, hanging) = started(&registry).await;
    let address = running.advertised().to_owned();
    let mut client = echo::client(&address).await;
    let call =
        tokio::task::JoinSet::from_iter([async move { client.unary_echo(word(HANG)).await }]);
    hanging.are(1).await;
    drop(running);
    assert!(
        timeout(SOON, call.join_all())
            .await
            .expect("it ends")
            .remove(0)
            .is_err()
    );
    hanging.are(0).await;
    echo::refuses(&address).await;
}

#[tokio::test]
async fn health_reports_of_server_service_and_registration() {
    let registry = MemoryRegistry::new();
    registry.faults().set_unreachable(true);
    let (builder, _) = builder(&registry);
    let running = builder.start().await.unwrap();
    let mut client = HealthClient::new(echo::connect(running.advertised()).await.unwrap());
    let ask = |service: &str| HealthCheckRequest {
        service: service.to_owned(),
    };
    for (service, status) in [
        ("", ServingStatus::Serving),
        ("echo.Echo", ServingStatus::Serving),
        (REGISTRATION, ServingStatus::NotServing),
    ] {
        assert_eq!(
            client
                .check(ask(service))
                .await
                .unwrap()
                .into_inner()
                .status(),
            status,
            "{service}"
        );
    }
    let mut watch = client.watch(ask(REGISTRATION)).await.unwrap().into_inner();
    assert_eq!(
        watch.message().await.unwrap().unwrap().status(),
        ServingStatus::NotServing
    );
    registry.faults().set_unreachable(false);
    assert_eq!(
        watch.message().await.unwrap().unwrap().status(),
        ServingStatus::Serving
    );
    let mut whole = client.watch(ask("")).await.unwrap().into_inner();
    assert_eq!(
        whole.message().await.unwrap().unwrap().status(),
        ServingStatus::Serving
    );
    running.stop();
    assert_eq!(
        whole.message().await.unwrap().unwrap().status(),
        ServingStatus::NotServing
    );
    assert_eq!(
        whole.message().await.unwrap(),
        None,
        "who watches does not hold the drain up"
    );
    stopped(running).await;
}

#[tokio::test]
async fn reflection_lists_what_is_served() {
    let registry = MemoryRegistry::new();
    let (builder, _) = builder(&registry);
    let running = builder.reflection(true).start().await.unwrap();
    let mut client =
        ServerReflectionClient::new(echo::connect(running.advertised()).await.unwrap());
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = client
        .server_reflection_info(tonic::codegen::tokio_stream::once(list))
        .await
        .unwrap()
        .into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) =
        answers.message().await.unwrap().unwrap().message_response
    else {
        panic!()
    };
    let mut names: Vec<_> = list
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "echo.Echo",
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection"
        ]
    );
}

#[tokio::test]
async fn an_unreachable_registry_delays_nothing_and_is_reported() {
    let registry = MemoryRegistry::new();
    registry.faults().set_unreachable(true);
    let (builder, _) = builder(&registry);
    let running = builder.start().await.unwrap();
    let mut client = echo::client(running.advertised()).await;
    assert_eq!(
        client
            .unary_echo(word("hello"))
            .await
            .unwrap()
            .into_inner()
            .text,
        "hello"
    );
    let mut state = running.registration();
    let failing = timeout(SOON, state.wait_for(|state| state.name() == "failing"))
        .await
        .unwrap()
        .unwrap()
        .clone();
    assert!(
        matches!(failing, State::Failing { why, registered_before: false, .. } if why.contains("unavailable"))
    );
    registry.faults().set_unreachable(false);
    timeout(SOON, running.registered()).await.unwrap().unwrap();
    assert!(registered(&registry).await.is_some());
}

#[tokio::test]
async fn an_unhealthy_server_is_not_registered_and_serves_all_the_same() {
    let registry = MemoryRegistry::new();
    let (builder, _) = builder(&registry);
    let running = builder
        .check(|| async { Err("cold".into()) })
        .start()
        .await
        .unwrap();
    let mut state = running.registration();
    timeout(SOON, state.wait_for(|state| state.name() == "unhealthy"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(registered(&registry).await, None);
    assert!(
        echo::client(running.advertised())
            .await
            .unary_echo(word("hello"))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn hooks_run_in_order_around_start_and_stop() {
    let registry = MemoryRegistry::new();
    let (builder, _) = builder(&registry);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let note = |what: &'static str| {
        let (seen, registry) = (Arc::clone(&seen), registry.open());
        move || async move {
            let there = registered(&registry).await.is_some();
            seen.lock().unwrap().push((what, there));
            Ok(())
        }
    };
    let running = builder
        .before_start(note("before start"))
        .after_start(note("after start"))
        .before_stop(note("before stop"))
        .after_stop(note("after stop"))
        .start()
        .await
        .unwrap();
    running.registered().await.unwrap();
    running.stop();
    stopped(running).await;
    let seen = seen.lock().unwrap().clone();
    assert_eq!(
        seen.iter().map(|(what, _)| *what).collect::<Vec<_>>(),
        ["before start", "after start", "before stop", "after stop"]
    );
    assert!(!seen[0].1 && seen[2].1 && !seen[3].1, "{seen:?}");
}

#[tokio::test]
async fn what_cannot_work_is_an_error_at_the_start() {
    let registry = MemoryRegistry::new();
    let text = |error: &Error| match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    let (hook, _) = builder(&registry);
    let hook = hook
        .before_start(|| async { Err("no database".into()) })
        .start()
        .await
        .unwrap_err();
    insta::assert_snapshot!(text(&hook), @"the before_start hook failed: no database");
    let (taken, _) = builder(&registry);
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken
        .bind(other.local_addr().unwrap().to_string())
        .start()
        .await
        .unwrap_err();
    assert!(matches!(taken, Error::Bind { .. }), "{taken:?}");
    let (late, _) = builder(&registry);
    let mut config = Config::default();
    config.interval = config.ttl;
    let late = late.register(config).start().await.unwrap_err();
    insta::assert_snapshot!(text(&late), @"cannot register: registration ttl: 15s must be more than the interval, 15s, or the record comes and goes");
    let (name, _) = builder(&registry);
    assert!(matches!(
        name.id("a/b").start().await.unwrap_err(),
        Error::Registration(_)
    ));
    let (descriptor, _) = builder(&registry);
    assert!(matches!(
        descriptor.descriptor(b"\xff").start().await.unwrap_err(),
        Error::Descriptor(_)
    ));
    assert_eq!(registered(&registry).await, None);
}
