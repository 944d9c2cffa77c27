//! Callers that read slowly or not at all. No other call of the same connection is delayed by them.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::timeout;
use tonic::Request;
use waypost_greeter::echo::EchoMessage;
use waypost_greeter::echo::echo_client::EchoClient;
use waypost_tonic::{Channel, Client};

use crate::support::{Service, Town};

const LONG: Duration = Duration::from_secs(20);

/// One node, so that all calls share a connection, which is open when `new` returns.
struct Alone {
    echo: EchoClient<Channel>,
    node: Service,
    calls: u64,
    _town: (Town, Client, waypost_tonic::ServerHandle),
}

impl Alone {
    async fn new() -> Self {
        let town = Town::new();
        let (running, node) = town.server("a").await;
        let client = Client::new(town.registry());
        let echo = EchoClient::new(client.channel("greeter").unwrap());
        let mut alone = Self {
            echo,
            node,
            calls: 0,
            _town: (town, client, running),
        };
        alone.unary_echo().await;
        alone
    }

    /// Makes a call that may not be sent twice, and expects a response.
    async fn unary_echo(&mut self) {
        let mut request = Request::new(EchoMessage {
            text: "hi".into(),
            number: 0,
        });
        request.set_timeout(Duration::from_secs(5));
        self.echo.unary_echo(request).await.unwrap();
        self.calls += 1;
    }

    /// Makes calls until no message was streamed during fifty of them, and at least `messages` were
    /// streamed.
    async fn call_until_blocked(&mut self, messages: u64) {
        let blocked = async {
            let (mut streamed, mut calls) = (0, 0);
            while calls < 50 || streamed < messages {
                self.unary_echo().await;
                let now = self.node.calls.load(Relaxed) - self.calls;
                calls = if now == streamed { calls + 1 } else { 0 };
                streamed = now;
            }
        };
        timeout(LONG, blocked)
            .await
            .expect("the messages are streamed");
    }
}

#[tokio::test]
async fn a_call_beside_thirty_thousand_unread_messages_is_answered() {
    const MESSAGES: u32 = 30_000;
    let mut alone = Alone::new().await;
    let count = EchoMessage {
        text: "sixteen letters.".into(),
        number: MESSAGES,
    };
    let mut unread = alone
        .echo
        .server_streaming_echo(count)
        .await
        .unwrap()
        .into_inner();
    alone.call_until_blocked(MESSAGES.into()).await;
    for number in 0..MESSAGES {
        assert_eq!(unread.message().await.unwrap().unwrap().number, number);
    }
    assert_eq!(unread.message().await.unwrap(), None);
}

#[tokio::test]
async fn unary_calls_are_answered_beside_streams_of_two_mebibytes_that_are_not_read() {
    const STREAMS: u64 = 8;
    const WINDOW: u64 = 2 << 20;
    const LENGTH: u64 = 64 << 10;
    let mut alone = Alone::new().await;
    let mut unread = Vec::new();
    for _ in 0..STREAMS {
        let text = "x".repeat(usize::try_from(LENGTH).unwrap());
        unread.push(
            alone
                .echo
                .server_streaming_echo(EchoMessage {
                    text,
                    number: 1_000,
                })
                .await
                .unwrap(),
        );
    }
    alone.call_until_blocked(STREAMS * (WINDOW / LENGTH)).await;
    drop(unread);
}
