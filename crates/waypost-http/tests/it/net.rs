//! Network in memory, behind the `Connect` interface: real HTTP/2 servers, and hosts that freeze,
//! die, drain or never send anything.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use h2::server::{self, SendResponse};
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, JoinSet};

use waypost_core::memory::MemoryRegistry;
use waypost_core::record::{Address, Endpoint, Node, Service, keys};
use waypost_core::registry::{AnyRegistry, Instance, RegisterOptions, Registry};
use waypost_http::{
    AddressPolicy, BodyError, BoxError, BoxIo, CallError, ChannelConfig, Client, ClientConfig,
    Connect, Connecting, Protocol, Pushback, ResponseBody, ResponseClass, ServedBy, ServiceChannel,
};

use crate::freezing::Freezing;
use crate::hostility::Hostility;
use crate::raw::{self, Script};

/// Environment of one test: a registry, hosts, and a client.
pub(crate) struct World {
    pub(crate) memory: MemoryRegistry,
    pub(crate) net: Net,
    pub(crate) client: Client,
    instance: Instance,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(ClientConfig::default())
    }

    pub(crate) fn with(config: ClientConfig) -> Self {
        Self::through(config, AnyRegistry::new, |net| net)
    }

    /// Creates a client that uses the registry and the network through a test's wrappers.
    pub(crate) fn through<C: Connect>(
        config: ClientConfig,
        registry: impl FnOnce(MemoryRegistry) -> AnyRegistry,
        connect: impl FnOnce(Net) -> C,
    ) -> Self {
        let memory = MemoryRegistry::new();
        let net = Net::default();
        let client = Client::with_connect(registry(memory.open()), config, connect(net.clone()));
        Self {
            memory,
            net,
            client,
            instance: Instance::random(),
        }
    }

    /// Starts and registers a host.
    pub(crate) async fn host(&self, name: &str) -> Host {
        let host = self.net.host_of(name);
        self.register(name).await;
        host
    }

    /// Starts and registers hosts named `n0`, `n1` and so on.
    pub(crate) async fn hosts(&self, count: usize) -> Vec<Host> {
        let mut hosts = Vec::new();
        for i in 0..count {
            hosts.push(self.host(&format!("n{i}")).await);
        }
        hosts
    }

    pub(crate) async fn register(&self, name: &str) {
        self.register_for(name, Duration::from_secs(3600)).await;
    }

    /// Registers a node that is never refreshed.
    pub(crate) async fn register_for(&self, name: &str, ttl: Duration) {
        self.register_service(&service(name), ttl).await;
    }

    pub(crate) async fn register_service(&self, service: &Service, ttl: Duration) {
        let options = RegisterOptions {
            ttl,
            instance: self.instance.clone(),
        };
        self.memory.register(service, &options).await.unwrap();
    }

    /// Registers the host again, with an additional label.
    pub(crate) async fn relabel(&self, name: &str) {
        let mut service = service(name);
        service.nodes[0].metadata.insert("label", "new");
        let options = RegisterOptions {
            ttl: Duration::from_secs(3600),
            instance: self.instance.clone(),
        };
        self.memory.register(&service, &options).await.unwrap();
    }

    pub(crate) async fn leave(&self, name: &str) {
        let options = waypost_core::registry::DeregisterOptions::force();
        self.memory
            .deregister(&service(name), &options)
            .await
            .unwrap();
    }

    /// Returns another client of the same registry and network.
    pub(crate) fn another_client(&self) -> Client {
        Client::with_connect(
            AnyRegistry::new(self.memory.open()),
            ClientConfig::default(),
            self.net.clone(),
        )
    }

    pub(crate) fn sender(&self) -> ServiceChannel {
        self.sender_with(ChannelConfig::default())
    }

    pub(crate) fn sender_with(&self, config: ChannelConfig) -> ServiceChannel {
        sender_of(&self.client, config)
    }
}

/// Returns a channel of any client to the one service.
pub(crate) fn sender_of(client: &Client, config: ChannelConfig) -> ServiceChannel {
    client.channel("echo".parse().unwrap(), config, Arc::new(Plain))
}

fn address_of(name: &str) -> String {
    format!("{name}.test:80")
}

/// Returns a service with one method that may be sent twice, `/look`, and one that may not, `/act`;
/// `/flow` streams.
pub(crate) fn service(node: &str) -> Service {
    let mut service = Service::new("echo");
    for (name, path, extra) in [
        ("E.Look", "/look", Some(keys::IDEMPOTENT)),
        ("E.Act", "/act", None),
        ("E.Flow", "/flow", Some(keys::STREAM)),
    ] {
        let mut endpoint = Endpoint {
            name: name.to_owned(),
            ..Endpoint::default()
        };
        endpoint.metadata.insert(keys::PATH, path);
        if let Some(key) = extra {
            endpoint.metadata.insert(key, "true");
        }
        service.endpoints.push(endpoint);
    }
    service
        .nodes
        .push(Node::with_id("echo", node, address_of(node)));
    service
}

