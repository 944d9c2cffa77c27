//! Panics of user code cost at most the calls that run into them, never the service, the client or
//! a permit.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use http::{HeaderMap, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinError;
use waypost_core::balance::{
    BuildContext, Decision, Filter, PickContext, Picker, ReadySet, Strategy,
};
use waypost_core::peer::{AttemptObserver, Exclusion, Finished};
use waypost_core::record::{Address, Service};
use waypost_core::registry::{
    AnyRegistry, DeregisterOptions, Event, Options, RegisterOptions, Registry, Result,
    WatchOptions, Watcher,
};
use waypost_http::{
    AddressPolicy, BodyError, BoxError, BoxIo, ChannelConfig, ClientConfig, Connect, Connecting,
    Protocol, ResponseClass, ServiceChannel,
};

use crate::net::{Net, Plain, World, call};

const LONG: Duration = Duration::from_secs(5);

/// Trigger of one panic, at the place that it was set for.
#[derive(Clone, Debug, Default)]
struct Bomb(Arc<AtomicUsize>);

impl Bomb {
    fn set(&self, place: usize) {
        self.0.store(place, Relaxed);
    }

    /// Panics if it was set for this place; places are numbered from one.
    fn at(&self, place: usize) {
        if self.0.compare_exchange(place, 0, Relaxed, Relaxed).is_ok() {
            panic!("by the test, at {place}");
        }
    }

    fn has_gone_off(&self) -> bool {
        self.0.load(Relaxed) == 0
    }
}

/// Starts a node that allows one stream at a time, so that a leaked permit is detected at once.
async fn narrow(world: &World) -> crate::net::Host {
    let host = world.host("a").await;
    host.limit_streams(1);
    host
}

/// Asserts that calls on the same channel and on a new one are answered, one after another, and
/// that nothing stays in flight.
async fn assert_well(world: &World, sender: &ServiceChannel, what: &str) {
    for sender in [sender, &world.sender()] {
        for _ in 0..10 {
            let answered = tokio::time::timeout(LONG, call(sender, "/act", "hi")).await;
            answered
                .expect(what)
                .unwrap_or_else(|error| panic!("{what}: {error}"));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(sender.snapshot().nodes[0].in_flight, 0, "{what}");
    }
}

/// Makes a call in its own task, as most servers do.
async fn call_in_task(
    sender: &ServiceChannel,
    path: &'static str,
    body: &'static str,
) -> Result<String, JoinError> {
    let sender = sender.clone();
    let made = tokio::spawn(async move {
        call(&sender, path, body)
            .await
            .map_or_else(|error| error.to_string(), |(_, _, text)| text)
    });
    made.await
}

/// Connector through the network that panics in `connect` (1), in its future (2), or in the methods
/// of its byte stream (3 to 7).
#[derive(Debug)]
struct Shaky(Net, Bomb);

impl Connect for Shaky {
    fn connect<'a>(&'a self, address: &'a Address, policy: &'a AddressPolicy) -> Connecting<'a> {
        self.1.at(1);
        Box::pin(async move {
            self.1.at(2);
            let io = self.0.connect(address, policy).await?;
            Ok(Box::new(ShakyIo(io, self.1.clone())) as BoxIo)
        })
    }
}

struct ShakyIo(BoxIo, Bomb);

impl AsyncRead for ShakyIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.1.at(3);
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for ShakyIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.1.at(4);
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.1.at(5);
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.1.at(6);
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl Drop for ShakyIo {
    fn drop(&mut self) {
        self.1.at(7);
    }
}

fn shaky() -> (World, Bomb) {
    let bomb = Bomb::default();
    let world = World::through(ClientConfig::default(), AnyRegistry::new, |net| {
        Shaky(net, bomb.clone())
    });
    (world, bomb)
}

#[tokio::test(start_paused = true)]
async fn a_connector_that_panics_once_is_asked_again() {
    for (place, what) in [(1, "before its future"), (2, "in its future")] {
        let (world, bomb) = shaky();
        let host = narrow(&world).await;
        bomb.set(place);
        let sender = world.sender();
        assert_well(&world, &sender, what).await;
        assert!(bomb.has_gone_off(), "{what}");
        assert_eq!(host.dialled.load(Relaxed), 1, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connector_that_always_panics_is_named_and_backs_off() {
    #[derive(Debug)]
    struct Broken(Arc<AtomicUsize>);

    impl Connect for Broken {
        fn connect<'a>(&'a self, _: &'a Address, _: &'a AddressPolicy) -> Connecting<'a> {
            self.0.fetch_add(1, Relaxed);
            panic!("no way");
        }
    }

    let dials = Arc::new(AtomicUsize::new(0));
    let world = World::through(ClientConfig::default(), AnyRegistry::new, |_| {
        Broken(Arc::clone(&dials))
    });
    world.host("a").await;
    let error = world
        .sender()
        .ready(Duration::from_secs(60))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("panicked: no way"), "{error}");
    let dials = dials.load(Relaxed);
    assert!((10..=60).contains(&dials), "{dials} dials in a minute");
}

