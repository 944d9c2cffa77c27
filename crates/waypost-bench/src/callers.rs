//! `bench callers`: many callers at one node with few streams, beside tonic's channel in the same
//! run; more streams than one connection allows; and limits that rise while calls wait.

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tonic::Streaming;
use waypost::record::Service;
use waypost::{AnyRegistry, Client, MemoryRegistry};
use waypost_greeter::echo::EchoMessage;
use waypost_greeter::echo::echo_client::EchoClient;
use waypost_greeter::greeter::greeter_client::GreeterClient;
use waypost_greeter::{echo, greeter};
use waypost_testkit::hostile::{Behavior, Script, Server};
use waypost_testkit::report::{Figures, Result, one_thread, rounded};

use crate::load::{Caller, Calls, closed_loop};
use crate::options::BenchOptions;
use crate::servers::BenchServer;

const CALLERS: [u64; 3] = [64, 200, 1_000];
const STREAMS: u32 = 4;
const TAKES: Duration = Duration::from_millis(20);
/// Number of streams that are held open at one time, and the stream limits of the servers.
const HELD: usize = 800;
const LIMITS: [u32; 2] = [100, 200];
/// Maximum time for one stream to begin.
const BEGIN: Duration = Duration::from_secs(10);
/// Limits that rise to 100, and the number of calls that wait for it.
const RISING: [u32; 2] = [0, 1];
const WAITING: usize = 50;
/// Maximum time for waiting calls after the limit has risen.
const AT_ONCE: Duration = Duration::from_millis(500);

pub(crate) fn run(options: &BenchOptions) -> Result<Figures> {
    let time = Duration::from_secs(options.number("seconds", 8)?);
    let callers = options.numbers("callers", &CALLERS)?;
    one_thread()?.block_on(async {
        let mut report = CallersReport::default();
        for callers in callers {
            report.crowd(usize::try_from(callers)?, time).await?;
        }
        for limit in LIMITS {
            report.streams(limit, Begin::AtOnce).await?;
            report.streams(limit, Begin::OneByOne).await?;
        }
        for limit in RISING {
            report.rising(limit).await?;
        }
        Ok(report.figures())
    })
}

/// Order in which streams are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begin {
    AtOnce,
    OneByOne,
}

#[derive(Default)]
struct CallersReport {
    table: String,
    crowds: Vec<Value>,
    streams: Vec<Value>,
    rising: Vec<Value>,
    failures: Vec<String>,
}

impl CallersReport {
    async fn crowd(&mut self, callers: usize, time: Duration) -> Result<()> {
        let server = BenchServer::start(STREAMS, TAKES).await?;
        let (client, mine) = ours(&server.address).await?;
        let theirs = tonic::transport::Endpoint::from_shared(format!("http://{}", server.address))?
            .connect_lazy();
        let theirs = GreeterClient::new(theirs);
        let (mut waypost, mut tonic) = (Calls::default(), Calls::default());
        for turn in 0..2 {
            // Each side gets half of the time, in both orders.
            let first = turn == 0;
            if first {
                waypost.add(turned(&mine, callers, time).await);
            }
            tonic.add(turned(&theirs, callers, time).await);
            if !first {
                waypost.add(turned(&mine, callers, time).await);
            }
        }
        client.close().await;
        // Writing to a string does not fail.
        let _ = writeln!(
            self.table,
            "{callers} callers at one node, {STREAMS} streams a connection, {TAKES:?} a call"
        );
        let _ = writeln!(
            self.table,
            "  waypost  {}\n  tonic    {}",
            waypost.shown(),
            tonic.shown()
        );
        if waypost.failed > tonic.failed {
            self.failures.push(format!(
                "{} calls of {callers} callers failed, {} of tonic's",
                waypost.failed, tonic.failed
            ));
        }
        self.crowds
            .push(json!({ "callers": callers, "waypost": waypost.json(), "tonic": tonic.json() }));
        Ok(())
    }

