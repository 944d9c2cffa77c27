//! One call: pick, send, judge, maybe again.

#[cfg_attr(not(test), expect(dead_code, reason = "the attempt loop still uses crate::request"))]
mod body_task;
#[cfg_attr(not(test), expect(dead_code, reason = "the attempt loop still uses crate::request"))]
pub(crate) mod headers;
#[cfg_attr(not(test), expect(dead_code, reason = "the attempt loop still uses crate::request"))]
mod replay;
mod request_error;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, Bytes};
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::{Request, Response};
use http_body::Body;
use tokio::time::{Instant, Sleep, sleep_until};
use waypost_core::attempt::{Attempts, End, Next, Step, Trail};
use waypost_core::balance::{Pick, PickContext};
use waypost_core::peer::Outcome;

use crate::connection::Connection;
use crate::error::{BodyError, CallError, FailureKind};
use crate::head::Head;
use crate::link::{Link, Permit, Room};
use crate::peers::Hub;
use crate::protocol::Verdict;
use crate::request::{Pump, Replay};
use crate::response::{InFlight, Picked, ResponseBody};
use crate::sender::{Sender, now};

pub use self::request_error::RequestError;

/// A call waits at least so long before its peer is asked whether it lives.
const STALLED_AFTER: Duration = Duration::from_secs(1);
const STALLED_P50S: u32 = 8;

type Picking = (Pick<Link>, Permit);

/// A call under way. Its future is allocated for every call, so what is rare in it is boxed and what every call needs is kept small.
pub(crate) struct Call<B> {
    sender: Sender,
    start: Instant,
    deadline: Option<Instant>,
    head: Head,
    replay: Option<Replay<B>>,
    attempts: Attempts,
    idempotent: bool,
    unary: bool,
    sent: u32,
    tried: Vec<Arc<Link>>,
    trail: Trail,
    timer: Option<Pin<Box<Sleep>>>,
}

/// How an attempt failed.
enum Failed {
    /// Without an answer, or with one that says another peer may do better.
    Maybe(End, Option<Box<Response<ResponseBody>>>),
    /// There will be no other.
    Over(FailureKind),
}

/// An attempt that was sent. Its fields drop in this order.
struct Exchange<B> {
    pump: Option<Pump<B>>,
    response: ResponseFuture,
    permit: Permit,
    pick: Pick<Link>,
    sent_at: Instant,
}

/// Why a call that waited for its response's headers waits no longer.
enum Unanswered {
    Broken(h2::Error),
    Silent,
    Deadline,
}

