//! Watcher with a timer, so that records expire on time and not at the next call.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use tokio::time::{Instant, Sleep, sleep_until};

use super::Shared;
use crate::registry::{Event, Result, Watcher};

pub(super) struct Clocked {
    shared: Shared,
    events: Watcher,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Clocked {
    pub(super) fn new(shared: Shared, events: Watcher) -> Self {
        Self {
            shared,
            events,
            alarm: None,
        }
    }

    /// Removes expired records, and returns the expiry of the next one. A record added later wakes
    /// the watcher, since it causes an event.
    fn tick(&self) -> Option<Instant> {
        let mut store = self.shared.lock();
        store.expire(Instant::now());
        store.next_expiry()
    }
}

impl Stream for Clocked {
    type Item = Result<Event>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let next = self.tick();
            if let Poll::Ready(item) = Pin::new(&mut self.events).poll_next(cx) {
                return Poll::Ready(item);
            }
            self.alarm = next.map(|at| Box::pin(sleep_until(at)));
            let Some(alarm) = &mut self.alarm else {
                return Poll::Pending;
            };
            if alarm.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}
