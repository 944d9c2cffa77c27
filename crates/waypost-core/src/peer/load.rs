//! Calls in flight, dense: one counter of four bytes for each peer, in pages that never move, so that a pick reads no more than it compares.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const PAGE: usize = 256;

/// Counters of [`PAGE`] peers.
type Page = [AtomicU32; PAGE];

/// The counters of calls in flight of all peers of a client's service. Clones are the same table.
#[derive(Clone, Default)]
pub struct LoadTable(Arc<Mutex<Slots>>);

#[derive(Default)]
struct Slots {
    pages: Vec<Arc<Page>>,
    free: Vec<u32>,
    used: u32,
}

impl LoadTable {
    /// Reserves a counter at zero; it returns to the table when dropped.
    pub(super) fn reserve(&self) -> LoadSlot {
        let mut slots = self.lock();
        let index = slots.free.pop().unwrap_or(slots.used);
        slots.used = slots.used.max(index + 1);
        if slots.pages.len() * PAGE <= index as usize {
            slots.pages.push(Arc::new(std::array::from_fn(|_| AtomicU32::new(0))));
        }
        let page = Arc::clone(&slots.pages[index as usize / PAGE]);
        drop(slots);
        LoadSlot { table: self.clone(), page, index }
    }

    /// The pages as they are now, for reading by slot.
    pub(crate) fn reader(&self) -> LoadReader {
        LoadReader(self.lock().pages.clone().into())
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for LoadTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadTable").field("used", &self.lock().used).finish()
    }
}

/// One counter, for as long as this lives.
#[derive(Debug)]
pub(super) struct LoadSlot {
    table: LoadTable,
    page: Arc<Page>,
    index: u32,
}

impl LoadSlot {
    pub(super) fn counter(&self) -> &AtomicU32 {
        &self.page[self.index as usize % PAGE]
    }

    pub(super) fn index(&self) -> u32 {
        self.index
    }
}

impl Drop for LoadSlot {
    fn drop(&mut self) {
        self.counter().store(0, Relaxed);
        self.table.lock().free.push(self.index);
    }
}

/// Reads counters by slot.
#[derive(Clone, Debug, Default)]
pub(crate) struct LoadReader(Arc<[Arc<Page>]>);

impl LoadReader {
    pub(crate) fn load(&self, slot: u32) -> u32 {
        self.0[slot as usize / PAGE][slot as usize % PAGE].load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_dense_and_used_again_at_zero() {
        let table = LoadTable::default();
        let slots: Vec<_> = (0..600).map(|_| table.reserve()).collect();
        assert!(slots.iter().enumerate().all(|(i, slot)| slot.index() as usize == i));
        slots[300].counter().store(9, Relaxed);
        assert_eq!(table.reader().load(300), 9);
        drop(slots);
        let again = table.reserve();
        assert!(again.index() < 600);
        assert_eq!(table.reader().load(again.index()), 0);
    }
}