/// Name of the node, number of attempts and body of a response.
pub(crate) type Answer = Result<(String, u32, String), CallError>;

/// Makes a call; returns the node that answered, the number of attempts, and the body.
pub(crate) async fn call(sender: &ServiceChannel, path: &str, body: &str) -> Answer {
    let response = begin(sender, path, body, None).await?;
    let picked = response.extensions().get::<ServedBy>().unwrap().clone();
    let text = response.into_body().collect().await.map_or_else(
        |error| error.to_string(),
        |all| String::from_utf8(all.to_bytes().to_vec()).unwrap(),
    );
    Ok((
        picked.node.id.trim_start_matches("echo-").to_owned(),
        picked.attempts,
        text,
    ))
}

/// Makes `number` calls concurrently, each in its own task.
pub(crate) fn calls_at_once(
    sender: &ServiceChannel,
    number: usize,
    path: &'static str,
    body: &'static str,
) -> Vec<JoinHandle<Answer>> {
    let one = |_| {
        let sender = sender.clone();
        tokio::spawn(async move { call(&sender, path, body).await })
    };
    (0..number).map(one).collect()
}

pub(crate) async fn begin(
    sender: &ServiceChannel,
    path: &str,
    body: &str,
    timeout: Option<Duration>,
) -> Result<Response<ResponseBody>, CallError> {
    let mut request = Request::post(path);
    if let Some(timeout) = timeout {
        request = request.header("timeout-ms", timeout.as_millis().to_string());
    }
    sender
        .call(
            request
                .body(Full::new(Bytes::from(body.to_owned())))
                .unwrap(),
        )
        .await
}

/// Protocol of plain HTTP: status 503 means unavailable.
#[derive(Debug)]
pub(crate) struct Plain;

impl Protocol for Plain {
    fn timeout(&self, headers: &HeaderMap) -> Option<Duration> {
        headers
            .get("timeout-ms")
            .map(|ms| Duration::from_millis(ms.to_str().unwrap().parse().unwrap()))
    }

    fn prepare(&self, headers: &mut HeaderMap, earlier_attempts: u32, _: Option<Duration>) {
        headers.insert("attempt", earlier_attempts.into());
    }

    fn classify_head(&self, status: StatusCode, _: &HeaderMap) -> ResponseClass {
        match status {
            StatusCode::SERVICE_UNAVAILABLE => ResponseClass::Unavailable(Pushback::None),
            _ => ResponseClass::Success,
        }
    }

    fn classify_trailers(&self, trailers: &HeaderMap) -> ResponseClass {
        if trailers.contains_key("unavailable") {
            ResponseClass::Unavailable(Pushback::None)
        } else {
            ResponseClass::Success
        }
    }

    fn body_error(&self, error: BodyError) -> BoxError {
        Box::new(error)
    }
}

/// Hosts of the network, by address.
#[derive(Clone, Debug, Default)]
pub(crate) struct Net(Arc<Mutex<HashMap<String, Host>>>, Arc<Dials>);

/// Number of dials in all, now, and at most at one time; each takes 10 ms.
#[derive(Debug, Default)]
pub(crate) struct Dials {
    all: AtomicUsize,
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Net {
    /// Returns the number of dials of any address so far.
    pub(crate) fn dials(&self) -> usize {
        self.1.all.load(Relaxed)
    }

    pub(crate) fn most_dials_at_once(&self) -> usize {
        self.1.most.load(Relaxed)
    }

    /// Starts a host that is not registered.
    pub(crate) fn host_of(&self, name: &str) -> Host {
        let host = Host::default();
        self.0
            .lock()
            .unwrap()
            .insert(address_of(name), host.clone());
        host
    }
}

impl Connect for Net {
    fn connect<'a>(&'a self, address: &'a Address, _: &'a AddressPolicy) -> Connecting<'a> {
        Box::pin(async move {
            self.1.all.fetch_add(1, Relaxed);
            let dials = self.1.now.fetch_add(1, Relaxed) + 1;
            self.1.most.fetch_max(dials, Relaxed);
            tokio::time::sleep(Duration::from_millis(10)).await;
            self.1.now.fetch_sub(1, Relaxed);
            let host = self.0.lock().unwrap().get(&address.to_string()).cloned();
            if let Some(host) = &host {
                let delay = *host.dial_delay.lock().unwrap();
                tokio::time::sleep(delay).await;
            }
            host.and_then(|host| host.accept())
                .ok_or_else(|| io::Error::new(io::ErrorKind::ConnectionRefused, "refused"))
        })
    }
}

