//! Test servers that act by the request's path, and connections to them.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::server::{self, SendResponse};
use h2::{RecvStream, SendStream};
use http::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::watch;
use tokio::task::JoinSet;
use waypost_core::record::Address;

use crate::conn::connect::{AddressPolicy, BoxIo, Connect, Connecting};
use crate::conn::{
    CancelledStream, Connection, ConnectionConfig, ConnectionEvent, DialSlots, Dialer,
    EnhanceYourCalm, EventSender,
};

/// Connector that calls a function for each dial.
pub(super) struct FnConnect<F>(pub(super) F);

impl<F> fmt::Debug for FnConnect<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FnConnect")
    }
}

impl<F> Connect for FnConnect<F>
where
    F: Fn(&Address) -> Connecting<'static> + Send + Sync + 'static,
{
    fn connect<'a>(&'a self, address: &'a Address, _: &'a AddressPolicy) -> Connecting<'a> {
        (self.0)(address)
    }
}

/// Dial in progress, and the events that it reported.
pub(super) struct Dialled {
    pub(super) events: UnboundedReceiver<ConnectionEvent>,
    pub(super) tasks: JoinSet<()>,
}

impl Dialled {
    pub(super) async fn next(&mut self) -> ConnectionEvent {
        self.events.recv().await.expect("an event")
    }

    pub(super) async fn ready(&mut self) -> Arc<Connection> {
        match self.next().await {
            ConnectionEvent::Ready(connection) => connection,
            other => panic!("not ready: {other:?}"),
        }
    }

    /// Skips to the end, which must be the last event.
    pub(super) async fn ended(&mut self) -> Result<(), Arc<str>> {
        loop {
            if let ConnectionEvent::Ended(result) = self.next().await {
                assert!(
                    self.events.recv().await.is_none(),
                    "something after the end"
                );
                return result;
            }
        }
    }
}

pub(super) fn dial(connect: impl Connect) -> Dialled {
    dial_with(
        Arc::new(connect),
        &ConnectionConfig::default(),
        &DialSlots::new(16),
        "127.0.0.1:1",
    )
}

pub(super) fn dial_with(
    connect: Arc<dyn Connect>,
    config: &ConnectionConfig,
    slots: &DialSlots,
    address: &str,
) -> Dialled {
    let (send, events) = unbounded_channel();
    let events_to = EventSender::new(move |event| drop(send.send(event)));
    let dialer = Dialer {
        service: Arc::from("echo"),
        address: address.parse().unwrap(),
        policy: AddressPolicy { loopback: true },
        connect,
        config: Arc::new(config.clone()),
        calm: EnhanceYourCalm::default(),
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(dialer.run(events_to, slots.clone()));
    Dialled { events, tasks }
}

pub(super) fn boxed(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> BoxIo {
    Box::new(io)
}

/// Returns a connector to one server in memory, over a pair of pipes for each dial, until the
/// server's task is dropped; and the switch that freezes the server.
pub(super) fn memory_server() -> (impl Connect, watch::Sender<bool>) {
    let frozen = watch::Sender::new(false);
    let servers = std::sync::Mutex::new(JoinSet::new());
    let freeze = frozen.clone();
    let connect = FnConnect(move |_: &Address| -> Connecting<'static> {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let theirs = Freezing {
            io: theirs,
            frozen: freeze.subscribe(),
            thaw: None,
        };
        servers
            .lock()
            .unwrap()
            .spawn(serve(theirs, server::Builder::new()));
        Box::pin(async move { Ok(boxed(ours)) })
    });
    (connect, frozen)
}

/// Starts a server on a port of its own; dropping the returned tasks stops it.
pub(super) async fn tcp_server(builder: server::Builder) -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((io, _)) = listener.accept().await {
            io.set_nodelay(true).unwrap();
            connections.spawn(serve(io, builder.clone()));
        }
    });
    (address, tasks)
}

