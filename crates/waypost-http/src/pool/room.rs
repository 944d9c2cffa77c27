//! Where calls and the pool's task meet: a fair line of waiting calls, and the peers that calls ask the task to look at.
//!
//! A call that finds no room joins the line. Whatever makes room (a permit given back, a new connection, a raised limit, a peer that is well
//! again) serves the line from its front: the permit is taken on behalf of the call and handed over, so a new call cannot overtake.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::sync::Notify;
use tokio::time::Instant;
use waypost_core::balance::{Balancer, Pick, PickContext};

use super::handover::Handover;
use super::peer::{PeerKey, Permit, PooledPeer};

/// A picked peer with a permit for one stream.
#[derive(Debug)]
pub(crate) struct Picking {
    pub(crate) pick: Pick<PooledPeer>,
    pub(crate) permit: Permit,
}

/// What a pick of one call depends on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    /// Full path of the method.
    pub(crate) path: Arc<str>,
    /// The caller's affinity key.
    pub(crate) key: Option<Arc<str>>,
    /// Peers that the call has tried and does not want again yet.
    pub(crate) tried: Vec<PeerKey>,
    /// Bytes that the call keeps while it waits.
    pub(crate) bytes: usize,
}

/// Bounds of the line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) calls: usize,
    pub(crate) bytes: usize,
}

/// The line is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// Too many calls wait.
    Calls,
    /// The calls that wait keep too many bytes.
    Bytes,
}

/// Why no peer was picked.
enum NoRoom {
    /// No ready peer has room, for any call.
    Anywhere,
    /// Only peers that this call has tried were not looked at.
    ForThisCall,
}

/// Takes a permit on one of the balancer's ready peers, `tried` ones left out.
fn try_pick(balancer: &Balancer<PooledPeer>, context: &PickContext<'_>, tried: &[PeerKey]) -> Result<Picking, NoRoom> {
    let (mut permit, mut left_out) = (None, false);
    let pick = balancer.pick(context, |peer| {
        if tried.contains(&peer.key) {
            left_out = true;
            return false;
        }
        permit = peer.acquire(context.now);
        permit.is_some()
    });
    match pick.zip(permit) {
        Some((pick, permit)) => Ok(Picking { pick, permit }),
        None if left_out => Err(NoRoom::ForThisCall),
        None => Err(NoRoom::Anywhere),
    }
}

/// Where the calls of one service wait for room, and how they reach the pool's task.
#[derive(Debug)]
pub(crate) struct Room {
    lines: Handover<Lines>,
    limits: Limits,
    looks: Mutex<Vec<PeerKey>>,
    /// Wakes the pool's task.
    pub(super) signal: Notify,
    closed: AtomicBool,
}