/// Host of the network.
#[derive(Clone, Debug, Default)]
pub(crate) struct Host(Arc<HostState>);

#[derive(Debug, Default)]
pub(crate) struct HostState {
    down: watch::Sender<bool>,
    pub(crate) frozen: watch::Sender<bool>,
    mute: watch::Sender<bool>,
    pub(crate) forgotten: AtomicUsize,
    hostility: Mutex<Option<Hostility>>,
    dial_delay: Mutex<Duration>,
    refusing: watch::Sender<usize>,
    drain: Notify,
    calm: Notify,
    limit: Mutex<Option<u32>>,
    header_limit: Mutex<Option<u32>>,
    script: Mutex<Option<Script>>,
    connections: Mutex<JoinSet<()>>,
    pub(crate) dialled: AtomicUsize,
    pub(crate) open: AtomicUsize,
    /// Number of connections that ended with an error.
    pub(crate) broken: AtomicUsize,
    pub(crate) requests: AtomicUsize,
    /// Number of requests whose scheme is https.
    pub(crate) encrypted: AtomicUsize,
    pub(crate) resets: AtomicUsize,
    pub(crate) pings: AtomicUsize,
    pub(crate) answers: Notify,
}

impl std::ops::Deref for Host {
    type Target = HostState;

    fn deref(&self) -> &HostState {
        &self.0
    }
}

impl Host {
    /// Stops and resumes the host's process, as by SIGSTOP and SIGCONT: connections are still
    /// accepted.
    pub(crate) fn freeze(&self, frozen: bool) {
        self.frozen.send_replace(frozen);
    }

    /// Kills the host: its connections break, and no new ones are accepted.
    pub(crate) fn kill(&self) {
        self.down.send_replace(true);
        self.break_off();
    }

    /// Breaks the host's connections; new ones are accepted.
    pub(crate) fn break_off(&self) {
        self.connections.lock().unwrap().abort_all();
    }

    /// Revives the host after it was killed.
    pub(crate) fn revive(&self) {
        self.down.send_replace(false);
    }

    /// Makes the host misbehave on every new connection instead of serving it; none: serves again.
    pub(crate) fn turn(&self, hostility: impl Into<Option<Hostility>>) {
        *self.hostility.lock().unwrap() = hostility.into();
    }

    /// Delays each dial of the host by this time.
    pub(crate) fn delay_dials(&self, delay: Duration) {
        *self.dial_delay.lock().unwrap() = delay;
    }

    /// Makes the host accept connections and never send anything.
    pub(crate) fn mute(&self) {
        self.mute.send_replace(true);
    }

    /// Makes the network drop the existing connections silently, as a firewall does: data sent on
    /// them is discarded from now on.
    pub(crate) fn forget_connections(&self) {
        self.forgotten.fetch_add(1, Relaxed);
    }

    /// Makes the host reset the next `n` requests as not processed.
    pub(crate) fn refuse(&self, n: usize) {
        self.refusing.send_replace(n);
    }

    /// Makes new connections of the host run this script for each request.
    pub(crate) fn obey(&self, script: Script) {
        *self.script.lock().unwrap() = Some(script);
    }

    pub(crate) fn limit_streams(&self, limit: u32) {
        *self.limit.lock().unwrap() = Some(limit);
    }

    /// Makes new connections of the host announce and enforce this limit of header bytes.
    pub(crate) fn limit_headers(&self, limit: u32) {
        *self.header_limit.lock().unwrap() = Some(limit);
    }

    /// Sends GOAWAY on every connection, which then finishes its streams.
    pub(crate) fn drain(&self) {
        self.drain.notify_waiters();
    }

    /// Closes every connection with `ENHANCE_YOUR_CALM`, as for too many PINGs.
    pub(crate) fn ask_for_calm(&self) {
        self.calm.notify_waiters();
    }

    fn accept(&self) -> Option<BoxIo> {
        self.dialled.fetch_add(1, Relaxed);
        if *self.down.borrow() {
            return None;
        }
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        if let Some(script) = *self.script.lock().unwrap() {
            let host = self.clone();
            self.connections.lock().unwrap().spawn(async move {
                // The reason of the end is reported by the client.
                let _ = raw::serve(theirs, host, script).await;
            });
        } else if let Some(hostility) = *self.hostility.lock().unwrap() {
            self.connections
                .lock()
                .unwrap()
                .spawn(hostility.treat(theirs));
        } else if *self.mute.borrow() {
            self.connections.lock().unwrap().spawn(async move {
                let _kept = theirs;
                std::future::pending::<()>().await;
            });
        } else {
            let io = Freezing::new(theirs, self.clone());
            self.connections
                .lock()
                .unwrap()
                .spawn(self.clone().serve(io));
        }
        Some(Box::new(ours))
    }

