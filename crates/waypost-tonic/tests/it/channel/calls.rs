//! Successful calls, retries by policy, and the node that served each call.

use std::collections::BTreeMap;
use std::time::Duration;

use waypost_core::balance::{Filter, Filters};
use waypost_greeter::echo::EchoMessage;
use waypost_greeter::echo::echo_client::EchoClient;
use waypost_greeter::greeter::HelloRequest;
use waypost_greeter::greeter::greeter_client::GreeterClient;
use waypost_http::ServedBy;
use waypost_tonic::Client;

use crate::support::Town;

fn hello(name: &str) -> HelloRequest {
    HelloRequest {
        name: name.to_owned(),
    }
}

#[tokio::test]
async fn calls_are_answered_by_every_node_and_name_their_node() {
    let town = Town::new();
    let (_a, _) = town.server("a").await;
    let (_b, _) = town.server("b").await;
    let client = Client::new(town.registry());
    let channel = client.channel("greeter").unwrap();
    channel.ready(Duration::from_secs(5)).await.unwrap();
    let mut greeter = GreeterClient::new(channel);
    let mut counts = BTreeMap::new();
    for _ in 0..100 {
        let response = greeter.hello(hello("x")).await.unwrap();
        let picked = response.extensions().get::<ServedBy>().unwrap().clone();
        let message = response.into_inner().message;
        assert_eq!(
            (picked.node.id.clone(), picked.attempts),
            (format!("greeter-{message}"), 1)
        );
        *counts.entry(message).or_insert(0) += 1;
    }
    assert_eq!(counts.keys().collect::<Vec<_>>(), ["a", "b"]);
    client.close().await;
}

#[tokio::test]
async fn the_client_has_the_last_word_on_its_channels() {
    let town = Town::new();
    let (_a, _) = town.server("a").await;
    let (_b, _) = town.server("b").await;
    let client = Client::builder(town.registry())
        .configure_channels(|channel| channel.label("id", "none"))
        .configure_channels(|c| c.version("latest"));
    let strict = client
        .configure_channels(|channel| channel.wait_for_ready(Duration::from_millis(1)))
        .build();
    let channel = strict
        .channel_builder("greeter")
        .wait_for_ready(Duration::from_secs(3600))
        .build()
        .unwrap();
    let error = GreeterClient::new(channel)
        .hello(hello("x"))
        .await
        .unwrap_err();
    assert_eq!(
        error.code(),
        tonic::Code::Unavailable,
        "not the deadline: {error}"
    );
    assert!(error.message().contains("2 label"), "{error}");
    strict.close().await;
}

#[tokio::test]
async fn interceptors_and_layers_work_unchanged() {
    let town = Town::new();
    let (_a, service) = town.server("a").await;
    let client = Client::new(town.registry());
    let channel = client.channel("greeter").unwrap();
    let seen = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = std::sync::Arc::clone(&seen);
    let mut intercepted =
        GreeterClient::with_interceptor(channel.clone(), move |request: tonic::Request<()>| {
            counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Ok(request)
        });
    assert_eq!(
        intercepted
            .hello(hello("x"))
            .await
            .unwrap()
            .into_inner()
            .message,
        "a"
    );
    let layered = tower::ServiceBuilder::new()
        .layer(tower::limit::ConcurrencyLimitLayer::new(4))
        .layer(tower::timeout::TimeoutLayer::new(Duration::from_secs(9)))
        .service(channel);
    assert_eq!(
        GreeterClient::new(layered)
            .hello(hello("x"))
            .await
            .unwrap()
            .into_inner()
            .message,
        "a"
    );
    assert_eq!(
        (
            seen.load(std::sync::atomic::Ordering::Relaxed),
            service.calls.load(std::sync::atomic::Ordering::Relaxed)
        ),
        (1, 2)
    );
    client.close().await;
}

