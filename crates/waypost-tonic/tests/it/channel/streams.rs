//! Streams of every kind, which count as in flight until they end.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::{Code, Status};
use waypost_greeter::echo::EchoMessage;
use waypost_greeter::echo::echo_client::EchoClient;
use waypost_tonic::{Channel, Client};

use crate::support::{Received, Town};

fn word(text: &str) -> EchoMessage {
    EchoMessage {
        text: text.to_owned(),
        number: 0,
    }
}

fn in_flight(channel: &Channel) -> u32 {
    channel
        .snapshot()
        .nodes
        .iter()
        .map(|node| node.in_flight)
        .sum()
}

async fn until_idle(channel: &Channel) {
    while in_flight(channel) > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_server_stream_counts_as_in_flight_until_it_ends() {
    let town = Town::new();
    let (_a, _) = town.server("a").await;
    let client = Client::new(town.registry());
    let channel = client.channel("greeter").unwrap();
    let mut words = EchoClient::new(channel.clone())
        .server_streaming_echo(EchoMessage {
            text: "hi".into(),
            number: 3,
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(words.message().await.unwrap().unwrap().number, 0);
    assert_eq!(in_flight(&channel), 1);
    assert_eq!(words.message().await.unwrap().unwrap().number, 1);
    assert_eq!(words.message().await.unwrap().unwrap().number, 2);
    assert_eq!(words.message().await.unwrap(), None);
    assert_eq!(in_flight(&channel), 0);
    let dropped = EchoClient::new(channel.clone())
        .server_streaming_echo(EchoMessage {
            text: "hi".into(),
            number: 1_000_000,
        })
        .await
        .unwrap();
    assert_eq!(in_flight(&channel), 1);
    drop(dropped);
    assert_eq!(in_flight(&channel), 0);
    client.close().await;
}

#[tokio::test]
async fn a_client_stream_gathers_and_a_conversation_goes_back_and_forth() {
    let town = Town::new();
    let (_a, _) = town.server("a").await;
    let client = Client::new(town.registry());
    let channel = client.channel("greeter").unwrap();
    let mut echo = EchoClient::new(channel.clone());
    let (sender, receiver) = mpsc::channel(1);
    let gathering = tokio::spawn({
        let mut echo = echo.clone();
        async move {
            echo.client_streaming_echo(Received(receiver))
                .await
                .unwrap()
                .into_inner()
        }
    });
    for text in ["one", "two", "three"] {
        sender.send(word(text)).await.unwrap();
    }
    drop(sender);
    assert_eq!(
        gathering.await.unwrap(),
        EchoMessage {
            text: "onetwothree".into(),
            number: 3
        }
    );

    let (sender, receiver) = mpsc::channel(1);
    // The response's headers arrive before the first message is sent.
    let mut answers = echo
        .bidirectional_streaming_echo(Received(receiver))
        .await
        .unwrap()
        .into_inner();
    for text in ["a", "b", "c"] {
        sender.send(word(text)).await.unwrap();
        assert_eq!(answers.message().await.unwrap().unwrap().text, text);
    }
    drop(sender);
    assert_eq!(answers.message().await.unwrap(), None);
    until_idle(&channel).await;
    client.close().await;
}

#[tokio::test]
async fn a_large_message_and_a_deadline_in_the_middle_of_a_stream() {
    let town = Town::new();
    let (_a, _) = town.server("a").await;
    let client = Client::new(town.registry());
    let channel = client.channel("greeter").unwrap();
    let mut echo = EchoClient::new(channel.clone()).max_decoding_message_size(8 << 20);
    let large = "x".repeat(3 << 20);
    assert_eq!(
        echo.unary_echo(word(&large))
            .await
            .unwrap()
            .into_inner()
            .text
            .len(),
        large.len()
    );

    let mut request = tonic::Request::new(EchoMessage {
        text: "sleep 50".into(),
        number: 100,
    });
    request.set_timeout(Duration::from_millis(300));
    let mut words = echo
        .server_streaming_echo(request)
        .await
        .unwrap()
        .into_inner();
    let mut received = 0;
    let error = loop {
        match words.message().await {
            Ok(Some(_)) => received += 1,
            Ok(None) => panic!("it ended too soon"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
    assert!((1..=7).contains(&received), "{received}");
    until_idle(&channel).await;
    client.close().await;
}

/// Stream of the received words, which panics when there are no more.
struct Panicking(mpsc::Receiver<EchoMessage>);

impl Stream for Panicking {
    type Item = EchoMessage;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<EchoMessage>> {
        self.0
            .poll_recv(cx)
            .map(|word| Some(word.expect("the caller's stream has no more words")))
    }
}

fn is_own(status: &Status) -> bool {
    status.code() == Code::Internal
        && status
            .message()
            .ends_with("request body panicked: the caller's stream has no more words")
}

async fn in_time<T>(call: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(10), call)
        .await
        .expect("the call hangs")
}

#[tokio::test]
async fn a_request_stream_that_panics_ends_its_call_with_its_own_error_and_blames_no_node() {
    let town = Town::new();
    let (_a, _) = town.server("a").await;
    let client = Client::new(town.registry());
    let channel = client.channel("greeter").unwrap();
    let mut echo = EchoClient::new(channel.clone());
    // The stream panics at once, before anything was sent.
    let (_, none) = mpsc::channel(1);
    let status = in_time(echo.client_streaming_echo(Panicking(none)))
        .await
        .unwrap_err();
    assert!(is_own(&status), "{status}");
    // The stream panics while the node waits for more.
    let (sender, receiver) = mpsc::channel(1);
    let gathering = tokio::spawn({
        let mut echo = echo.clone();
        async move { echo.client_streaming_echo(Panicking(receiver)).await }
    });
    for _ in 0..3 {
        sender.send(word("hi")).await.unwrap();
    }
    drop(sender);
    let status = in_time(gathering).await.unwrap().unwrap_err();
    assert!(is_own(&status), "{status}");
    // The stream panics while the caller waits for a message.
    for words in 0..3 {
        let (sender, receiver) = mpsc::channel(1);
        let mut answers = in_time(echo.bidirectional_streaming_echo(Panicking(receiver)))
            .await
            .unwrap()
            .into_inner();
        for _ in 0..words {
            sender.send(word("hi")).await.unwrap();
            in_time(answers.message()).await.unwrap().unwrap();
        }
        drop(sender);
        let status = in_time(answers.message()).await.unwrap_err();
        assert!(is_own(&status), "{status}");
    }
    until_idle(&channel).await;
    assert_eq!(channel.snapshot().nodes[0].failed, 0);
    echo.unary_echo(word("hi")).await.unwrap();
    client.close().await;
}

#[tokio::test]
async fn streams_outlive_the_client_the_channel_and_the_stub_that_began_them() {
    let town = Town::new();
    let (_a, _) = town.server("a").await;
    let (sender, receiver) = mpsc::channel(1);
    let (mut words, mut answers) = {
        let client = Client::new(town.registry());
        let mut echo = EchoClient::new(client.channel("greeter").unwrap());
        let words = echo
            .server_streaming_echo(EchoMessage {
                text: "sleep 1".into(),
                number: 50,
            })
            .await
            .unwrap()
            .into_inner();
        (
            words,
            echo.bidirectional_streaming_echo(Received(receiver))
                .await
                .unwrap()
                .into_inner(),
        )
    };
    for number in 0..50 {
        assert_eq!(words.message().await.unwrap().unwrap().number, number);
        sender.send(word("hi")).await.unwrap();
        assert_eq!(answers.message().await.unwrap().unwrap().text, "hi");
    }
    drop(sender);
    assert_eq!(
        (
            words.message().await.unwrap(),
            answers.message().await.unwrap()
        ),
        (None, None)
    );
}