impl Room {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            lines: Handover::default(),
            limits,
            looks: Mutex::default(),
            signal: Notify::new(),
            closed: AtomicBool::new(false),
        }
    }

    /// Returns true once the pool's task has ended: no node will be ready any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(SeqCst)
    }

    /// Number of calls that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.lines.waiting()
    }

    /// Picks at once, unless other calls wait already.
    pub(crate) fn pick_now(
        &self,
        balancer: &Balancer<PooledPeer>,
        context: &PickContext<'_>,
        tried: &[PeerKey],
    ) -> Option<Picking> {
        (self.waiting() == 0).then(|| try_pick(balancer, context, tried).ok()).flatten()
    }

    /// Joins the line, and is served at once if there is room for it.
    ///
    /// # Errors
    /// [`Full`] if as many calls or bytes wait as may.
    pub(crate) fn wait(self: &Arc<Self>, balancer: &Arc<Balancer<PooledPeer>>, wanted: Wanted) -> Result<Waiting, Full> {
        let slot = Arc::new(Slot::default());
        let mut wakers = Vec::new();
        let joined = self.lines.enter(
            |lines| (lines.join(balancer, wanted, &slot, self.limits), lines.waiting),
            |lines| lines.serve(usize::MAX, &mut wakers),
        );
        wakers.into_iter().for_each(Waker::wake);
        if self.is_closed() {
            slot.close();
        }
        Ok(Waiting { room: Arc::clone(self), id: joined?, slot })
    }

    /// A permit was given back: one call may go on.
    pub(super) fn permit_returned(&self) {
        self.serve(1);
    }

    /// Room was made: up to `calls` waiting calls go on, as far as there is room.
    pub(super) fn serve(&self, calls: usize) {
        let mut wakers = Vec::new();
        self.lines.room_made(|lines| lines.serve(calls, &mut wakers));
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Ends the line: every waiting call, also one still to come, hears that the pool is gone.
    pub(super) fn close(&self) {
        self.closed.store(true, SeqCst);
        let mut slots = Vec::new();
        self.lines.enter(|lines| (slots = lines.slots(), lines.waiting), |lines| lines.waiting);
        slots.into_iter().for_each(|slot| slot.close());
    }

    pub(super) fn ask_for_a_look(&self, key: PeerKey) {
        self.lock_looks().push(key);
        self.signal.notify_one();
    }

    /// Peers that calls asked the task to look at.
    pub(super) fn take_looks(&self) -> Vec<PeerKey> {
        std::mem::take(&mut *self.lock_looks())
    }

    fn lock_looks(&self) -> MutexGuard<'_, Vec<PeerKey>> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The waiting calls of one service: a line for each balancer, so that a call whose nodes are away holds up only its like.
#[derive(Debug, Default)]
struct Lines {
    next: u64,
    waiting: usize,
    bytes: usize,
    lines: Vec<Line>,
}

#[derive(Debug)]
struct Line {
    balancer: Arc<Balancer<PooledPeer>>,
    calls: BTreeMap<u64, Call>,
}

#[derive(Debug)]
struct Call {
    wanted: Wanted,
    slot: Arc<Slot>,
}

impl Lines {
    fn join(
        &mut self,
        balancer: &Arc<Balancer<PooledPeer>>,
        wanted: Wanted,
        slot: &Arc<Slot>,
        limits: Limits,
    ) -> Result<u64, Full> {
        if self.waiting >= limits.calls {
            return Err(Full::Calls);
        }
        if self.bytes.saturating_add(wanted.bytes) > limits.bytes && self.waiting > 0 {
            return Err(Full::Bytes);
        }
        let id = self.next;
        self.next += 1;
        self.waiting += 1;
        self.bytes += wanted.bytes;
        let call = Call { wanted, slot: Arc::clone(slot) };
        match self.lines.iter_mut().find(|line| Arc::ptr_eq(&line.balancer, balancer)) {
            Some(line) => _ = line.calls.insert(id, call),
            None => self.lines.push(Line { balancer: Arc::clone(balancer), calls: BTreeMap::from([(id, call)]) }),
        }
        Ok(id)
    }

    fn leave(&mut self, id: u64) {
        for at in 0..self.lines.len() {
            if let Some(call) = self.lines[at].calls.remove(&id) {
                self.forget(&call);
                if self.lines[at].calls.is_empty() {
                    self.lines.swap_remove(at);
                }
                return;
            }
        }
    }

    fn forget(&mut self, call: &Call) {
        self.waiting -= 1;
        self.bytes -= call.wanted.bytes;
    }

    fn find(&mut self, id: u64) -> Option<&mut Call> {
        self.lines.iter_mut().find_map(|line| line.calls.get_mut(&id))
    }

    /// Hands permits to up to `most` calls, first come first served, as far as there is room; returns how many still wait.
    fn serve(&mut self, most: usize, wakers: &mut Vec<Waker>) -> usize {
        let mut full: Vec<bool> = vec![false; self.lines.len()];
        for _ in 0..most {
            let first = |at: &usize| self.lines[*at].calls.keys().next().copied().unwrap_or(u64::MAX);
            let Some(at) = (0..self.lines.len()).filter(|&at| !full[at] && !self.lines[at].calls.is_empty()).min_by_key(first)
            else {
                break;
            };
            match self.lines[at].serve_one(wakers) {
                Some(call) => self.forget(&call),
                None => full[at] = true,
            }
        }
        self.lines.retain(|line| !line.calls.is_empty());
        self.waiting
    }

    fn slots(&self) -> Vec<Arc<Slot>> {
        self.lines.iter().flat_map(|line| line.calls.values().map(|call| Arc::clone(&call.slot))).collect()
    }
}

impl Line {
    /// Serves the first call that there is room for. One that only waits for peers it has not tried lets the next go first.
    fn serve_one(&mut self, wakers: &mut Vec<Waker>) -> Option<Call> {
        let now = Instant::now();
        for (&id, call) in &self.calls {
            let Wanted { path, key, tried, .. } = &call.wanted;
            match try_pick(&self.balancer, &PickContext::new(path, now).with_key(key.as_deref()), tried) {
                Ok(picking) => {
                    wakers.extend(call.slot.hand_over(picking));
                    return self.calls.remove(&id);
                }
                Err(NoRoom::ForThisCall) => {}
                Err(NoRoom::Anywhere) => return None,
            }
        }
        None
    }
}

/// Where one waiting call is handed its permit.
#[derive(Debug, Default)]
struct Slot(Mutex<SlotState>);

#[derive(Debug, Default)]
struct SlotState {
    picking: Option<Picking>,
    closed: bool,
    waker: Option<Waker>,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, SlotState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hand_over(&self, picking: Picking) -> Option<Waker> {
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

/// A call in the line, until it is served or this is dropped.
#[derive(Debug)]
pub(crate) struct Waiting {
    room: Arc<Room>,
    id: u64,
    slot: Arc<Slot>,
}

/// The pool's task has ended while a call waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PoolGone;

impl Waiting {
    /// Waits until the call is served.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Picking, PoolGone>> {
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

    /// Lets the call be served by peers that it has tried, too. It keeps its place.
    pub(crate) fn accept_tried(&self) {
        let mut wakers = Vec::new();
        self.room.lines.enter(
            |lines| {
                if let Some(call) = lines.find(self.id) {
                    call.wanted.tried.clear();
                }
                ((), lines.waiting)
            },
            |lines| lines.serve(usize::MAX, &mut wakers),
        );
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.room.lines.enter(|lines| (lines.leave(self.id), lines.waiting), |lines| lines.waiting);
        // Given back outside of the locks, since that serves the line.
        let picking = self.slot.lock().picking.take();
        drop(picking);
    }
}