#[tokio::test]
async fn what_the_record_states_of_a_method_decides_whether_it_is_sent_twice() {
    let town = Town::new();
    let (_a, a) = town.server("a").await;
    let client = Client::new(town.registry());
    let channel = client.channel("greeter").unwrap();
    let calls = || a.calls.load(std::sync::atomic::Ordering::Relaxed);
    let code = |n: i32| EchoMessage {
        text: format!("code {n}"),
        number: 0,
    };
    let mut echo = EchoClient::new(channel.clone());
    assert_eq!(
        echo.unary_echo(code(14)).await.unwrap_err().message(),
        "a returns 14"
    );
    assert_eq!(calls(), 1, "UnaryEcho may not be sent twice");
    assert_eq!(
        echo.idempotent_echo(code(14)).await.unwrap_err().message(),
        "a returns 14"
    );
    assert_eq!(
        calls(),
        4,
        "IdempotentEcho is marked IDEMPOTENT: three attempts"
    );
    assert_eq!(
        echo.idempotent_echo(code(5)).await.unwrap_err().code(),
        tonic::Code::NotFound
    );
    assert_eq!(calls(), 5, "NOT_FOUND is an answer");
    let mine = client
        .channel_builder("greeter")
        .idempotent("/echo.Echo/UnaryEcho")
        .build()
        .unwrap();
    EchoClient::new(mine)
        .unary_echo(code(14))
        .await
        .unwrap_err();
    assert_eq!(calls(), 8, "by the client's policy");
    client.close().await;
}

#[tokio::test]
async fn subsets_are_prepared_by_name_and_never_fall_back() {
    let town = Town::new();
    let (_a, _) = town.server("a").await;
    let (b, _) = town.server("b").await;
    b.update(|metadata| metadata.insert("track", "canary"))
        .unwrap();
    let client = Client::new(town.registry());
    let channel = client
        .channel_builder("greeter")
        .filtered(
            "canary",
            Filters::default().and(Filter::Label("track".into(), "canary".into())),
        )
        .filtered(
            "unknown",
            Filters::default().and(Filter::Version("0".into())),
        )
        .wait_for_ready(Duration::from_millis(50))
        .build()
        .unwrap();
    let canary = channel.filtered("canary").unwrap();
    canary.ready(Duration::from_secs(5)).await.unwrap();
    for _ in 0..20 {
        assert_eq!(
            GreeterClient::new(canary.clone())
                .hello(hello("x"))
                .await
                .unwrap()
                .into_inner()
                .message,
            "b"
        );
    }
    let unknown = GreeterClient::new(channel.filtered("unknown").unwrap())
        .hello(hello("x"))
        .await
        .unwrap_err();
    assert_eq!(unknown.code(), tonic::Code::Unavailable);
    assert_eq!(
        channel.filtered("missing").unwrap_err().to_string(),
        "greeter: no filters \"missing\"; prepare them with ChannelBuilder::filtered"
    );
    client.close().await;
}

#[tokio::test]
async fn a_pushback_is_waited_for_within_the_deadline_and_beyond_it_the_node_has_the_last_word() {
    let town = Town::new();
    let (_a, a) = town.server("a").await;
    let client = Client::new(town.registry());
    let mut echo = EchoClient::new(client.channel("greeter").unwrap());
    let calls = || a.calls.load(std::sync::atomic::Ordering::Relaxed);
    let mut look = async |ms: u32, timeout: Option<Duration>| {
        let mut request = tonic::Request::new(EchoMessage {
            text: format!("pushback {ms}"),
            number: 0,
        });
        if let Some(timeout) = timeout {
            request.set_timeout(timeout);
        }
        let start = tokio::time::Instant::now();
        let status = echo.idempotent_echo(request).await.unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (tonic::Code::Unavailable, "a asks for a pause")
        );
        start.elapsed()
    };
    let took = look(100, Some(Duration::from_secs(10))).await;
    assert_eq!(calls(), 3);
    assert!(took >= Duration::from_millis(200), "{took:?}");
    let before = calls();
    for (ms, timeout) in [
        (60_000, Some(Duration::from_secs(2))),
        (2_001, Some(Duration::from_secs(2))),
        (u32::MAX, None),
    ] {
        let took = look(ms, timeout).await;
        assert!(
            took < Duration::from_secs(1),
            "it waits for what cannot be: {took:?}"
        );
    }
    assert_eq!(calls() - before, 3, "each was sent once");
    client.close().await;
}
