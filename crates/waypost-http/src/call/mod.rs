//! One call: pick, send, classify, maybe again.
//!
//! [`Call`] is what all attempts of a call share: the request's head, its kept body, the policy and the deadline. What one attempt owns is in
//! [`attempt`], so that two may be under way. This room never knows how a node is picked or connected.

mod attempt;
mod body_task;
mod head;
mod headers;
mod replay;
mod request_error;
pub(crate) mod response;
mod watch;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Buf;
use h2::RecvStream;
use http::{Request, Response};
use http_body::Body;
use tokio::time::{Instant, Sleep, sleep_until};
use waypost_core::balance::PickContext;
use waypost_core::peer::AttemptEnd;

pub use request_error::RequestError;

use crate::channel::{Membership, ServiceChannel, now};
use crate::conn::Connection;
use crate::error::{BodyError, CallError, FailureKind};
use crate::pool::{Full, PeerKey, Picking, PooledPeer, Wanted};
use crate::protocol::{BoxError, ResponseClass};
use crate::retry::{
    AttemptFailure, AttemptHistory, AttemptRecord, FailureCause, RetryContext, RetryDecision, RetryState, StopReason,
};
use attempt::{InFlight, Sent, classify_error};
pub(crate) use body_task::{BodyGuard, BodyTask};
use head::Head;
pub use head::PickKey;
pub(crate) use replay::ReplayBody;
use response::{ResponseBody, ServedBy};
use watch::{Unanswered, Watch};

/// A call waits for a node so long where none is known.
const NO_NODE_WAIT: Duration = Duration::from_secs(3);
/// Deadline of unary calls that set none, and the longest wait for a node of calls that have none.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// A call under way: what its attempts share. Its future is allocated for every call, so what is rare in it is boxed and what every call
/// needs is kept small.
pub(crate) struct Call<B> {
    channel: ServiceChannel,
    start: Instant,
    deadline: Option<Instant>,
    head: Head,
    body: Option<ReplayBody<B>>,
    retry: RetryState,
    idempotent: bool,
    unary: bool,
    sent: u32,
    tried: Vec<PeerKey>,
    history: AttemptHistory,
    stopped: Option<StopReason>,
    request_error: Option<RequestError>,
    timer: Option<Pin<Box<Sleep>>>,
}

/// How an attempt failed.
enum Failed {
    /// Without a response, or with one that says another node may do better.
    Retryable(AttemptFailure, Option<Box<Response<ResponseBody>>>),
    /// There will be no other.
    Terminal(FailureKind),
}

