//! What breaks a memory registry, and what it counts.

use std::time::Duration;

use tokio::time::Instant;

use super::Shared;
use crate::record::Key;

/// Faults of a [`MemoryRegistry`](super::MemoryRegistry), for all its handles at once.
#[derive(Clone)]
pub struct Faults(Shared);

impl Faults {
    pub(super) fn new(shared: Shared) -> Self {
        Self(shared)
    }

    /// While unreachable, calls fail with `Unavailable`; watchers hear one `Err`, and a `Reset` when it is over. Records run out
    /// all the same.
    pub fn set_unreachable(&self, unreachable: bool) {
        let mut world = self.0.lock();
        world.expire(Instant::now());
        world.set_unreachable(unreachable);
    }

    /// Cuts all watchers off once: what they have not heard yet is lost to them, and they hear a `Reset`.
    pub fn cut(&self) {
        self.0.lock().cut();
    }

    /// Lets one record run out now: a loss.
    pub fn expire(&self, key: &Key) {
        self.0.lock().lose(key.clone());
    }

    /// Puts bytes under a key by hand, as anybody who can write to a registry may; nothing keeps them alive, nothing ends them.
    pub fn put_raw(&self, service: &str, id: &str, bytes: impl Into<Vec<u8>>) {
        self.batch([(key(service, id), Some(bytes.into()))]);
    }

    /// Deletes what stands under a key by hand.
    pub fn remove_raw(&self, service: &str, id: &str) {
        self.batch([(key(service, id), None)]);
    }

    /// Several changes by hand at one moment; `None` deletes.
    pub fn batch(&self, changes: impl IntoIterator<Item = (Key, Option<Vec<u8>>)>) {
        for error in self.0.lock().put_raw(changes.into_iter().collect()) {
            tracing::warn!(%error, "invalid record skipped");
        }
    }

    /// How long each answer takes from now on; over `Options::timeout` (2 s) calls fail with `Timeout`. Default none.
    pub fn set_delay(&self, delay: Duration) {
        self.0.lock().delay = delay;
    }

    /// The next `count` calls are done, but answered by `Timeout`.
    pub fn lose_answers(&self, count: u32) {
        self.0.lock().answers_to_lose = count;
    }

    /// How many writes `register` and `deregister` have cost so far: one for a record, two for a leave, none for an unchanged beat.
    pub fn writes(&self) -> u64 {
        self.0.lock().writes
    }

    /// How many records there are that cannot be decoded.
    pub fn skipped(&self) -> usize {
        self.0.lock().skipped()
    }
}

impl std::fmt::Debug for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Faults")
    }
}

fn key(service: &str, id: &str) -> Key {
    Key { service: service.to_owned(), id: id.to_owned() }
}