impl<B> Call<B>
where
    B: Body + Unpin + Send + 'static,
    B::Data: Buf + Send,
{
    pub(crate) fn new(sender: Sender, request: Request<B>) -> Self {
        let start = now();
        let shared = sender.shared();
        let (parts, body) = request.into_parts();
        Self {
            start,
            deadline: shared.protocol.timeout(&parts.headers).and_then(|timeout| start.checked_add(timeout)),
            head: Head::of(parts),
            replay: Some(Replay::new(body, shared.config.replay_limit)),
            attempts: Attempts::new(Arc::clone(&shared.config.policy)),
            idempotent: false,
            unary: false,
            sent: 0,
            tried: Vec::new(),
            trail: Trail::default(),
            timer: None,
            sender,
        }
    }

    pub(crate) async fn run(&mut self) -> Result<Response<ResponseBody>, CallError> {
        match self.sender.hub() {
            Some(hub) => hub.budget.deposit(),
            None => return Err(self.fail(FailureKind::Closed)),
        }
        poll_fn(|cx| {
            if let Some(replay) = &mut self.replay {
                replay.fill(cx);
            }
            Poll::Ready(())
        })
        .await;
        let mut picking = None;
        loop {
            let now = match picking.take().or_else(|| self.try_pick()) {
                Some(picking) => picking,
                None => Box::pin(self.wait_and_pick()).await?,
            };
            let (end, response) = match self.attempt(now).await {
                Ok(response) => return Ok(response),
                Err(Failed::Over(kind)) => return Err(self.fail(kind)),
                Err(Failed::Maybe(end, response)) => (end, response),
            };
            match Box::pin(self.follow(&end)).await {
                Some(next) => picking = next,
                None => return response.map_or_else(|| Err(self.fail(FailureKind::NoAnswer)), |response| Ok(*response)),
            }
        }
    }

    /// What follows a failed attempt: another (maybe picked already), or none.
    async fn follow(&mut self, end: &End) -> Option<Option<Picking>> {
        if !self.replay.as_ref().is_some_and(Replay::can_replay) {
            return None;
        }
        let budget = &self.sender.hub()?.budget;
        let mut next = self.attempts.after(end, now(), budget);
        if next == Next::Untried {
            if let Some(picking) = self.try_pick() {
                return Some(Some(picking));
            }
            next = self.attempts.after_none_left(now(), budget);
        }
        let Next::After(delay) = next else { return None };
        if !delay.is_zero() {
            sleep_until(self.within_deadline(now() + delay)).await;
        }
        Some(None)
    }

    /// Notes an attempt that got no answer of use; its peer is not tried again before the others.
    fn note(&mut self, pick: &Pick<Link>, why: String) {
        let id = pick.item().peer.id();
        self.trail.push(Step { node: id.id.clone(), address: id.address.clone(), why });
        self.tried.push(Arc::clone(pick.item()));
    }

    /// What the picked node's record, the client's methods and the policy say of this method.
    fn learn(&mut self, link: &Link) {
        let config = &self.sender.shared().config;
        let path = self.head.path();
        let known = config.methods.get(path).copied().or_else(|| link.peer.entry().head.method(path));
        self.idempotent = config.policy.is_idempotent(path, known.is_some_and(|method| method.idempotent));
        self.attempts.set_idempotent(self.idempotent);
        self.unary = known.is_some_and(|method| !method.streaming);
        if self.unary && self.deadline.is_none() {
            self.deadline = Some(self.start + config.unary_deadline);
        }
    }

    /// A ready peer that was not tried yet, with a permit; none if there is none now.
    fn try_pick(&self) -> Option<Picking> {
        let mut permit = None;
        let tried = &self.tried;
        let pick = self.sender.balancer().pick(&PickContext::new(self.head.path()), |link| {
            if !tried.iter().any(|tried| Arc::ptr_eq(tried, link)) {
                permit = link.acquire();
            }
            permit.is_some()
        });
        pick.zip(permit)
    }

    /// A ready peer, once there is one. A tried one only after a while, and only where no other comes.
    async fn wait_and_pick(&mut self) -> Result<Picking, CallError> {
        let Some(hub) = self.sender.hub().map(Arc::clone) else { return Err(self.fail(FailureKind::Closed)) };
        let _waiting = Waiting::begin(&hub, self.sender.waiting_limit()).ok_or_else(|| self.fail(FailureKind::QueueFull))?;
        let until = self.within_deadline(now() + self.sender.shared().config.ready_wait);
        if !self.tried.is_empty() {
            let return_at = now() + self.attempts.return_delay(fastrand::f64());
            if let Some(picking) = self.wait_for_peer(&hub.room, return_at.min(until)).await {
                return Ok(picking);
            }
            self.tried.clear();
        }
        if let Some(picking) = self.wait_for_peer(&hub.room, until).await {
            return Ok(picking);
        }
        let kind = match self.deadline {
            _ if hub.room.closed.load(Relaxed) => FailureKind::Closed,
            Some(deadline) if deadline <= until => FailureKind::Deadline,
            _ => FailureKind::NoPeer,
        };
        Err(self.fail(kind))
    }

    async fn wait_for_peer(&mut self, room: &Room, until: Instant) -> Option<Picking> {
        let mut changes = self.sender.balancer().changes();
        loop {
            let mut freed = std::pin::pin!(room.freed.notified());
            freed.as_mut().enable();
            changes.borrow_and_update();
            if let Some(picking) = self.try_pick() {
                return Some(picking);
            }
            if room.closed.load(Relaxed) {
                return None;
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = freed => {}
                () = sleep_until(until) => return None,
            }
        }
    }

    fn within_deadline(&self, at: Instant) -> Instant {
        self.deadline.map_or(at, |deadline| at.min(deadline))
    }

    async fn attempt(&mut self, picking: Picking) -> Result<Response<ResponseBody>, Failed> {
        let (mut response, verdict) = self.exchange(picking).await?;
        let verdict = self.peek(response.body_mut(), verdict).await;
        self.judge_answer(response, verdict)
    }

    /// Sends the request and waits for the head of an answer, which says something of the node already.
    async fn exchange(&mut self, picking: Picking) -> Result<(Response<ResponseBody>, Verdict), Failed> {
        let mut exchange = self.open(picking)?;
        match self.wait(&mut exchange).await {
            Ok(head) => Ok(self.answer(head, exchange)),
            Err(why) => Err(Box::pin(self.unanswered(exchange, why)).await),
        }
    }

    fn open(&mut self, (pick, permit): Picking) -> Result<Exchange<B>, Failed> {
        self.learn(pick.item());
        let sent_at = now();
        if self.deadline.is_some_and(|deadline| deadline <= sent_at) {
            return Err(Failed::Over(FailureKind::Deadline));
        }
        match permit.connection.open(self.request_for(pick.item(), sent_at)) {
            Ok((response, stream)) => Ok(Exchange { pump: self.send(stream), response, permit, pick, sent_at }),
            Err(error) => Err(self.failed(pick, End::Unprocessed, format!("not sent: {error}"))),
        }
    }

    fn request_for(&mut self, link: &Link, now: Instant) -> Request<()> {
        let remaining = self.deadline.map(|deadline| deadline.saturating_duration_since(now));
        let protocol = &self.sender.shared().protocol;
        let request = self.head.request(&link.authority, |headers| protocol.prepare(headers, self.sent, remaining));
        self.sent += 1;
        request
    }

    /// Hands the body to h2: whole if it is here, else by a task.
    fn send(&mut self, mut stream: SendStream<Bytes>) -> Option<Pump<B>> {
        let replay = self.replay.take()?;
        if !replay.is_complete() {
            return Some(Pump::start(replay, stream));
        }
        // What cannot be sent is told by the response.
        let _ = replay.send_whole(&mut stream);
        self.replay = Some(replay);
        None
    }

    async fn wait(&mut self, exchange: &mut Exchange<B>) -> Result<Response<RecvStream>, Unanswered> {
        let Exchange { pump, response, permit, pick, sent_at } = exchange;
        let too_long = too_long(pick.item());
        let mut stalled_at = *sent_at + too_long;
        loop {
            let until = self.within_deadline(stalled_at);
            let timer = self.timer_at(until);
            let head = poll_fn(|cx| match Pin::new(&mut *response).poll(cx) {
                Poll::Ready(head) => Poll::Ready(Some(head)),
                Poll::Pending => timer.as_mut().poll(cx).map(|()| None),
            });
            if let Some(head) = head.await {
                pick.item().peer.meters().record_wait(sent_at.elapsed());
                return head.map_err(Unanswered::Broken);
            }
            if self.deadline.is_some_and(|deadline| deadline <= until) {
                return Err(Unanswered::Deadline);
            }
            if pump.as_ref().is_none_or(Pump::is_done) {
                return Box::pin(wait_watchfully(response, &permit.connection, self.deadline, self.idempotent)).await;
            }
            // Still sending: the peer owes nothing yet.
            stalled_at += too_long;
        }
    }

    fn timer_at(&mut self, at: Instant) -> &mut Pin<Box<Sleep>> {
        if let Some(timer) = &mut self.timer {
            timer.as_mut().reset(at);
        }
        self.timer.get_or_insert_with(|| Box::pin(sleep_until(at)))
    }

    async fn unanswered(&mut self, exchange: Exchange<B>, why: Unanswered) -> Failed {
        let Exchange { pump, response, permit: _permit, mut pick, .. } = exchange;
        if matches!(why, Unanswered::Deadline) {
            return Failed::Over(FailureKind::Deadline);
        }
        drop(response);
        pick.ended(Outcome::Failed);
        if let Some(pump) = pump {
            self.replay = pump.take_back().await;
        }
        match why {
            Unanswered::Broken(error) => self.judge(pick, &error),
            _ => self.failed(pick, End::Lost, "the node answers no PING".to_owned()),
        }
    }

    /// The answer as the caller gets it, and what its head says of the node.
    fn answer(&mut self, head: Response<RecvStream>, exchange: Exchange<B>) -> (Response<ResponseBody>, Verdict) {
        let Exchange { pump, permit, pick, .. } = exchange;
        let protocol = Arc::clone(&self.sender.shared().protocol);
        let (mut parts, recv) = head.into_parts();
        let verdict = protocol.classify_head(parts.status, &parts.headers);
        parts.extensions = self.head.take_room();
        parts.extensions.insert(Picked { node: pick.item().peer.node(), attempts: self.sent });
        let in_flight = InFlight { _pump: pump.map(|pump| Box::new(pump) as _), _permit: permit, pick };
        let mut body = ResponseBody::new(recv, in_flight, protocol);
        if let (Some(deadline), Some(timer)) = (self.deadline, self.timer.take()) {
            body.set_deadline(deadline, timer);
        }
        (Response::from_parts(parts, body), verdict)
    }

    /// Looks at the first frame, if the head left anything open: of a unary call once it is there, of any other only if it is there
    /// already, since its caller may want the headers first.
    async fn peek(&mut self, body: &mut ResponseBody, verdict: Verdict) -> Result<Verdict, BodyError> {
        if verdict != Verdict::Fine || body.is_end_stream() {
            return Ok(verdict);
        }
        poll_fn(|cx| match body.poll_peek(cx) {
            Poll::Pending if !self.unary => Poll::Ready(Ok(Verdict::Fine)),
            peeked => peeked,
        })
        .await
    }

    fn judge_answer(
        &mut self,
        mut response: Response<ResponseBody>,
        verdict: Result<Verdict, BodyError>,
    ) -> Result<Response<ResponseBody>, Failed> {
        let verdict = match verdict {
            Ok(verdict) => verdict,
            Err(BodyError::Deadline) => return Err(Failed::Over(FailureKind::Deadline)),
            Err(BodyError::Broken(error)) => return Err(self.broken(response.into_body(), &error)),
        };
        let unavailable = matches!(verdict, Verdict::Unavailable(_));
        if unavailable && let Some(pick) = response.body().pick() {
            self.note(pick, "the node says that it is unavailable".to_owned());
        }
        if response.body().is_end_stream() {
            response.body_mut().end_with(verdict);
        }
        match verdict {
            Verdict::Unavailable(pushback) => Err(Failed::Maybe(End::Unavailable(pushback), Some(Box::new(response)))),
            Verdict::Fine | Verdict::Failed => Ok(response),
        }
    }

    /// The answer broke off before its caller saw any of it.
    fn broken(&mut self, body: ResponseBody, error: &h2::Error) -> Failed {
        match body.into_pick() {
            Some(pick) => self.judge(pick, error),
            None => Failed::Maybe(End::Lost, None),
        }
    }

    /// What the end of a stream without a response means (RFC 9113, 6.8 and 8.7).
    fn judge(&mut self, pick: Pick<Link>, error: &h2::Error) -> Failed {
        let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
        if error.is_remote() && (refused || error.is_go_away()) {
            return self.failed(pick, End::Unprocessed, format!("not looked at: {error}"));
        }
        match error.reason() {
            Some(reason) if error.is_remote() && error.is_reset() => {
                self.failed(pick, End::Lost, format!("the node reset the call: {reason}"));
                Failed::Over(FailureKind::Reset(reason.into()))
            }
            _ => self.failed(pick, End::Lost, format!("connection lost: {error}")),
        }
    }

    fn failed(&mut self, mut pick: Pick<Link>, end: End, why: String) -> Failed {
        self.note(&pick, why);
        pick.ended(Outcome::Failed);
        Failed::Maybe(end, None)
    }

    fn fail(&mut self, kind: FailureKind) -> CallError {
        CallError { trail: std::mem::take(&mut self.trail), ..self.sender.fail(kind, self.start) }
    }
}

