//! Hand-over of `waypost-http`'s pool: a returned permit reaches the call that waits for it.

#[path = "../../waypost-http/src/pool/handover.rs"]
mod handover;

/// Primitives of `handover`, replaced by loom's.
mod sync {
    pub(super) use loom::sync::atomic::{AtomicUsize, Ordering, fence};
    pub(super) use loom::sync::{Mutex, MutexGuard};
    pub(super) use std::sync::PoisonError;
}

use std::collections::VecDeque;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

use handover::Handover;

/// Permits of a connection: taken and returned by atomics, as in `Connection`.
struct Permits(AtomicUsize);

impl Permits {
    fn acquire(&self) -> bool {
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| {
                free.checked_sub(1)
            })
            .is_ok()
    }

    fn release(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Queue of waiting calls: each has a counter that records that it was served.
type Line = VecDeque<Arc<AtomicUsize>>;

struct WaitQueue {
    permits: Permits,
    line: Handover<Line>,
}

impl WaitQueue {
    fn serve(&self, line: &mut Line) -> usize {
        while !line.is_empty() && self.permits.acquire() {
            if let Some(call) = line.pop_front() {
                call.fetch_add(1, Ordering::SeqCst);
            }
        }
        line.len()
    }

    fn wait(&self, call: &Arc<AtomicUsize>) {
        let join = |line: &mut Line| {
            line.push_back(Arc::clone(call));
            ((), line.len())
        };
        self.line.enter(join, |line| self.serve(line));
    }

    fn give_back(&self) {
        self.permits.release();
        self.line.capacity_added(|line| self.serve(line));
    }
}

fn room(free: usize) -> Arc<WaitQueue> {
    Arc::new(WaitQueue {
        permits: Permits(AtomicUsize::new(free)),
        line: Handover::default(),
    })
}

#[test]
fn a_permit_given_back_while_a_call_joins_the_line_is_never_lost() {
    loom::model(|| {
        let (room, call) = (room(0), Arc::new(AtomicUsize::new(0)));
        let giver = {
            let room = Arc::clone(&room);
            thread::spawn(move || room.give_back())
        };
        room.wait(&call);
        giver.join().unwrap();
        assert_eq!(
            call.load(Ordering::SeqCst),
            1,
            "the call waits beside a free permit"
        );
        assert_eq!(room.line.waiting(), 0);
    });
}

/// Every order with at most two preemptions; a higher bound takes hours.
#[test]
fn a_permit_given_back_serves_one_of_two_calls_once_and_the_other_keeps_waiting() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let room = room(0);
        let calls = [Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0))];
        let giver = {
            let room = Arc::clone(&room);
            thread::spawn(move || room.give_back())
        };
        calls.iter().for_each(|call| room.wait(call));
        giver.join().unwrap();
        let served: Vec<_> = calls
            .iter()
            .map(|call| call.load(Ordering::SeqCst))
            .collect();
        assert_eq!(
            (served, room.line.waiting()),
            (vec![1, 0], 1),
            "first come, first served"
        );
    });
}