#[tokio::test(start_paused = true)]
async fn a_connection_whose_stream_of_bytes_panics_is_replaced() {
    for (place, what) in [
        (3, "poll_read"),
        (4, "poll_write"),
        (5, "poll_flush"),
        (6, "poll_shutdown"),
        (7, "drop"),
    ] {
        let (world, bomb) = shaky();
        let host = world.host("a").await;
        let sender = world.sender();
        call(&sender, "/act", "hi").await.unwrap();
        bomb.set(place);
        if place >= 6 {
            // The connection ends in order, which is when these methods are called.
            host.drain();
        }
        let answered = call_in_task(&sender, "/look", "hi").await;
        assert_eq!(
            answered.expect(what),
            "hi",
            "{what}: a call that may be sent twice is answered"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_well(&world, &sender, what).await;
        assert!(bomb.has_gone_off(), "{what}");
        assert!(
            host.dialled.load(Relaxed) >= 2,
            "{what}: the connection was replaced"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_filter_that_panics_on_a_node_leaves_out_that_node_alone() {
    let world = World::new();
    let hosts = [
        world.host("a").await,
        world.host("b").await,
        world.host("c").await,
    ];
    let mut config = ChannelConfig::default();
    config.balance.filters.push(Filter::predicate(|entry| {
        assert_ne!(entry.node.id, "echo-b", "by the test");
        true
    }));
    let sender = world.sender_with(config);
    for _ in 0..40 {
        call(&sender, "/act", "hi").await.unwrap();
    }
    let requests = hosts.each_ref().map(|host| host.requests.load(Relaxed));
    assert!(
        requests[0] > 0 && requests[1] == 0 && requests[2] > 0,
        "{requests:?}"
    );
    let excluded = Decision::Excluded(Exclusion::Predicate);
    assert_eq!(
        sender
            .snapshot()
            .nodes
            .iter()
            .filter(|node| node.decision == excluded)
            .count(),
        1
    );
    assert_well(&world, &sender, "filter").await;
}

/// Strategy that picks the first node, and panics in `build` (1), `pick` (2), `observer` (3), or
/// when an attempt has finished (4).
#[derive(Clone, Debug)]
struct ShakyFirst(Bomb);

impl Strategy for ShakyFirst {
    fn name(&self) -> &'static str {
        "shaky_first"
    }

    fn build(&self, _: &ReadySet, _: &mut BuildContext<'_>) -> Box<dyn Picker> {
        self.0.at(1);
        Box::new(self.clone())
    }
}

impl Picker for ShakyFirst {
    fn pick(&self, _: &ReadySet, _: &PickContext<'_>) -> usize {
        self.0.at(2);
        0
    }

    fn observer(&self, _: usize) -> Option<Arc<dyn AttemptObserver>> {
        self.0.at(3);
        Some(Arc::new(self.clone()))
    }
}

impl AttemptObserver for ShakyFirst {
    fn finished(&self, _: &Finished) {
        self.0.at(4);
    }
}

#[tokio::test(start_paused = true)]
async fn a_strategy_that_panics_loses_no_call() {
    for (place, what) in [(1, "build"), (2, "pick"), (3, "observer"), (4, "finished")] {
        let world = World::new();
        let host = narrow(&world).await;
        let bomb = Bomb::default();
        bomb.set(place);
        let mut config = ChannelConfig::default();
        config.balance.strategy = Arc::new(ShakyFirst(bomb.clone()));
        let sender = world.sender_with(config);
        for _ in 0..3 {
            assert_eq!(
                call_in_task(&sender, "/act", "hi").await.expect(what),
                "hi",
                "{what}"
            );
        }
        assert!(bomb.has_gone_off(), "{what}");
        assert_well(&world, &sender, what).await;
        assert_eq!(host.dialled.load(Relaxed), 1, "{what}");
    }
}

/// Memory registry that panics in `watch` (1), in its future (2), or when its watcher is polled
/// (3).
#[derive(Debug)]
struct ShakyRegistry(waypost_core::memory::MemoryRegistry, Bomb);

impl Registry for ShakyRegistry {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn options(&self) -> &Options {
        self.0.options()
    }

    async fn register(&self, service: &Service, options: &RegisterOptions) -> Result<()> {
        self.0.register(service, options).await
    }

    async fn deregister(&self, service: &Service, options: &DeregisterOptions) -> Result<()> {
        self.0.deregister(service, options).await
    }

    async fn get_service(&self, name: &str) -> Result<Vec<Service>> {
        self.0.get_service(name).await
    }

    async fn list_services(&self) -> Result<Vec<Service>> {
        self.0.list_services().await
    }

    fn watch(&self, options: &WatchOptions) -> impl Future<Output = Result<Watcher>> + Send {
        self.1.at(1);
        let options = options.clone();
        async move {
            self.1.at(2);
            Ok(Watcher::new(ShakyWatcher(
                self.0.watch(&options).await?,
                self.1.clone(),
            )))
        }
    }

    async fn close(&self) -> Result<()> {
        self.0.close().await
    }
}

struct ShakyWatcher(Watcher, Bomb);

impl Stream for ShakyWatcher {
    type Item = Result<Event>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Event>>> {
        self.1.at(3);
        Pin::new(&mut self.0).poll_next(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_panics_once_is_watched_again() {
    for (place, what) in [(1, "watch"), (2, "the future of watch"), (3, "the watcher")] {
        let bomb = Bomb::default();
        bomb.set(place);
        let inside = bomb.clone();
        let registry = |memory| AnyRegistry::new(ShakyRegistry(memory, inside));
        let world = World::through(ClientConfig::default(), registry, |net| net);
        narrow(&world).await;
        let sender = world.sender();
        assert_well(&world, &sender, what).await;
        assert!(bomb.has_gone_off(), "{what}");
        bomb.set(3);
        world.leave("a").await;
        narrow(&world).await;
        tokio::time::sleep(LONG).await;
        assert_well(&world, &sender, "the watcher, later").await;
        assert!(bomb.has_gone_off());
    }
}

/// Protocol of plain HTTP; each method panics at a place of its own.
#[derive(Debug)]
struct ShakyProtocol(Bomb);

impl Protocol for ShakyProtocol {
    fn timeout(&self, headers: &HeaderMap) -> Option<Duration> {
        self.0.at(1);
        Plain.timeout(headers)
    }

    fn prepare(&self, headers: &mut HeaderMap, earlier_attempts: u32, remaining: Option<Duration>) {
        self.0.at(2);
        Plain.prepare(headers, earlier_attempts, remaining);
    }

    fn classify_head(&self, status: StatusCode, headers: &HeaderMap) -> ResponseClass {
        self.0.at(3);
        Plain.classify_head(status, headers)
    }

    fn classify_trailers(&self, trailers: &HeaderMap) -> ResponseClass {
        self.0.at(4);
        Plain.classify_trailers(trailers)
    }

    fn body_error(&self, error: BodyError) -> BoxError {
        self.0.at(5);
        Plain.body_error(error)
    }
}

/// The panic is passed to the caller, whose mistake it is; the node's one stream is free again.
#[tokio::test(start_paused = true)]
async fn a_protocol_that_panics_costs_the_one_call() {
    for (place, body, what) in [
        (1, "hi", "timeout"),
        (2, "hi", "prepare"),
        (3, "hi", "classify_head"),
        (4, "late unavailable", "classify_trailers"),
        (5, "half", "body_error"),
    ] {
        let world = World::new();
        let host = narrow(&world).await;
        let bomb = Bomb::default();
        let sender = world.client.channel(
            "echo".parse().unwrap(),
            ChannelConfig::default(),
            Arc::new(ShakyProtocol(bomb.clone())),
        );
        call(&sender, "/act", "hi").await.unwrap();
        bomb.set(place);
        let breaks_off = body == "half";
        let made = call_in_task(&sender, "/look", body);
        let breaks = async {
            if breaks_off {
                tokio::time::sleep(Duration::from_millis(50)).await;
                host.break_off();
            }
        };
        let (made, ()) = tokio::join!(made, breaks);
        assert!(made.unwrap_err().is_panic(), "{what}");
        assert!(bomb.has_gone_off(), "{what}");
        assert_well(&world, &sender, what).await;
        assert!(breaks_off || host.dialled.load(Relaxed) == 1, "{what}");
    }
}