pub(super) async fn serve(io: impl AsyncRead + AsyncWrite + Unpin, builder: server::Builder) {
    let Ok(mut connection) = builder.handshake::<_, Bytes>(io).await else {
        return;
    };
    let mut handlers = JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        handlers.spawn(handle(request, respond));
    }
}

/// Responds to `/ok`, never responds to `/hang`, and sends N chunks of SIZE bytes for
/// `/flood/N/SIZE`.
async fn handle(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let path = request.uri().path().to_owned();
    let mut parts = path[1..].split('/');
    match parts.next() {
        Some("ok") => drop(respond.send_response(Response::new(()), true)),
        Some("flood") => {
            let [count, size] =
                [0; 2].map(|_: usize| parts.next().unwrap().parse::<usize>().unwrap());
            let Ok(mut stream) = respond.send_response(Response::new(()), false) else {
                return;
            };
            flood(&mut stream, count, size);
            std::future::poll_fn(|cx| stream.poll_reset(cx)).await.ok();
        }
        _ => std::future::pending().await,
    }
}

fn flood(stream: &mut SendStream<Bytes>, count: usize, size: usize) {
    let piece = Bytes::from(vec![7; size]);
    for _ in 0..count {
        if stream.send_data(piece.clone(), false).is_err() {
            return;
        }
    }
}

pub(super) fn request(path: &str) -> Request<()> {
    Request::get(format!("http://node{path}")).body(()).unwrap()
}

/// Permit of a connection, returned when dropped.
pub(super) struct Permit(pub(super) Arc<Connection>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// Opened stream. Its fields are dropped in order: the permit last.
pub(super) struct Opened {
    pub(super) response: ResponseFuture,
    _send: SendStream<Bytes>,
    permit: Permit,
}

impl Opened {
    pub(super) fn cancel(self) {
        let connection = Arc::clone(&self.permit.0);
        connection.cancel(CancelledStream::new(self.response.stream_id(), self));
    }
}

pub(super) fn open(connection: &Arc<Connection>, path: &str) -> Opened {
    connection.try_acquire().expect("room");
    let permit = Permit(Arc::clone(connection));
    let (response, mut send) = connection.open(request(path)).expect("open");
    send.send_data(Bytes::new(), true).unwrap();
    Opened {
        response,
        _send: send,
        permit,
    }
}

/// Calls `/ok` and waits at most 5 s for its response.
pub(super) async fn call(connection: &Arc<Connection>) -> Result<(), String> {
    let opened = open(connection, "/ok");
    let answer = tokio::time::timeout(Duration::from_secs(5), opened.response).await;
    answer
        .map_err(|_| "no answer within 5 s".to_owned())?
        .map(drop)
        .map_err(|error| error.to_string())
}

/// Byte stream that neither reads nor writes while its process is frozen, as by SIGSTOP.
pub(super) struct Freezing {
    pub(super) io: DuplexStream,
    pub(super) frozen: watch::Receiver<bool>,
    pub(super) thaw: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Freezing {
    fn poll_thawed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !*self.frozen.borrow() && self.thaw.is_none() {
            return Poll::Ready(());
        }
        let mut frozen = self.frozen.clone();
        let thaw = self.thaw.get_or_insert_with(|| {
            Box::pin(async move { drop(frozen.wait_for(|frozen| !frozen).await) })
        });
        let thawed = thaw.as_mut().poll(cx);
        if thawed.is_ready() {
            self.thaw = None;
        }
        thawed
    }
}

impl AsyncRead for Freezing {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_thawed(cx));
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Freezing {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.poll_thawed(cx));
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Returns a connector over TCP.
pub(super) fn tcp() -> impl Connect {
    FnConnect(|address: &Address| -> Connecting<'static> {
        let target = format!("{}:{}", address.host, address.port);
        Box::pin(async move { Ok(boxed(TcpStream::connect(target).await?)) })
    })
}