/// How long a call may wait on this peer before the peer is asked whether it lives.
fn too_long(link: &Link) -> Duration {
    let usual = link.peer.meters().p50().map_or(Duration::ZERO, |p50| p50 * STALLED_P50S);
    usual.max(STALLED_AFTER * link.patience.load(Relaxed))
}

/// Waits on, after a wait that was too long: the socket is read dry first; if the answer was not there, the peer is asked.
async fn wait_watchfully(
    response: &mut ResponseFuture,
    connection: &Connection,
    deadline: Option<Instant>,
    may_move: bool,
) -> Result<Response<RecvStream>, Unanswered> {
    let mut deadline = std::pin::pin!(async move {
        match deadline {
            Some(deadline) => sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    });
    tokio::select! {
        biased;
        head = &mut *response => return head.map_err(Unanswered::Broken),
        () = connection.read_dry() => {}
        () = &mut deadline => return Err(Unanswered::Deadline),
    }
    if let Poll::Ready(head) = poll_fn(|cx| Poll::Ready(Pin::new(&mut *response).poll(cx))).await {
        return head.map_err(Unanswered::Broken);
    }
    connection.report_waiting();
    tokio::select! {
        biased;
        head = &mut *response => head.map_err(Unanswered::Broken),
        () = connection.silent(), if may_move => Err(Unanswered::Silent),
        () = &mut deadline => Err(Unanswered::Deadline),
    }
}

/// A call that waits for a peer; of these there is a limit.
struct Waiting<'a>(&'a Hub);

impl<'a> Waiting<'a> {
    fn begin(hub: &'a Hub, limit: usize) -> Option<Self> {
        let waiting = hub.room.waiting.fetch_add(1, Relaxed);
        let this = Self(hub);
        (waiting < limit).then_some(this)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.room.waiting.fetch_sub(1, Relaxed);
    }
}
