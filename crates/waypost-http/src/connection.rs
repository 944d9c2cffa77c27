//! One HTTP/2 connection: a handle that calls share, and the one task that drives it.
//!
//! The task reads the socket dry before it judges anything, so that a client short of time blames nobody.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::client::{self, ResponseFuture, SendRequest};
use h2::{Ping, PingPong, Reason, SendStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::coop::has_budget_remaining;
use tokio::time::{Instant, Sleep, sleep_until};
use waypost_core::peer::{Ask, Calm, ConnectionId, Health, Pulse, Read};

use crate::connect::BoxIo;
use crate::meter::{Arrivals, Count, Metered};

const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;

/// A connection that calls share.
pub(crate) struct Connection {
    send: SendRequest<Bytes>,
    streams: AtomicUsize,
    limit: AtomicUsize,
    draining: AtomicBool,
    waiting: AtomicBool,
    dry_wanted: AtomicBool,
    asked: Notify,
    health: watch::Sender<Health>,
    dry: watch::Sender<u64>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("streams", &self.streams).field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl Connection {
    /// Opens a stream; an error means that nothing was sent.
    pub(crate) fn open(&self, request: http::Request<()>) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        self.send.clone().send_request(request, false)
    }

    /// Takes a permit; returns how many streams there were before.
    pub(crate) fn acquire(&self) -> Option<usize> {
        if self.draining.load(Relaxed) {
            return None;
        }
        let limit = self.limit();
        self.streams.fetch_update(Relaxed, Relaxed, |n| (n < limit).then_some(n + 1)).ok()
    }

    pub(crate) fn release(&self) {
        let before = self.streams.fetch_sub(1, Relaxed);
        if before == 1 && self.draining.load(Relaxed) {
            self.asked.notify_one();
        }
    }

    pub(crate) fn streams(&self) -> usize {
        self.streams.load(Relaxed)
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit.load(Relaxed)
    }

    pub(crate) fn has_room(&self) -> bool {
        !self.draining.load(Relaxed) && *self.health.borrow() == Health::Fine && self.streams() < self.limit()
    }

    /// No new calls; the connection closes when it has none.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Relaxed);
        self.asked.notify_one();
    }

    /// Waits until the socket has been read dry after this was called.
    pub(crate) async fn read_dry(&self) {
        let mut dry = self.dry.subscribe();
        self.dry_wanted.store(true, Relaxed);
        self.asked.notify_one();
        // A closed channel is a connection that ended: the call's own stream says so.
        let _ = dry.changed().await;
    }

    /// Tells that a call waits too long, now that the socket has been read dry.
    pub(crate) fn report_waiting(&self) {
        self.waiting.store(true, Relaxed);
        self.asked.notify_one();
    }

    /// Waits until the connection is silent: a PING was not answered in time.
    pub(crate) async fn silent(&self) {
        let mut health = self.health.subscribe();
        if health.wait_for(|health| *health == Health::Silent).await.is_err() {
            // The connection ended; its streams tell the calls.
            std::future::pending::<()>().await;
        }
    }
}

/// What the task tells its owner.
#[derive(Debug)]
pub(crate) enum News {
    /// The server's SETTINGS were read.
    Ready(Arc<Connection>),
    /// It takes no new calls.
    GoAway(Calm),
    /// It answers, or does not.
    Health(Health),
}

/// News of one connection of one peer.
pub(crate) type Report = (u64, ConnectionId, News);

/// The task's way to its owner.
#[derive(Debug)]
pub(crate) struct Reporter {
    pub(crate) peer: u64,
    pub(crate) id: ConnectionId,
    pub(crate) news: mpsc::Sender<Report>,
}

impl Reporter {
    pub(crate) async fn tell(&self, news: News) {
        // The owner is gone only when it drops this task too.
        let _ = self.news.send((self.peer, self.id, news)).await;
    }
}

/// Drives one connection from the first byte to the last.
pub(crate) struct Driver {
    h2: client::Connection<Metered, Bytes>,
    probe: SendRequest<Bytes>,
    ping: Option<PingPong>,
    arrivals: Arc<Arrivals>,
    seen: Count,
    pulse: Pulse,
    connection: Arc<Connection>,
    told: Health,
    gone: bool,
}

enum Turn {
    News(News),
    Ended(Result<(), h2::Error>),
    Look,
}

