//! What a watcher tells.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;

use super::Result;
use crate::record::{Entry, Key};

/// One piece of news about nodes. Trouble with the registry is never an event: it is the `Err` of a [`Watcher`]'s item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Everything there is, now: the first item, and the first after any gap.
    Reset(Vec<Entry>),
    /// A node that was not there.
    Created(Entry),
    /// A node that was there and now says something else; `leaving` is never merged away.
    Updated(Entry),
    /// A node that is gone: after `Updated(leaving)` it left, else it was lost.
    Deleted(Key),
}

/// The ordered, gap-free events of a registry: a `Stream`, and [`next`](Watcher::next) for those without stream extensions.
///
/// The first item is [`Event::Reset`]; then changes in order; after any gap another `Reset`. Passing states of one node may be merged;
/// the last state is never lost and nothing is told twice; `Updated(leaving)` precedes `Deleted`, and only a `Reset` may hide it.
/// `Err` means trouble with the registry: keep what you have, the watcher goes on by itself. It ends only when dropped, or when its
/// registry is closed. Dropping it stops what it holds in the registry.
pub struct Watcher(Pin<Box<dyn Stream<Item = Result<Event>> + Send>>);

impl Watcher {
    /// A watcher over any stream that keeps the promise above.
    pub fn new(stream: impl Stream<Item = Result<Event>> + Send + 'static) -> Self {
        Self(Box::pin(stream))
    }

    /// The next event; none when the registry was closed.
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub async fn next(&mut self) -> Option<Result<Event>> {
        std::future::poll_fn(|cx| self.0.as_mut().poll_next(cx)).await
    }
}

impl Stream for Watcher {
    type Item = Result<Event>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watcher")
    }
}

/// What events add up to: each node's last state, by key. Backends diff against it, listeners fold into it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picture(BTreeMap<Key, Entry>);

impl Picture {
    /// A picture of these entries.
    pub fn of(entries: impl IntoIterator<Item = Entry>) -> Self {
        Self(entries.into_iter().map(|entry| (entry.key(), entry)).collect())
    }

    /// The entries, by key.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.0.values()
    }

    /// What is known of one node.
    pub fn get(&self, key: &Key) -> Option<&Entry> {
        self.0.get(key)
    }

    /// How many nodes it holds.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Folds one event in.
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::Reset(entries) => *self = Self::of(entries),
            Event::Created(entry) | Event::Updated(entry) => {
                self.0.insert(entry.key(), entry);
            }
            Event::Deleted(key) => {
                self.0.remove(&key);
            }
        }
    }

    /// The events that lead from this picture to `next`: deletions first, then the rest by key.
    pub fn diff(&self, next: &Self) -> Vec<Event> {
        let deleted = self.0.keys().filter(|key| !next.0.contains_key(*key)).map(|key| Event::Deleted(key.clone()));
        let changed = next.0.iter().filter_map(|(key, entry)| match self.0.get(key) {
            None => Some(Event::Created(entry.clone())),
            Some(old) if old != entry => Some(Event::Updated(entry.clone())),
            Some(_) => None,
        });
        deleted.chain(changed).collect()
    }
}
