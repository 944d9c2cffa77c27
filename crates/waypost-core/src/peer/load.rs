//! Dense counters of attempts in flight: four bytes per peer, in pages that never move. A pick
//! reads only the counters that it compares.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const PAGE: usize = 256;

/// Counters of [`PAGE`] peers.
type Page = [AtomicU32; PAGE];

/// Table of the counters of attempts in flight, for all peers of a client's service. Clones share
/// one table.
#[derive(Clone, Default)]
pub struct LoadTable(Arc<Mutex<Slots>>);

#[derive(Default)]
struct Slots {
    pages: Vec<Arc<Page>>,
    free: Vec<u32>,
    used: u32,
}

impl LoadTable {
    /// Reserves a counter at zero. The counter returns to the table when it is dropped.
    pub(super) fn reserve(&self) -> LoadSlot {
        let mut slots = self.lock();
        let index = slots.free.pop().unwrap_or(slots.used);
        slots.used = slots.used.max(index + 1);
        if slots.pages.len() * PAGE <= index as usize {
            slots
                .pages
                .push(Arc::new(std::array::from_fn(|_| AtomicU32::new(0))));
        }
        let page = Arc::clone(&slots.pages[index as usize / PAGE]);
        drop(slots);
        LoadSlot {
            table: self.clone(),
            page,
            index,
        }
    }

    /// Returns a reader of the current pages, by slot.
    pub(crate) fn reader(&self) -> LoadReader {
        LoadReader(self.lock().pages.clone().into())
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for LoadTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadTable")
            .field("used", &self.lock().used)
            .finish()
    }
}

/// Reservation of one counter, for as long as it lives.
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

/// Reader of counters by slot.
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
        assert!(
            slots
                .iter()
                .enumerate()
                .all(|(i, slot)| slot.index() as usize == i)
        );
        slots[300].counter().store(9, Relaxed);
        assert_eq!(table.reader().load(300), 9);
        drop(slots);
        let again = table.reserve();
        assert!(again.index() < 600);
        assert_eq!(table.reader().load(again.index()), 0);
    }
}