    async fn streams(&mut self, limit: u32, begin: Begin) -> Result<()> {
        let server = BenchServer::start(limit, TAKES).await?;
        let (client, channel) = channel(&server.address, echo::FILE_DESCRIPTOR_SET).await?;
        let start = Instant::now();
        let begun = match begin {
            Begin::AtOnce => at_once(&channel).await,
            Begin::OneByOne => one_by_one(&channel).await,
        };
        let seconds = start.elapsed().as_secs_f64();
        client.close().await;
        let how = if begin == Begin::AtOnce {
            "at once"
        } else {
            "one by one"
        };
        let _ = writeln!(
            self.table,
            "{HELD} streams, {limit} a connection, begun {how}: {begun} begin, in {seconds:.2} s"
        );
        if begun < HELD {
            self.failures.push(format!(
                "{begun} of {HELD} streams begin {how} at {limit} a connection"
            ));
        }
        self.streams.push(json!({ "limit": limit, "begun": how, "streams": HELD, "begin": begun, "seconds": rounded(seconds) }));
        Ok(())
    }

    async fn rising(&mut self, limit: u32) -> Result<()> {
        let server = Server::start(Script::First(vec![Behavior::Limit(limit); 64]), 1).await?;
        let (client, caller) = ours(&server.address().to_string()).await?;
        let mut calls = JoinSet::new();
        for _ in 0..WAITING {
            let mut caller = caller.clone();
            calls.spawn(async move { Caller::hello(&mut caller).await.is_ok() });
        }
        sleep(Duration::from_secs(1)).await;
        let start = Instant::now();
        server.heal();
        let answered = calls
            .join_all()
            .await
            .into_iter()
            .filter(|answered| *answered)
            .count();
        let took = start.elapsed();
        client.close().await;
        let ms = took.as_secs_f64() * 1e3;
        let _ = writeln!(
            self.table,
            "{WAITING} calls wait for a limit of {limit}, which rises to 100: {answered} answered, the last after {ms:.0} ms"
        );
        if answered < WAITING || took > AT_ONCE {
            self.failures.push(format!("a limit that rises from {limit}: {answered} of {WAITING} answered, after {ms:.0} ms"));
        }
        self.rising.push(
            json!({ "limit": limit, "waiting": WAITING, "answered": answered, "ms": rounded(ms) }),
        );
        Ok(())
    }

    fn figures(self) -> Figures {
        let json = json!({ "crowds": self.crowds, "streams": self.streams, "rising": self.rising });
        Figures {
            table: self.table,
            json,
            failures: self.failures,
        }
    }
}

/// Calls for half of the time, after a first call that connects.
async fn turned(caller: &impl Caller, callers: usize, time: Duration) -> Calls {
    let _ = caller.clone().hello().await;
    closed_loop(caller, callers, time / 2).await
}

async fn at_once(channel: &waypost::Channel) -> usize {
    let mut opened = JoinSet::new();
    for _ in 0..HELD {
        let channel = channel.clone();
        opened.spawn(async move { begin(&channel).await });
    }
    opened.join_all().await.into_iter().flatten().count()
}

async fn one_by_one(channel: &waypost::Channel) -> usize {
    let mut held = Vec::new();
    for _ in 0..HELD {
        match begin(channel).await {
            Some(stream) => held.push(stream),
            // The next streams would wait as long.
            None => break,
        }
    }
    held.len()
}

/// Opens a stream and returns it once its first message has arrived.
async fn begin(channel: &waypost::Channel) -> Option<Streaming<EchoMessage>> {
    let word = EchoMessage {
        text: "one".to_owned(),
        ..EchoMessage::default()
    };
    let begun = async {
        let mut stream = EchoClient::new(channel.clone())
            .server_streaming_echo(word)
            .await
            .ok()?
            .into_inner();
        stream.message().await.ok()??;
        Some(stream)
    };
    timeout(BEGIN, begun).await.ok().flatten()
}

async fn ours(address: &str) -> Result<(Client, GreeterClient<waypost::Channel>)> {
    let (client, channel) = channel(address, greeter::FILE_DESCRIPTOR_SET).await?;
    Ok((client, GreeterClient::new(channel)))
}

/// Creates a channel to one node with the record that a Waypost server writes.
async fn channel(address: &str, descriptor: &[u8]) -> Result<(Client, waypost::Channel)> {
    let registry = MemoryRegistry::new();
    let mut service = Service::new("node");
    service.endpoints = waypost::descriptor::endpoints(descriptor)?.into();
    let mut node = waypost::record::Node::with_id("node", "1", address);
    node.metadata.insert("protocol", "grpc");
    service.nodes.push(node);
    registry
        .faults()
        .put_raw("node", "node-1", service.to_json());
    let client = Client::new(AnyRegistry::new(registry));
    let channel = client.channel("node")?;
    Ok((client, channel))
}
