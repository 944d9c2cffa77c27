//! One call: pick, send, classify, and possibly retry.
//!
//! [`Call`] is the state shared by all attempts of a call: the request's head, its buffered body,
//! the policy and the deadline. The state of one attempt is in [`attempt`], so that two may be in
//! flight. An attempt passes from [`pick`] to [`send`] to [`answer`];
//! [`next_attempt`](Call::next_attempt) decides what follows a failed one. This module never knows
//! how a node is picked or connected.

mod answer;
mod attempt;
mod attempt_error;
mod body_task;
mod head;
mod headers;
mod pick;
mod replay;
pub(crate) mod response;
mod send;
mod timer;
mod watch;

use std::future::{Future, poll_fn};
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Buf;
use http::{Request, Response};
use http_body::Body;
use tokio::time::Instant;

use crate::error::{CallError, FailureKind};
use crate::pool::{GivesPermits as _, PeerKey, Picking, PooledPeer};
use crate::protocol::{BoxError, ResponseClass};
use crate::retry::{
    AttemptHistory, AttemptRecord, RetryContext, RetryDecision, RetryState, StopReason,
};
use crate::service::{PoolMembership, ServiceHandle, now};
use attempt_error::AttemptError;
pub(crate) use body_task::{BodyGuard, BodyTask};
pub use head::PickKey;
use head::RequestHead;
pub(crate) use replay::ReplayBody;
use response::ResponseBody;
use timer::Timer;

/// Deadline of unary calls that set none, and maximum wait for a node of calls without a deadline.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// Call in flight: the state that its attempts share. Its future is allocated for every call, so
/// cold state is boxed and the common state is kept small.
pub(crate) struct Call<B> {
    service: ServiceHandle,
    start: Instant,
    deadline: Option<Instant>,
    head: RequestHead,
    body: Option<ReplayBody<B>>,
    retry: RetryState,
    idempotent: bool,
    unary: bool,
    /// The peer of the next attempt, with a permit.
    picked: Option<Picking>,
    sent: u32,
    failures: Option<Box<Failures>>,
    timer: Option<Timer>,
}

/// Failures of a call so far. Most calls have none.
#[derive(Default)]
struct Failures {
    /// Peers that are tried again only after the others.
    tried: Vec<PeerKey>,
    history: AttemptHistory,
    stopped: Option<StopReason>,
}

/// Boxes a future that few calls run, and keeps its code apart, so that the code that every call
/// runs fits into the processor's cache.
#[cold]
fn cold<'a, T>(
    future: impl Future<Output = T> + Send + 'a,
) -> Pin<Box<dyn Future<Output = T> + Send + 'a>> {
    Box::pin(future)
}

