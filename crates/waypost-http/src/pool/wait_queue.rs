//! Interface between calls and the pool's task: a fair wait queue of calls, and the peers that
//! calls request a check of.
//!
//! A call that finds no capacity joins the queue. Every event that adds capacity (a returned
//! permit, a new connection, a raised limit, a peer that recovers) serves the queue from its front:
//! the permit is taken on behalf of the call and handed over, so a new call cannot overtake.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::sync::Notify;
use tokio::time::Instant;
use waypost_core::balance::{Balancer, Pick, PickContext, Pickable};

use super::handover::Handover;

/// Key of a peer in the pool's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PeerKey(pub(super) u64);

/// Peer whose connections give permits for streams.
pub(crate) trait GivesPermits: Pickable {
    /// Right to one stream, returned when dropped.
    type Permit: Send;

    /// Returns the key of the peer.
    fn key(&self) -> PeerKey;

    /// Takes a permit; none if every connection is at its peer's limit.
    fn acquire(&self, now: Instant) -> Option<Self::Permit>;
}

/// A picked peer with a permit for one stream.
pub(crate) struct Picking<P: GivesPermits> {
    pub(crate) pick: Pick<P>,
    pub(crate) permit: P::Permit,
}

/// Parameters of a call's pick.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    /// Full path of the method.
    pub(crate) path: Arc<str>,
    /// The caller's affinity key.
    pub(crate) key: Option<Arc<str>>,
    /// Peers that the call has tried and does not accept again yet.
    pub(crate) tried: Vec<PeerKey>,
    /// Number of bytes that the call buffers while it waits.
    pub(crate) bytes: usize,
}

/// Bounds of the wait queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) calls: usize,
    pub(crate) bytes: usize,
}

/// Error of a full wait queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QueueFull {
    /// Too many calls wait.
    Calls,
    /// The waiting calls buffer too many bytes.
    Bytes,
}

/// Reason why no peer was picked.
enum NoCapacity {
    /// No ready peer has capacity, for any call.
    Anywhere,
    /// Peers that this call has tried were skipped, and no other has capacity.
    ForThisCall,
}

/// Takes a permit on one of the balancer's ready peers, except for those in `tried`.
fn try_pick<P: GivesPermits>(
    balancer: &Balancer<P>,
    context: &PickContext<'_>,
    tried: &[PeerKey],
) -> Result<Picking<P>, NoCapacity> {
    let (mut permit, mut left_out) = (None, false);
    let pick = balancer.pick(context, |peer| {
        if tried.contains(&peer.key()) {
            left_out = true;
            return false;
        }
        permit = peer.acquire(context.now);
        permit.is_some()
    });
    match pick.zip(permit) {
        Some((pick, permit)) => Ok(Picking { pick, permit }),
        None if left_out => Err(NoCapacity::ForThisCall),
        None => Err(NoCapacity::Anywhere),
    }
}

/// Wait queue of the calls of one service, and their channel to the pool's task.
pub(crate) struct WaitQueue<P: GivesPermits> {
    queues: Handover<Queues<P>>,
    limits: Limits,
    dirty: Mutex<Vec<PeerKey>>,
    /// Signal that wakes the pool's task.
    pub(super) signal: Notify,
    closed: AtomicBool,
}

