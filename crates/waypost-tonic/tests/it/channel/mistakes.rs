//! Mistakes of a caller in its own request. The caller receives the error, and no node is charged
//! with a failure.

use std::sync::atomic::Ordering::Relaxed;

use tonic::Code;
use tonic::metadata::MetadataValue;
use waypost_greeter::echo::EchoMessage;
use waypost_greeter::echo::echo_client::EchoClient;
use waypost_tonic::{Channel, Client};

use crate::support::{Received, Service, Town};

struct Both {
    _town: Town,
    _running: waypost_tonic::ServerHandle,
    service: Service,
    _client: Client,
    ours: Channel,
    tonics: tonic::transport::Channel,
}

impl Both {
    async fn new() -> Self {
        let town = Town::new();
        let (running, service) = town.server("a").await;
        let client = Client::new(town.registry());
        let ours = client.channel("greeter").unwrap();
        ours.ready(std::time::Duration::from_secs(5)).await.unwrap();
        let tonics = tonic::transport::Endpoint::new(format!("http://{}", running.address()))
            .unwrap()
            .connect()
            .await
            .unwrap();
        Self {
            _town: town,
            _running: running,
            service,
            _client: client,
            ours,
            tonics,
        }
    }

    /// Asserts that no failure was counted for the node, and that `received` calls reached it since
    /// the last check.
    fn assert_blameless(&self, received: u64, what: &str) {
        let node = self.ours.snapshot().nodes.remove(0);
        assert_eq!((node.failed, node.in_flight), (0, 0), "{what}");
        assert_eq!(self.service.calls.swap(0, Relaxed), received, "{what}");
    }
}

fn word(text: impl Into<String>) -> EchoMessage {
    EchoMessage {
        text: text.into(),
        number: 0,
    }
}

fn request(name: &'static str, value: &str) -> tonic::Request<EchoMessage> {
    let mut request = tonic::Request::new(word("hi"));
    request
        .metadata_mut()
        .insert(name, MetadataValue::try_from(value).unwrap());
    request
}

#[tokio::test]
async fn metadata_that_http2_forbids_is_no_obstacle() {
    let both = Both::new().await;
    for (name, value) in [
        ("connection", "close"),
        ("connection", "keep-alive, x-hop"),
        ("keep-alive", "timeout=5"),
        ("te", "gzip"),
        ("upgrade", "h2c"),
        ("proxy-connection", "keep-alive"),
        ("transfer-encoding", "chunked"),
    ] {
        EchoClient::new(both.tonics.clone())
            .idempotent_echo(request(name, value))
            .await
            .unwrap();
        EchoClient::new(both.ours.clone())
            .idempotent_echo(request(name, value))
            .await
            .unwrap();
        both.assert_blameless(2, name);
    }
}

#[tokio::test]
async fn a_message_above_the_encoding_limit_ends_with_the_status_of_the_encoder() {
    let both = Both::new().await;
    let large = || word("x".repeat(100));
    let ours = EchoClient::new(both.ours.clone())
        .max_encoding_message_size(50)
        .idempotent_echo(large())
        .await
        .unwrap_err();
    // tonic's channel returns INTERNAL, "h2 protocol error", and loses the encoder's text.
    assert_eq!(ours.code(), Code::OutOfRange);
    assert!(ours.message().contains("the limit is: 50 bytes"), "{ours}");
    both.assert_blameless(0, "unary");
    let words = |n: usize| {
        let (sender, receiver) = tokio::sync::mpsc::channel(n);
        for i in 0..n {
            sender
                .try_send(if i + 1 == n { large() } else { word("hi") })
                .unwrap();
        }
        Received(receiver)
    };
    for n in [1, 3] {
        let mut client = EchoClient::new(both.ours.clone()).max_encoding_message_size(50);
        let error = client.client_streaming_echo(words(n)).await.unwrap_err();
        assert_eq!(
            (error.code(), error.message()),
            (ours.code(), ours.message()),
            "message {n} of a stream"
        );
        let node = both.ours.snapshot().nodes.remove(0);
        assert_eq!(
            (node.failed, node.in_flight),
            (0, 0),
            "message {n} of a stream"
        );
    }
    // Once the response has begun, its stream ends with the same status.
    let (sender, receiver) = tokio::sync::mpsc::channel(2);
    sender.send(word("hi")).await.unwrap();
    let mut client = EchoClient::new(both.ours.clone()).max_encoding_message_size(50);
    let mut echoed = client
        .bidirectional_streaming_echo(Received(receiver))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(echoed.message().await.unwrap(), Some(word("hi")));
    sender.send(large()).await.unwrap();
    let error = echoed.message().await.unwrap_err();
    assert_eq!(
        (error.code(), error.message()),
        (ours.code(), ours.message()),
        "a conversation"
    );
    let node = both.ours.snapshot().nodes.remove(0);
    assert_eq!((node.failed, node.in_flight), (0, 0), "a conversation");
}

#[tokio::test]
async fn metadata_above_the_limit_of_the_server_is_named() {
    let both = Both::new().await;
    let large = "x".repeat(70_000);
    let error = EchoClient::new(both.ours.clone())
        .idempotent_echo(request("large", &large))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted, "{error}");
    assert!(
        error.message().contains("SETTINGS_MAX_HEADER_LIST_SIZE"),
        "{error}"
    );
    both.assert_blameless(0, "large metadata");
    EchoClient::new(both.ours.clone())
        .idempotent_echo(word("hi"))
        .await
        .unwrap();
}