impl<B> Call<B>
where
    B: Body + Unpin + Send + 'static,
    B::Data: Buf + Send,
    B::Error: Into<BoxError>,
{
    pub(crate) fn new(service: ServiceHandle, request: Request<B>) -> Self {
        let start = now();
        let shared = service.shared();
        let (parts, body) = request.into_parts();
        Self {
            start,
            deadline: shared
                .protocol
                .timeout(&parts.headers)
                .and_then(|timeout| start.checked_add(timeout)),
            head: RequestHead::new(parts),
            body: Some(ReplayBody::new(body, shared.config.replay_limit)),
            retry: RetryState::new(&shared.config.policy),
            idempotent: false,
            unary: false,
            picked: None,
            sent: 0,
            failures: None,
            timer: None,
            service,
        }
    }

    pub(crate) async fn run(&mut self) -> Result<Response<ResponseBody>, CallError> {
        let mut members = self.members()?;
        members.pool.budget.deposit(self.start);
        self.fill_body().await?;
        loop {
            let at = now();
            if self.deadline.is_some_and(|deadline| deadline <= at) {
                return Err(self.fail(FailureKind::Deadline, None));
            }
            if self.picked.is_none() {
                self.picked = self.pick_now(&members, at);
            }
            let Some(peer) = self
                .picked
                .as_ref()
                .map(|picked| Arc::clone(picked.pick.item()))
            else {
                self.picked = Some(cold(self.wait_and_pick(&mut members)).await?);
                continue;
            };
            let error = match self.attempt(&peer, at).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            if let ControlFlow::Break(outcome) =
                cold(self.next_attempt(error, &peer, &members)).await
            {
                return outcome;
            }
        }
    }

    /// Makes one attempt on the picked peer, starting at `at`. If the call may not be sent twice, a
    /// connection that may have died while idle is verified first.
    ///
    /// A single function, since each layer of futures copies the response again.
    async fn attempt(
        &mut self,
        peer: &Arc<PooledPeer>,
        mut at: Instant,
    ) -> Result<Response<ResponseBody>, AttemptError> {
        self.apply_policy(peer);
        let mut unproven = self
            .picked
            .as_ref()
            .is_some_and(|picked| picked.permit.unproven);
        if unproven && !self.idempotent {
            cold(self.prove()).await?;
            (unproven, at) = (false, now());
        }
        let (mut response, class) = 'answered: {
            let unanswered = {
                let mut sent = self.send(peer, unproven, at)?;
                match self.wait_for_head(&mut sent, peer, at).await {
                    Ok(head) => {
                        let class = self
                            .service
                            .shared()
                            .protocol
                            .classify_head(head.status(), head.headers());
                        match self.response(head, sent, peer) {
                            Some(response) => break 'answered (response, class),
                            None => return Err(AttemptError::not_sent("not sent".to_owned())),
                        }
                    }
                    Err(why) => cold(self.unanswered(sent, why)),
                }
            };
            return Err(unanswered.await);
        };
        let peeked = if class == ResponseClass::Success && !response.body().is_end_stream() {
            self.peek(response.body_mut(), peer).await
        } else {
            Ok(class)
        };
        let class = match peeked {
            Ok(class) => class,
            Err(why) => return Err(self.broken(response.body_mut(), why)),
        };
        response.body_mut().classified(class);
        match class {
            ResponseClass::Unavailable(pushback) => {
                Err(AttemptError::Unavailable(pushback, Box::new(response)))
            }
            _ => Ok(response),
        }
    }

    fn members(&mut self) -> Result<Arc<PoolMembership>, CallError> {
        self.service.members().map_err(|error| {
            let kind = if matches!(error, waypost_core::registry::Error::Closed) {
                FailureKind::Closed
            } else {
                FailureKind::NoRuntime
            };
            self.fail(kind, None)
        })
    }

    /// Takes the part of the body that is available at once. A body that fails at once is sent to
    /// no node.
    async fn fill_body(&mut self) -> Result<(), CallError> {
        poll_fn(|cx| {
            if let Some(body) = &mut self.body {
                body.fill(cx);
            }
            Poll::Ready(())
        })
        .await;
        match self.body.as_mut().and_then(ReplayBody::take_error) {
            Some(error) => Err(self.fail(FailureKind::Request, Some(error.into()))),
            None => Ok(()),
        }
    }

    /// Records a failed attempt and prepares another, if one may follow: its peer may be picked
    /// already. Breaks with the outcome of the call otherwise.
    async fn next_attempt(
        &mut self,
        error: AttemptError,
        peer: &PooledPeer,
        members: &PoolMembership,
    ) -> ControlFlow<Result<Response<ResponseBody>, CallError>> {
        if error.is_of_node() {
            self.record_failure(peer, error.to_string());
        }
        let Some(failure) = error.failure() else {
            return ControlFlow::Break(Err(self.fail(error.kind(), error.into_source())));
        };
        let joined = self.service.joined(members);
        let context = RetryContext {
            replayable: self.body.as_ref().is_some_and(ReplayBody::can_replay),
            remaining: self
                .deadline
                .map(|deadline| deadline.saturating_duration_since(now())),
            peers: u32::try_from(joined.counts().passing).unwrap_or(u32::MAX),
            untried: true,
        };
        let budget = &members.pool.budget;
        let mut decision = self.retry.on_failure(failure, &context, budget, now());
        if decision == RetryDecision::MoveToUntried {
            self.picked = self.pick_now(members, now());
            if self.picked.is_some() {
                return ControlFlow::Continue(());
            }
            decision = self
                .retry
                .on_no_untried_peer(failure, &context, budget, now());
        }
        match decision {
            RetryDecision::MoveToUntried | RetryDecision::Move => {}
            RetryDecision::Retry(delay) => self.sleep(delay).await,
            RetryDecision::Stop(reason) => {
                self.failures().stopped = Some(reason);
                return ControlFlow::Break(match error {
                    AttemptError::Unavailable(_, response) => Ok(*response),
                    error => Err(self.fail(error.kind(), error.into_source())),
                });
            }
        }
        ControlFlow::Continue(())
    }

    async fn sleep(&mut self, delay: Duration) {
        if delay.is_zero() {
            return;
        }
        let until = [now().checked_add(delay), self.deadline]
            .into_iter()
            .flatten()
            .min();
        if let Some(timer) = self.timer_at(until) {
            poll_fn(|cx| timer.poll(cx)).await;
        }
    }

    fn timer_at(&mut self, at: Option<Instant>) -> Option<&mut Timer> {
        let at = at?;
        if let Some(timer) = &mut self.timer {
            timer.reset(at);
        }
        Some(self.timer.get_or_insert_with(|| Timer::at(at)))
    }

    /// Records an attempt without a usable response; its peer is tried again only after the others.
    #[cold]
    fn record_failure(&mut self, peer: &PooledPeer, ended: String) {
        let id = peer.peer.id();
        let failures = self.failures();
        failures
            .history
            .push(AttemptRecord::new(id.id.clone(), id.address.clone(), ended));
        if !failures.tried.contains(&peer.key()) {
            failures.tried.push(peer.key());
        }
    }

    fn failures(&mut self) -> &mut Failures {
        self.failures.get_or_insert_default()
    }

    fn tried(&self) -> &[PeerKey] {
        self.failures
            .as_ref()
            .map_or(&[], |failures| &failures.tried)
    }

    #[cold]
    fn forget_tried(&mut self) {
        if let Some(failures) = &mut self.failures {
            failures.tried.clear();
        }
    }

    #[cold]
    fn fail(&mut self, kind: FailureKind, source: Option<BoxError>) -> CallError {
        let Failures {
            tried: _,
            history,
            stopped,
        } = self
            .failures
            .take()
            .map(|failures| *failures)
            .unwrap_or_default();
        CallError {
            kind,
            after: self.start.elapsed(),
            report: Box::new(self.service.report()),
            history,
            stopped: stopped.map(|reason| reason.to_string()),
            source,
        }
    }
}