impl<B> Call<B>
where
    B: Body + Unpin + Send + 'static,
    B::Data: Buf + Send,
    B::Error: Into<BoxError>,
{
    pub(crate) fn new(channel: ServiceChannel, request: Request<B>) -> Self {
        let start = now();
        let shared = channel.shared();
        let (parts, body) = request.into_parts();
        Self {
            start,
            deadline: shared.protocol.timeout(&parts.headers).and_then(|timeout| start.checked_add(timeout)),
            head: Head::new(parts),
            body: Some(ReplayBody::new(body, shared.config.replay_limit)),
            retry: RetryState::new(Arc::clone(&shared.config.policy)),
            idempotent: false,
            unary: false,
            sent: 0,
            tried: Vec::new(),
            history: AttemptHistory::default(),
            stopped: None,
            request_error: None,
            timer: None,
            channel,
        }
    }

    pub(crate) async fn run(&mut self) -> Result<Response<ResponseBody>, CallError> {
        let mut members = self.members()?;
        members.pool.budget.deposit(self.start);
        self.fill_body().await?;
        let mut picking = None;
        loop {
            if self.deadline.is_some_and(|deadline| deadline <= now()) {
                return Err(self.fail(FailureKind::Deadline));
            }
            let picked = match picking.take().or_else(|| self.pick_now(&members)) {
                Some(picked) => picked,
                None => Box::pin(self.wait_and_pick(&mut members)).await?,
            };
            let (failure, response) = match self.attempt(picked).await {
                Ok(response) => return Ok(response),
                Err(Failed::Terminal(kind)) => return Err(self.fail(kind)),
                Err(Failed::Retryable(failure, response)) => (failure, response),
            };
            match Box::pin(self.next_attempt(failure, &members)).await {
                Ok(next) => picking = next,
                Err(()) => return response.map_or_else(|| Err(self.fail(FailureKind::NoAnswer)), |response| Ok(*response)),
            }
        }
    }

    fn members(&mut self) -> Result<Arc<Membership>, CallError> {
        self.channel.members().map_err(|error| {
            let kind =
                if matches!(error, waypost_core::registry::Error::Closed) { FailureKind::Closed } else { FailureKind::NoRuntime };
            self.fail(kind)
        })
    }

    /// Takes what the body gives without waiting. A body that fails at once is sent to no node.
    async fn fill_body(&mut self) -> Result<(), CallError> {
        poll_fn(|cx| {
            if let Some(body) = &mut self.body {
                body.fill(cx);
            }
            Poll::Ready(())
        })
        .await;
        match self.body.as_mut().and_then(ReplayBody::take_error) {
            Some(error) => Err(self.fail_request(error)),
            None => Ok(()),
        }
    }

    // Picking.

    /// A ready peer that was not tried yet, with a permit; none if there is none now, or others wait already.
    fn pick_now(&self, members: &Membership) -> Option<Picking> {
        let balancer = &members.joined(self.channel.subset_name()).balancer;
        let context = PickContext::new(self.head.path(), now()).with_key(self.head.key());
        members.pool.room.pick_now(balancer, &context, &self.tried)
    }

    /// Waits in line for a ready peer. A tried one is taken only after a while, and only where no other comes.
    async fn wait_and_pick(&mut self, members: &mut Arc<Membership>) -> Result<Picking, CallError> {
        let start = now();
        let config = &self.channel.shared().config;
        let longest = self.deadline.or_else(|| start.checked_add(config.default_timeout.unwrap_or(DEFAULT_TIMEOUT)));
        let given = config.ready_wait.and_then(|wait| start.checked_add(wait));
        let until = [longest, given].into_iter().flatten().min();
        let mut unknown_until = if config.ready_wait.is_none() { start.checked_add(NO_NODE_WAIT) } else { None };
        let mut accept_at =
            (!self.tried.is_empty()).then(|| start.checked_add(self.retry.retry_delay(fastrand::f64()))).flatten();
        loop {
            let joined = members.joined(self.channel.subset_name()).clone();
            let mut waiting = match members.pool.room.wait(&joined.balancer, self.wanted()) {
                Ok(waiting) => waiting,
                Err(full) => {
                    return Err(self.fail(if full == Full::Calls { FailureKind::QueueFull } else { FailureKind::QueueBytes }));
                }
            };
            loop {
                let wake = [until, unknown_until, accept_at].into_iter().flatten().min();
                let mut timer = self.timer_at(wake);
                let served = poll_fn(|cx| match waiting.poll(cx) {
                    Poll::Ready(served) => Poll::Ready(Some(served)),
                    Poll::Pending => timer.as_mut().map_or(Poll::Pending, |timer| timer.as_mut().poll(cx).map(|()| None)),
                });
                match served.await {
                    Some(Ok(picking)) => return Ok(picking),
                    // The task that connects nodes has ended: the next to ask starts it again.
                    Some(Err(_gone)) => break,
                    None => {}
                }
                let now = now();
                self.check_wait(until, now)?;
                if accept_at.take_if(|at| *at <= now).is_some() {
                    self.tried.clear();
                    waiting.accept_tried();
                }
                if unknown_until.take_if(|at| *at <= now).is_some() && !joined.knows_a_node() {
                    return Err(self.fail(FailureKind::NoPeer));
                }
            }
            drop(waiting);
            // A pool that dies at once is not started in a loop.
            tokio::time::sleep(Duration::from_millis(fastrand::u64(1..20))).await;
            self.check_wait(until, now())?;
            *members = self.members()?;
            self.tried.clear();
        }
    }

    /// Ends a wait that was to last `until` then.
    fn check_wait(&mut self, until: Option<Instant>, now: Instant) -> Result<(), CallError> {
        if until.is_none_or(|until| now < until) {
            return Ok(());
        }
        let is_late = self.deadline.is_some_and(|deadline| deadline <= now);
        Err(self.fail(if is_late { FailureKind::Deadline } else { FailureKind::NoPeer }))
    }

    fn wanted(&self) -> Wanted {
        let bytes = self.body.as_ref().map_or(0, ReplayBody::kept_bytes) + self.head.size();
        Wanted { path: self.head.path().into(), key: self.head.key().map(Arc::from), tried: self.tried.clone(), bytes }
    }

    // Sending.

    async fn attempt(&mut self, picking: Picking) -> Result<Response<ResponseBody>, Failed> {
        let peer = Arc::clone(picking.pick.item());
        self.learn(&peer);
        let mut sent = self.open(picking, &peer).await?;
        let answered = self.wait_for_head(&mut sent, &peer).await;
        let (mut response, class) = match answered {
            Ok(head) => self.response(head, sent).ok_or(Failed::Terminal(FailureKind::NoAnswer))?,
            Err(why) => return Err(Box::pin(self.unanswered(sent, &peer, why)).await),
        };
        let peeked = self.peek(response.body_mut(), class, &peer).await;
        self.classify(response, peeked, &peer)
    }

    /// Takes in what the picked node's record, the client's methods and the policy say of this method.
    fn learn(&mut self, peer: &PooledPeer) {
        let config = &self.channel.shared().config;
        let path = self.head.path();
        let known = config.methods.get(path).copied().or_else(|| peer.peer.entry().head.method(path));
        self.idempotent = config.policy.is_idempotent(path, known.is_some_and(|method| method.idempotent));
        self.retry.set_idempotent(self.idempotent);
        self.unary = known.is_some_and(|method| !method.streaming);
        if self.deadline.is_none() {
            let timeout = match known {
                Some(method) if method.streaming => None,
                Some(_) => Some(config.default_timeout.unwrap_or(DEFAULT_TIMEOUT)),
                None => config.default_timeout,
            };
            self.deadline = timeout.and_then(|timeout| self.start.checked_add(timeout));
        }
    }

    /// Sends the request. A connection that may have died while it was idle is proven first, if the call could not be sent again.
    async fn open(&mut self, picking: Picking, peer: &Arc<PooledPeer>) -> Result<Sent<B>, Failed> {
        let mut sent_at = now();
        let connection = Arc::clone(&picking.permit.connection);
        let mut unproven = connection.needs_proof(sent_at);
        if unproven && !self.idempotent {
            if !Box::pin(self.within_deadline(connection.proven())).await? {
                return Err(self.not_sent(peer, "not sent: the connection was idle, and answers no PING".to_owned()));
            }
            (unproven, sent_at) = (false, now());
        }
        let request = self.request_for(peer, sent_at);
        let limit = connection.max_header_list_size();
        let size = headers::check_size(request.method(), peer.authority.as_str(), self.head.path(), request.headers(), limit);
        if let Err(error) = size {
            return Err(self.local_mistake(error));
        }
        let mut in_flight = InFlight::new(picking, self.channel.clone(), sent_at);
        match connection.open(request) {
            Ok((response, mut stream)) => {
                let body = self.body.take().and_then(|body| {
                    if !body.is_complete() {
                        return Some(BodyTask::spawn_paced(body, stream, Arc::clone(&connection)));
                    }
                    // What the stream refuses, the response explains.
                    let _ = body.send_whole(&mut stream);
                    self.body = Some(body);
                    None
                });
                Ok(Sent::new(response, body, in_flight, unproven))
            }
            Err(error) => {
                in_flight.set_end(AttemptEnd::Refused);
                drop(in_flight);
                Err(self.not_sent(peer, format!("not sent: {error}")))
            }
        }
    }

    async fn within_deadline<T>(&mut self, future: impl Future<Output = T>) -> Result<T, Failed> {
        match self.deadline {
            Some(deadline) => {
                tokio::time::timeout_at(deadline, future).await.map_err(|_| Failed::Terminal(FailureKind::Deadline))
            }
            None => Ok(future.await),
        }
    }

    fn request_for(&mut self, peer: &PooledPeer, now: Instant) -> Request<()> {
        let remaining = self.deadline.map(|deadline| deadline.saturating_duration_since(now));
        let protocol = &self.channel.shared().protocol;
        let request = self.head.request(&peer.authority, |headers| protocol.prepare(headers, self.sent, remaining));
        self.sent += 1;
        request
    }

    // Waiting.

    fn timer_at(&mut self, at: Option<Instant>) -> Option<&mut Pin<Box<Sleep>>> {
        let at = at?;
        if let Some(timer) = &mut self.timer {
            timer.as_mut().reset(at);
        }
        Some(self.timer.get_or_insert_with(|| Box::pin(sleep_until(at))))
    }

    async fn wait_for_head(&mut self, sent: &mut Sent<B>, peer: &PooledPeer) -> Result<Response<RecvStream>, Unanswered> {
        let watch = Watch::new(peer, self.deadline, self.idempotent, sent.unproven);
        let mut slow_at = watch.slow_at(now());
        loop {
            let until = [slow_at, self.deadline].into_iter().flatten().min();
            let mut timer = self.timer_at(until);
            let head = poll_fn(|cx| match sent.poll_head(cx) {
                Poll::Ready(head) => Poll::Ready(Some(head)),
                Poll::Pending => timer.as_mut().map_or(Poll::Pending, |timer| timer.as_mut().poll(cx).map(|()| None)),
            });
            if let Some(head) = head.await {
                return head.map_err(Unanswered::Broken);
            }
            let now = now();
            if self.deadline.is_some_and(|deadline| deadline <= now) {
                return Err(Unanswered::Deadline);
            }
            if sent.is_sent_in_full()
                && let Some(connection) = sent.connection().cloned()
            {
                let head = Box::pin(watch.watch(&connection, |cx| sent.poll_head(cx))).await?;
                return head.map_err(Unanswered::Broken);
            }
            // Still sending: the peer owes nothing yet.
            slow_at = watch.slow_at(now);
        }
    }

    async fn unanswered(&mut self, sent: Sent<B>, peer: &Arc<PooledPeer>, why: Unanswered) -> Failed {
        let stale = sent.unproven && sent.connection().is_some_and(|connection| connection.needs_proof(now()));
        // A body that failed resets the stream when the server can take that: the node is not to blame.
        if let Some(error) = sent.take_request_error() {
            drop(sent.abandon(AttemptEnd::LocalMistake));
            return self.local_mistake(error);
        }
        let (end, cause, text) = match &why {
            Unanswered::Deadline => {
                drop(sent.abandon(AttemptEnd::Deadline));
                return Failed::Terminal(FailureKind::Deadline);
            }
            Unanswered::Unresponsive => (AttemptEnd::Lost, FailureCause::Lost { stale }, "the node answers no PING".to_owned()),
            Unanswered::Broken(error) => describe(error, sent.connection(), stale),
        };
        let body = sent.abandon(end);
        if let Some(task) = body {
            if let Some(error) = task.take_error() {
                return self.local_mistake(error);
            }
            self.body = task.take_back().await;
        }
        if let Some(error) = self.body.as_mut().and_then(ReplayBody::take_error) {
            return self.local_mistake(error);
        }
        self.note(peer, text);
        match (&why, cause) {
            (Unanswered::Broken(error), FailureCause::Reset) => {
                Failed::Terminal(FailureKind::Reset(error.reason().map_or(0, Into::into)))
            }
            _ => Failed::Retryable(AttemptFailure::uncommitted(cause), None),
        }
    }

    // Answering.

    /// The response as the caller gets it, and the class of its head.
    fn response(&mut self, head: Response<RecvStream>, mut sent: Sent<B>) -> Option<(Response<ResponseBody>, ResponseClass)> {
        let (in_flight, body) = sent.take_parts();
        let mut in_flight = in_flight?;
        in_flight.note_first_byte(now());
        let node = in_flight.peer()?.peer.node();
        let protocol = Arc::clone(&self.channel.shared().protocol);
        let (mut parts, recv) = head.into_parts();
        let class = protocol.classify_head(parts.status, &parts.headers);
        if let Some(body) = body {
            in_flight.set_body(body.into_guard());
        }
        parts.extensions = self.head.take_extensions();
        parts.extensions.insert(ServedBy { node, attempts: self.sent });
        let mut body = ResponseBody::new(recv, in_flight, protocol);
        if let (Some(deadline), Some(timer)) = (self.deadline, self.timer.take()) {
            body.set_deadline(deadline, timer);
        }
        Some((Response::from_parts(parts, body), class))
    }

    /// Looks at the first frame, if the head left anything open: of a unary call once it is there, of any other only if it is there
    /// already, since its caller may want the headers first.
    async fn peek(
        &mut self,
        body: &mut ResponseBody,
        class: ResponseClass,
        peer: &PooledPeer,
    ) -> Result<ResponseClass, Unpeeked> {
        if class != ResponseClass::Success || body.is_end_stream() {
            return Ok(class);
        }
        if !self.unary {
            return poll_fn(|cx| match body.poll_peek(cx) {
                Poll::Pending => Poll::Ready(Ok(ResponseClass::Success)),
                peeked @ Poll::Ready(_) => peeked,
            })
            .await
            .map_err(Unpeeked::Body);
        }
        if let Poll::Ready(peeked) = poll_fn(|cx| Poll::Ready(body.poll_peek(cx))).await {
            return peeked.map_err(Unpeeked::Body);
        }
        Box::pin(self.peek_watchfully(body, peer)).await
    }

    /// A node may freeze after its headers, too.
    async fn peek_watchfully(&mut self, body: &mut ResponseBody, peer: &PooledPeer) -> Result<ResponseClass, Unpeeked> {
        let watch = Watch::new(peer, self.deadline, self.idempotent, false);
        let connection = body.in_flight().and_then(|in_flight| in_flight.connection().cloned());
        let slow = async {
            match watch.slow_at(now()) {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            peeked = poll_fn(|cx| body.poll_peek(cx)) => return peeked.map_err(Unpeeked::Body),
            () = slow => {}
        }
        let Some(connection) = connection else { return Ok(ResponseClass::Success) };
        match watch.watch(&connection, |cx| body.poll_peek(cx)).await {
            Ok(peeked) => peeked.map_err(Unpeeked::Body),
            Err(Unanswered::Unresponsive) => Err(Unpeeked::Unresponsive),
            Err(_) => Err(Unpeeked::Body(BodyError::Deadline)),
        }
    }

    fn classify(
        &mut self,
        mut response: Response<ResponseBody>,
        peeked: Result<ResponseClass, Unpeeked>,
        peer: &Arc<PooledPeer>,
    ) -> Result<Response<ResponseBody>, Failed> {
        let class = match peeked {
            Ok(class) => class,
            Err(why) => return Err(self.broken(response, why, peer)),
        };
        if let ResponseClass::Unavailable(_) = class {
            self.note(peer, "the node says that it is unavailable".to_owned());
        }
        response.body_mut().classified(class);
        match class {
            ResponseClass::Unavailable(pushback) => {
                let failure = AttemptFailure::uncommitted(FailureCause::Unavailable(pushback));
                Err(Failed::Retryable(failure, Some(Box::new(response))))
            }
            ResponseClass::Success | ResponseClass::NodeFailed => Ok(response),
        }
    }

    /// The response broke off before its caller saw any of it. Its headers prove that the node has processed the request.
    fn broken(&mut self, response: Response<ResponseBody>, why: Unpeeked, peer: &Arc<PooledPeer>) -> Failed {
        let mut body = response.into_body();
        self.timer = body.take_timer();
        if matches!(why, Unpeeked::Body(BodyError::Broken(_)))
            && let Some(error) = body.in_flight().and_then(|in_flight| in_flight.take_request_error())
        {
            body.abandon(AttemptEnd::LocalMistake);
            return self.local_mistake(error);
        }
        let (end, cause, text) = match why {
            Unpeeked::Body(BodyError::Request(error)) => {
                body.abandon(AttemptEnd::LocalMistake);
                return self.local_mistake(error);
            }
            Unpeeked::Body(BodyError::Deadline) => {
                body.abandon(AttemptEnd::Deadline);
                return Failed::Terminal(FailureKind::Deadline);
            }
            Unpeeked::Unresponsive => {
                body.abandon(AttemptEnd::Lost);
                (AttemptEnd::Lost, FailureCause::Lost { stale: false }, "the node answers no PING".to_owned())
            }
            Unpeeked::Body(BodyError::Broken(error)) => {
                let connection = body.in_flight().and_then(|in_flight| in_flight.connection().cloned());
                let (_, cause, text) = describe(&error, connection.as_ref(), false);
                if cause == FailureCause::Reset {
                    body.abandon(AttemptEnd::NodeFailed);
                    self.note(peer, text);
                    return Failed::Terminal(FailureKind::Reset(error.reason().map_or(0, Into::into)));
                }
                (AttemptEnd::Lost, FailureCause::Lost { stale: false }, text)
            }
        };
        if let Some(in_flight) = body.take_in_flight() {
            in_flight.finish(end);
        }
        self.note(peer, text);
        Failed::Retryable(AttemptFailure::committed(cause), None)
    }

    // What follows.

    /// What follows a failed attempt: another (maybe picked already), or none.
    async fn next_attempt(&mut self, failure: AttemptFailure, members: &Membership) -> Result<Option<Picking>, ()> {
        let joined = members.joined(self.channel.subset_name());
        let context = RetryContext {
            replayable: self.body.as_ref().is_some_and(ReplayBody::can_replay),
            remaining: self.deadline.map(|deadline| deadline.saturating_duration_since(now())),
            peers: u32::try_from(joined.counts().passing).unwrap_or(u32::MAX),
            untried: true,
        };
        let budget = &members.pool.budget;
        let mut decision = self.retry.on_failure(failure, &context, budget, now());
        if decision == RetryDecision::MoveToUntried {
            if let Some(picking) = self.pick_now(members) {
                return Ok(Some(picking));
            }
            decision = self.retry.on_no_untried_peer(failure, &context, budget, now());
        }
        match decision {
            RetryDecision::MoveToUntried | RetryDecision::Move => Ok(None),
            RetryDecision::Retry(delay) => {
                self.sleep(delay).await;
                Ok(None)
            }
            RetryDecision::Stop(reason) => {
                self.stopped = Some(reason);
                Err(())
            }
        }
    }

    async fn sleep(&mut self, delay: Duration) {
        if delay.is_zero() {
            return;
        }
        let until = [now().checked_add(delay), self.deadline].into_iter().flatten().min();
        if let Some(timer) = self.timer_at(until) {
            timer.as_mut().await;
        }
    }

    /// Notes an attempt that got no response of use; its peer is not tried again before the others.
    fn note(&mut self, peer: &Arc<PooledPeer>, ended: String) {
        let id = peer.peer.id();
        self.history.push(AttemptRecord::new(id.id.clone(), id.address.clone(), ended));
        if !self.tried.contains(&peer.key()) {
            self.tried.push(peer.key());
        }
    }

    fn not_sent(&mut self, peer: &Arc<PooledPeer>, ended: String) -> Failed {
        self.note(peer, ended);
        Failed::Retryable(AttemptFailure::uncommitted(FailureCause::NotSent), None)
    }

    fn local_mistake(&mut self, error: RequestError) -> Failed {
        self.request_error = Some(error);
        Failed::Terminal(FailureKind::Request)
    }

    fn fail_request(&mut self, error: RequestError) -> CallError {
        self.request_error = Some(error);
        self.fail(FailureKind::Request)
    }

    fn fail(&mut self, kind: FailureKind) -> CallError {
        CallError {
            kind,
            after: self.start.elapsed(),
            report: Box::new(self.channel.report()),
            history: std::mem::take(&mut self.history),
            stopped: self.stopped.map(|reason| reason.to_string()),
            source: self.request_error.take(),
        }
    }
}

/// Describes the end of a stream. A connection that has ended says more than the stream does.
fn describe(error: &h2::Error, connection: Option<&Arc<Connection>>, stale: bool) -> (AttemptEnd, FailureCause, String) {
    let cause = classify_error(error, stale);
    let (end, text) = match cause {
        FailureCause::Unprocessed => (AttemptEnd::Refused, format!("not processed: {error}")),
        FailureCause::Reset => (AttemptEnd::NodeFailed, format!("the node reset the call: {error}")),
        FailureCause::GoAwayError => (AttemptEnd::Lost, format!("the node closed the connection: {error}")),
        _ => match connection.and_then(|connection| connection.end_reason()) {
            Some(reason) => (AttemptEnd::Lost, format!("connection lost: {reason}")),
            None => (AttemptEnd::Lost, format!("connection lost: {error}")),
        },
    };
    (end, cause, text)
}

/// Why the first frame of a response could not be looked at.
enum Unpeeked {
    Body(BodyError),
    Unresponsive,
}