    async fn serve(self, io: Freezing) {
        let _open = Counted::new(self.clone());
        let mut builder = server::Builder::new();
        if let Some(limit) = *self.limit.lock().unwrap() {
            builder.max_concurrent_streams(limit);
        }
        if let Some(limit) = *self.header_limit.lock().unwrap() {
            builder.max_header_list_size(limit);
        }
        let Ok(mut connection) = builder.handshake::<_, Bytes>(io).await else {
            return;
        };
        let mut handlers = JoinSet::new();
        let mut drain = std::pin::pin!(self.drain.notified());
        let mut calm = std::pin::pin!(self.calm.notified());
        let mut draining = false;
        let mut calmed = false;
        loop {
            tokio::select! {
                request = connection.accept() => match request {
                    Some(Ok((request, respond))) => { handlers.spawn(self.clone().answer(request, respond)); }
                    end => {
                        self.broken.fetch_add(usize::from(end.is_some()), Relaxed);
                        break;
                    }
                },
                () = &mut calm, if !calmed => {
                    calmed = true;
                    connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                }
                () = &mut drain, if !draining => {
                    draining = true;
                    connection.graceful_shutdown();
                }
            }
        }
        while handlers.join_next().await.is_some() {}
    }

    /// Acts as the request's body instructs.
    async fn answer(self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        self.requests.fetch_add(1, Relaxed);
        self.encrypted.fetch_add(
            usize::from(request.uri().scheme_str() == Some("https")),
            Relaxed,
        );
        let refused = self.refusing.send_if_modified(|left| {
            let refuse = *left > 0;
            *left = left.saturating_sub(1);
            refuse
        });
        if refused {
            respond.send_reset(Reason::REFUSED_STREAM);
            return;
        }
        let attempt = request.headers().get("attempt").cloned().unwrap();
        let streams = request.uri().path() == "/flow";
        let mut body = request.into_body();
        if streams {
            let response = Response::builder()
                .header("attempt", attempt)
                .body(())
                .unwrap();
            let Ok(mut stream) = respond.send_response(response, false) else {
                return;
            };
            while let Some(Ok(piece)) = body.data().await {
                let _ = body.flow_control().release_capacity(piece.len());
                if stream.send_data(piece, false).is_err() {
                    return;
                }
            }
            let _ = stream.send_data(Bytes::new(), true);
            return;
        }
        let mut order = Vec::new();
        while let Some(Ok(piece)) = body.data().await {
            let _ = body.flow_control().release_capacity(piece.len());
            order.extend_from_slice(&piece);
        }
        let order = String::from_utf8(order).unwrap();
        if let Some(ms) = order.strip_prefix("sleep ") {
            let nap = tokio::time::sleep(Duration::from_millis(ms.parse().unwrap()));
            tokio::select! {
                () = nap => {}
                _ = std::future::poll_fn(|cx| respond.poll_reset(cx)) => {
                    self.resets.fetch_add(1, Relaxed);
                    return;
                }
            }
        }
        if order == "wait" {
            self.answers.notified().await;
        }
        if order == "reset" {
            respond.send_reset(Reason::INTERNAL_ERROR);
            return;
        }
        let status = if order == "unavailable" { 503 } else { 200 };
        let response = Response::builder()
            .status(status)
            .header("attempt", attempt)
            .body(())
            .unwrap();
        let Ok(mut stream) = respond.send_response(response, false) else {
            return;
        };
        if order == "late unavailable" {
            let trailers =
                HeaderMap::from_iter([("unavailable".parse().unwrap(), "1".parse().unwrap())]);
            let _ = stream.send_trailers(trailers);
            return;
        }
        if let Some(ms) = order.strip_prefix("begin ") {
            tokio::time::sleep(Duration::from_millis(ms.parse().unwrap())).await;
        }
        if order == "half" {
            let _ = stream.send_data(Bytes::from_static(b"half"), false);
            std::future::pending::<()>().await;
        }
        let length = order.len();
        stream.reserve_capacity(length);
        let _ = stream.send_data(Bytes::from(order), true);
    }
}

struct Counted(Host);

impl Counted {
    fn new(host: Host) -> Self {
        host.open.fetch_add(1, Relaxed);
        Self(host)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}