impl<P: GivesPermits> fmt::Debug for WaitQueue<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitQueue")
            .field("waiting", &self.waiting())
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl<P: GivesPermits> WaitQueue<P> {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            queues: Handover::default(),
            limits,
            dirty: Mutex::default(),
            signal: Notify::new(),
            closed: AtomicBool::new(false),
        }
    }

    /// Returns true once the pool's task has ended: no node will be ready any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(SeqCst)
    }

    /// Returns the number of waiting calls.
    pub(crate) fn waiting(&self) -> usize {
        self.queues.waiting()
    }

    /// Picks at once, unless other calls already wait.
    pub(crate) fn pick_now(
        &self,
        balancer: &Balancer<P>,
        context: &PickContext<'_>,
        tried: &[PeerKey],
    ) -> Option<Picking<P>> {
        (self.waiting() == 0)
            .then(|| try_pick(balancer, context, tried).ok())
            .flatten()
    }

    /// Joins the queue. The call is served at once if there is capacity for it.
    ///
    /// # Errors
    /// [`QueueFull`] if the maximum number of calls or bytes already waits.
    pub(crate) fn wait(
        self: &Arc<Self>,
        balancer: &Arc<Balancer<P>>,
        wanted: Wanted,
    ) -> Result<Waiting<P>, QueueFull> {
        let slot = Arc::new(WaitSlot::default());
        let mut wakers = Vec::new();
        let joined = self.queues.enter(
            |queues| {
                (
                    queues.join(balancer, wanted, &slot, self.limits),
                    queues.waiting,
                )
            },
            |queues| queues.serve(usize::MAX, &mut wakers),
        );
        wakers.into_iter().for_each(Waker::wake);
        if self.is_closed() {
            slot.close();
        }
        Ok(Waiting {
            queue: Arc::clone(self),
            id: joined?,
            slot,
        })
    }

    /// Serves one waiting call after a permit was returned.
    pub(super) fn permit_returned(&self) {
        self.serve(1);
    }

    /// Serves up to `calls` waiting calls after capacity was added, as far as it suffices.
    pub(super) fn serve(&self, calls: usize) {
        let mut wakers = Vec::new();
        self.queues
            .capacity_added(|queues| queues.serve(calls, &mut wakers));
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Closes the queue. Every waiting call, and every later one, receives the end of the pool.
    pub(super) fn close(&self) {
        self.closed.store(true, SeqCst);
        let mut slots = Vec::new();
        self.queues.enter(
            |queues| (slots = queues.slots(), queues.waiting),
            |queues| queues.waiting,
        );
        slots.into_iter().for_each(|slot| slot.close());
    }

    pub(super) fn mark_dirty(&self, key: PeerKey) {
        self.lock_dirty().push(key);
        self.signal.notify_one();
    }

    /// Takes the peers that calls requested a check of.
    pub(super) fn take_dirty(&self) -> Vec<PeerKey> {
        std::mem::take(&mut *self.lock_dirty())
    }

    fn lock_dirty(&self) -> MutexGuard<'_, Vec<PeerKey>> {
        self.dirty.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waiting calls of one service: a queue per balancer, so that a call without ready nodes delays
/// only calls of the same balancer.
struct Queues<P: GivesPermits> {
    next: u64,
    waiting: usize,
    bytes: usize,
    queues: Vec<Queue<P>>,
}

struct Queue<P: GivesPermits> {
    balancer: Arc<Balancer<P>>,
    calls: BTreeMap<u64, WaitingCall<P>>,
}

struct WaitingCall<P: GivesPermits> {
    wanted: Wanted,
    slot: Arc<WaitSlot<P>>,
}

impl<P: GivesPermits> Default for Queues<P> {
    fn default() -> Self {
        Self {
            next: 0,
            waiting: 0,
            bytes: 0,
            queues: Vec::new(),
        }
    }
}

impl<P: GivesPermits> Queues<P> {
    fn join(
        &mut self,
        balancer: &Arc<Balancer<P>>,
        wanted: Wanted,
        slot: &Arc<WaitSlot<P>>,
        limits: Limits,
    ) -> Result<u64, QueueFull> {
        if self.waiting >= limits.calls {
            return Err(QueueFull::Calls);
        }
        if self.bytes.saturating_add(wanted.bytes) > limits.bytes && self.waiting > 0 {
            return Err(QueueFull::Bytes);
        }
        let id = self.next;
        self.next += 1;
        self.waiting += 1;
        self.bytes += wanted.bytes;
        let call = WaitingCall {
            wanted,
            slot: Arc::clone(slot),
        };
        match self
            .queues
            .iter_mut()
            .find(|queue| Arc::ptr_eq(&queue.balancer, balancer))
        {
            Some(queue) => _ = queue.calls.insert(id, call),
            None => self.queues.push(Queue {
                balancer: Arc::clone(balancer),
                calls: BTreeMap::from([(id, call)]),
            }),
        }
        Ok(id)
    }

    fn leave(&mut self, id: u64) {
        for at in 0..self.queues.len() {
            if let Some(call) = self.queues[at].calls.remove(&id) {
                self.forget(&call);
                if self.queues[at].calls.is_empty() {
                    self.queues.swap_remove(at);
                }
                return;
            }
        }
    }

    fn forget(&mut self, call: &WaitingCall<P>) {
        self.waiting -= 1;
        self.bytes -= call.wanted.bytes;
    }

    fn find(&mut self, id: u64) -> Option<&mut WaitingCall<P>> {
        self.queues
            .iter_mut()
            .find_map(|queue| queue.calls.get_mut(&id))
    }

    /// Hands permits to up to `most` calls, in order of arrival, as far as there is capacity;
    /// returns the number of calls that still wait.
    fn serve(&mut self, most: usize, wakers: &mut Vec<Waker>) -> usize {
        let mut full: Vec<bool> = vec![false; self.queues.len()];
        for _ in 0..most {
            let first = |at: &usize| {
                self.queues[*at]
                    .calls
                    .keys()
                    .next()
                    .copied()
                    .unwrap_or(u64::MAX)
            };
            let Some(at) = (0..self.queues.len())
                .filter(|&at| !full[at] && !self.queues[at].calls.is_empty())
                .min_by_key(first)
            else {
                break;
            };
            match self.queues[at].serve_one(wakers) {
                Some(call) => self.forget(&call),
                None => full[at] = true,
            }
        }
        self.queues.retain(|queue| !queue.calls.is_empty());
        self.waiting
    }

    fn slots(&self) -> Vec<Arc<WaitSlot<P>>> {
        self.queues
            .iter()
            .flat_map(|queue| queue.calls.values().map(|call| Arc::clone(&call.slot)))
            .collect()
    }
}

impl<P: GivesPermits> Queue<P> {
    /// Serves the first call that there is capacity for. A call that only waits for peers it has
    /// not tried lets the next one pass.
    fn serve_one(&mut self, wakers: &mut Vec<Waker>) -> Option<WaitingCall<P>> {
        let now = Instant::now();
        for (&id, call) in &self.calls {
            let Wanted {
                path, key, tried, ..
            } = &call.wanted;
            match try_pick(
                &self.balancer,
                &PickContext::new(path, now).with_key(key.as_deref()),
                tried,
            ) {
                Ok(picking) => {
                    wakers.extend(call.slot.hand_over(picking));
                    return self.calls.remove(&id);
                }
                Err(NoCapacity::ForThisCall) => {}
                Err(NoCapacity::Anywhere) => return None,
            }
        }
        None
    }
}

/// WaitSlot in which a waiting call receives its permit.
struct WaitSlot<P: GivesPermits>(Mutex<WaitSlotState<P>>);

struct WaitSlotState<P: GivesPermits> {
    picking: Option<Picking<P>>,
    closed: bool,
    waker: Option<Waker>,
}

impl<P: GivesPermits> Default for WaitSlot<P> {
    fn default() -> Self {
        Self(Mutex::new(WaitSlotState {
            picking: None,
            closed: false,
            waker: None,
        }))
    }
}

impl<P: GivesPermits> WaitSlot<P> {
    fn lock(&self) -> MutexGuard<'_, WaitSlotState<P>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hand_over(&self, picking: Picking<P>) -> Option<Waker> {
        let mut state = self.lock();
        state.picking = Some(picking);
        state.waker.take()
    }

    fn close(&self) {
        let waker = {
            let mut state = self.lock();
            state.closed = true;
            state.waker.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }
}

/// Queued call, until it is served or this is dropped.
pub(crate) struct Waiting<P: GivesPermits> {
    queue: Arc<WaitQueue<P>>,
    id: u64,
    slot: Arc<WaitSlot<P>>,
}

/// Error of a call that waited when the pool's task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PoolGone;

impl<P: GivesPermits> Waiting<P> {
    /// Polls until the call is served.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Picking<P>, PoolGone>> {
        let mut state = self.slot.lock();
        if let Some(picking) = state.picking.take() {
            return Poll::Ready(Ok(picking));
        }
        if state.closed {
            return Poll::Ready(Err(PoolGone));
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => state.waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Accepts peers that the call has tried, too. It keeps its position in the queue.
    pub(crate) fn accept_tried(&self) {
        let mut wakers = Vec::new();
        self.queue.queues.enter(
            |queues| {
                if let Some(call) = queues.find(self.id) {
                    call.wanted.tried.clear();
                }
                ((), queues.waiting)
            },
            |queues| queues.serve(usize::MAX, &mut wakers),
        );
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl<P: GivesPermits> Drop for Waiting<P> {
    fn drop(&mut self) {
        self.queue.queues.enter(
            |queues| (queues.leave(self.id), queues.waiting),
            |queues| queues.waiting,
        );
        // Dropped outside of the locks, since the returned permit serves the queue.
        let picking = self.slot.lock().picking.take();
        drop(picking);
    }
}