impl Driver {
    /// Says hello on a fresh stream of bytes, and waits for the server's SETTINGS.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub(crate) async fn handshake(io: BoxIo, patience: u32) -> Result<(Self, Arc<Connection>), String> {
        let Greeted { send, mut h2, arrivals } = greet(io).await?;
        let connection = Arc::new(Connection {
            send: send.clone(),
            streams: AtomicUsize::new(0),
            limit: AtomicUsize::new(send.current_max_send_streams()),
            draining: AtomicBool::new(false),
            waiting: AtomicBool::new(false),
            dry_wanted: AtomicBool::new(false),
            asked: Notify::new(),
            health: watch::channel(Health::Fine).0,
            dry: watch::channel(0).0,
        });
        let driver = Self {
            ping: h2.ping_pong(),
            h2,
            probe: send,
            seen: arrivals.count(),
            arrivals,
            pulse: Pulse::new(patience),
            connection: Arc::clone(&connection),
            told: Health::Fine,
            gone: false,
        };
        Ok((driver, connection))
    }

    /// Drives until the connection ends; returns why it ended.
    pub(crate) async fn run(mut self, reporter: &Reporter) -> Result<(), h2::Error> {
        let connection = Arc::clone(&self.connection);
        let mut timer = std::pin::pin!(sleep_until(now()));
        loop {
            let turn = tokio::select! {
                biased;
                turn = poll_fn(|cx| self.poll(cx, timer.as_mut())) => turn,
                () = connection.asked.notified() => Turn::Look,
            };
            match turn {
                Turn::Ended(result) => {
                    // A GOAWAY with nothing after it ends the connection in the same breath.
                    if let Err(error) = &result
                        && !self.gone
                        && error.is_go_away()
                    {
                        reporter.tell(goodbye(error)).await;
                    }
                    return result;
                }
                Turn::News(news) => reporter.tell(news).await,
                Turn::Look => {}
            }
            if connection.draining.load(Relaxed) && connection.streams() == 0 {
                return Ok(());
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> Poll<Turn> {
        // Whoever asks for a dry socket while we read must see it read again.
        let dry_wanted = self.connection.dry_wanted.swap(false, Relaxed);
        if let Poll::Ready(result) = Pin::new(&mut self.h2).poll(cx) {
            return Poll::Ready(Turn::Ended(result));
        }
        if !has_budget_remaining() {
            self.connection.dry_wanted.fetch_or(dry_wanted, Relaxed);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if dry_wanted {
            self.connection.dry.send_modify(|n| *n += 1);
        }
        self.connection.limit.store(self.probe.current_max_send_streams(), Relaxed);
        if let Some(news) = self.take_goodbye(cx) {
            return Poll::Ready(Turn::News(news));
        }
        self.judge(cx);
        if self.pulse.health() != self.told {
            self.told = self.pulse.health();
            self.connection.health.send_replace(self.told);
            return Poll::Ready(Turn::News(News::Health(self.told)));
        }
        self.arm(cx, timer.as_mut())
    }

    /// h2 refuses new streams from the moment it has read a GOAWAY, and says so here before a call finds out.
    fn take_goodbye(&mut self, cx: &mut Context<'_>) -> Option<News> {
        if self.gone {
            return None;
        }
        let Poll::Ready(Err(error)) = self.probe.poll_ready(cx) else { return None };
        self.gone = true;
        self.connection.draining.store(true, Relaxed);
        Some(goodbye(&error))
    }

    fn judge(&mut self, cx: &mut Context<'_>) {
        let count = self.arrivals.count();
        let seen = std::mem::replace(&mut self.seen, count);
        let pong = count.pongs > seen.pongs;
        if pong && let Some(ping) = &mut self.ping {
            // Takes the pong, so that another PING may be sent; what it says is known already.
            let _ = ping.poll_pong(cx);
        }
        let read = Read {
            bytes: count.bytes > seen.bytes,
            answers: count.answers > seen.answers,
            pong,
            calls: self.connection.streams(),
        };
        let now = now();
        let mut send = self.pulse.step(now, Ask::Dry(read));
        if self.connection.waiting.load(Relaxed) && self.connection.waiting.swap(false, Relaxed) {
            send |= self.pulse.step(now, Ask::Waiting);
        }
        if send && let Some(ping) = &mut self.ping {
            // One PING at a time is the pulse's own rule, so h2 never refuses this one.
            let _ = ping.send_ping(Ping::opaque());
        }
    }

    /// Arms the timer for the next look; one that fires early only looks once more.
    fn arm(&self, cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> Poll<Turn> {
        let Some(at) = self.pulse.next_wake() else { return Poll::Pending };
        if timer.is_elapsed() || timer.deadline() > at {
            timer.as_mut().reset(at);
        }
        timer.poll(cx).map(|()| Turn::Look)
    }
}

/// A connection whose two sides have said hello.
pub(crate) struct Greeted {
    pub(crate) send: SendRequest<Bytes>,
    pub(crate) h2: client::Connection<Metered, Bytes>,
    pub(crate) arrivals: Arc<Arrivals>,
}

/// Says hello, and waits for the server's SETTINGS: a frozen process accepts too.
///
/// # Errors
/// What went wrong, in words.
pub(crate) async fn greet(io: BoxIo) -> Result<Greeted, String> {
    let (io, arrivals) = Metered::new(io);
    let (send, mut h2) = client::Builder::new()
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .handshake(io)
        .await
        .map_err(|error| error.to_string())?;
    poll_fn(|cx| match Pin::new(&mut h2).poll(cx) {
        Poll::Ready(Ok(())) => Poll::Ready(Err("closed before its SETTINGS".to_owned())),
        Poll::Ready(Err(error)) => Poll::Ready(Err(error.to_string())),
        Poll::Pending if arrivals.count().settings > 0 => Poll::Ready(Ok(())),
        Poll::Pending => Poll::Pending,
    })
    .await?;
    Ok(Greeted { send, h2, arrivals })
}

fn goodbye(error: &h2::Error) -> News {
    let asked = error.is_remote() && error.reason() == Some(Reason::ENHANCE_YOUR_CALM);
    News::GoAway(if asked { Calm::Asked } else { Calm::NotAsked })
}

fn now() -> Instant {
    Instant::now()
}
