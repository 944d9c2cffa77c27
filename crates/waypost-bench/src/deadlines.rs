//! `bench deadlines`: a node that hangs and whose record lists no methods, as with a frozen Go
//! server.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, timeout};
use tonic::Request;
use waypost::record::{Node, Service, keys};
use waypost::{AnyRegistry, Client, MemoryRegistry};
use waypost_greeter::greeter::HelloRequest;
use waypost_greeter::greeter::greeter_client::GreeterClient;
use waypost_testkit::hostile::{Behavior, Script, Server};
use waypost_testkit::report::{Figures, Result, one_thread, rounded};

use crate::options::BenchOptions;

/// Timeout of the call, or of the channel for unary calls that set none; the third call has no
/// timeout.
const GIVEN: Duration = Duration::from_secs(2);
/// Maximum time to the end of a call whose connection is silent.
const SILENT: Duration = Duration::from_secs(10);
/// Time after which a call is abandoned.
const CAP: Duration = Duration::from_secs(20);
/// Slack of a timer on a busy machine.
const SLACK: Duration = Duration::from_millis(300);

struct EndedCall {
    after: Duration,
    how: String,
}

pub(crate) fn run(_: &BenchOptions) -> Result<Figures> {
    let (of_call, of_channel, without) = one_thread()?.block_on(async {
        let calls = (
            call(Some(GIVEN), None),
            call(None, Some(GIVEN)),
            call(None, None),
        );
        let (of_call, of_channel, without) = tokio::join!(calls.0, calls.1, calls.2);
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>((of_call?, of_channel?, without?))
    })?;
    let rows = [
        ("the call's timeout of 2 s", &of_call, GIVEN + SLACK),
        ("the channel's timeout of 2 s", &of_channel, GIVEN + SLACK),
        ("no timeout", &without, SILENT),
    ];
    let mut table = "a node that hangs, and whose methods are unknown: one call ends".to_owned();
    for (what, ended, limit) in rows {
        table.push_str(&format!(
            "\n  {what:<28} after {:>5.1} s ({}); at most {:.1} s",
            secs(ended),
            ended.how,
            limit.as_secs_f64()
        ));
    }
    let json: Vec<_> =
        rows.iter().map(|(what, ended, _)| json!({"with": what, "after_s": rounded(secs(ended)), "ended": ended.how})).collect();
    let late = rows.iter().filter(|(_, ended, limit)| ended.after > *limit);
    let failures = late
        .map(|(what, ended, _)| format!("with {what} a call ends after {:.1} s", secs(ended)))
        .collect();
    Ok(Figures {
        table,
        json: json.into(),
        failures,
    })
}

fn secs(ended: &EndedCall) -> f64 {
    ended.after.as_secs_f64()
}

async fn call(of_call: Option<Duration>, of_channel: Option<Duration>) -> Result<EndedCall> {
    let server = Server::start(Script::First(vec![Behavior::Hang; 64]), 1).await?;
    let registry = MemoryRegistry::new();
    let mut service = Service::new("go");
    let mut node = Node::with_id("go", "1", server.address().to_string());
    node.metadata.insert(keys::PROTOCOL, "grpc");
    service.nodes.push(node);
    registry.faults().put_raw("go", "go-1", service.to_json());
    let client = Client::new(AnyRegistry::new(registry));
    let builder = client.channel_builder("go");
    let channel = of_channel
        .into_iter()
        .fold(builder, waypost::ChannelBuilder::default_timeout)
        .build()?;
    let mut request = Request::new(HelloRequest {
        name: "Ann".to_owned(),
    });
    of_call
        .into_iter()
        .for_each(|timeout| request.set_timeout(timeout));
    let start = Instant::now();
    let how = match timeout(CAP, GreeterClient::new(channel).hello(request)).await {
        Ok(Ok(_)) => "answered".to_owned(),
        Ok(Err(status)) => format!("{:?}", status.code()),
        Err(_) => format!("given up after {CAP:?}"),
    };
    let after = start.elapsed();
    client.close().await;
    server.close().await;
    Ok(EndedCall { after, how })
}
