//! Pick of a node for a call: at once if one has capacity, or through the wait queue.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Buf;
use http_body::Body;
use tokio::time::Instant;
use waypost_core::balance::PickContext;

use super::replay::ReplayBody;
use super::{Call, DEFAULT_TIMEOUT};
use crate::error::{CallError, FailureKind};
use crate::pool::{Picking, QueueFull, Wanted};
use crate::protocol::BoxError;
use crate::service::{PoolMembership, now};

impl<B> Call<B>
where
    B: Body + Unpin + Send + 'static,
    B::Data: Buf + Send,
    B::Error: Into<BoxError>,
{
    /// Returns a ready peer that was not tried yet, with a permit; none if there is none now, or if
    /// other calls already wait.
    pub(super) fn pick_now(&self, members: &PoolMembership, now: Instant) -> Option<Picking> {
        let balancer = &self.service.joined(members).balancer;
        let context = PickContext::new(self.head.path(), now).with_key(self.head.key());
        members
            .pool
            .queue
            .pick_now(balancer, &context, self.tried())
    }

    /// Waits in the queue for a ready peer. A tried peer is accepted only after a delay, and only
    /// if no other is ready.
    pub(super) async fn wait_and_pick(
        &mut self,
        members: &mut Arc<PoolMembership>,
    ) -> Result<Picking, CallError> {
        let start = now();
        let config = &self.service.shared().config;
        let longest = self
            .deadline
            .or_else(|| start.checked_add(config.default_timeout.unwrap_or(DEFAULT_TIMEOUT)));
        let given = config
            .wait_for_ready
            .and_then(|wait| start.checked_add(wait));
        let until = [longest, given].into_iter().flatten().min();
        let mut unknown_until = if config.wait_for_ready.is_none() {
            start.checked_add(config.wait_for_node)
        } else {
            None
        };
        let mut accept_at = (!self.tried().is_empty())
            .then(|| start.checked_add(config.policy.draw_retry_delay(fastrand::f64())))
            .flatten();
        loop {
            let joined = self.service.joined(members).clone();
            let mut waiting = match members.pool.queue.wait(&joined.balancer, self.wanted()) {
                Ok(waiting) => waiting,
                Err(full) => {
                    let kind = match full {
                        QueueFull::Calls => FailureKind::QueueFull,
                        QueueFull::Bytes => FailureKind::QueueBytes,
                    };
                    return Err(self.fail(kind, None));
                }
            };
            loop {
                let wake = [until, unknown_until, accept_at]
                    .into_iter()
                    .flatten()
                    .min();
                let mut timer = self.timer_at(wake);
                let served = poll_fn(|cx| match waiting.poll(cx) {
                    Poll::Ready(served) => Poll::Ready(Some(served)),
                    Poll::Pending => timer
                        .as_mut()
                        .map_or(Poll::Pending, |timer| timer.poll(cx).map(|()| None)),
                });
                match served.await {
                    Some(Ok(picking)) => return Ok(picking),
                    // The task that connects the nodes has ended; the next use of the pool starts
                    // it again.
                    Some(Err(_gone)) => break,
                    None => {}
                }
                let now = now();
                self.check_wait(until, now)?;
                if accept_at.take_if(|at| *at <= now).is_some() {
                    self.forget_tried();
                    waiting.accept_tried();
                }
                if unknown_until.take_if(|at| *at <= now).is_some() && !joined.knows_a_node() {
                    return Err(self.fail(FailureKind::NoReadyNode, None));
                }
            }
            drop(waiting);
            // The delay keeps a pool that ends at once from being restarted in a loop.
            tokio::time::sleep(Duration::from_millis(fastrand::u64(1..20))).await;
            self.check_wait(until, now())?;
            *members = self.members()?;
            self.forget_tried();
        }
    }

    /// Returns the error of a wait that has lasted until `until`.
    fn check_wait(&mut self, until: Option<Instant>, now: Instant) -> Result<(), CallError> {
        if until.is_none_or(|until| now < until) {
            return Ok(());
        }
        let is_late = self.deadline.is_some_and(|deadline| deadline <= now);
        let kind = if is_late {
            FailureKind::Deadline
        } else {
            FailureKind::NoReadyNode
        };
        Err(self.fail(kind, None))
    }

    fn wanted(&self) -> Wanted {
        let bytes =
            self.body.as_ref().map_or(0, ReplayBody::kept_bytes) + self.head.header_list_size();
        Wanted {
            path: self.head.path().into(),
            key: self.head.key().map(Arc::from),
            tried: self.tried().to_vec(),
            bytes,
        }
    }
}
