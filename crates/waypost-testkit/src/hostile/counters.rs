//! Counters of one hostile server.

use std::sync::atomic::AtomicU64;

/// Counters of one server.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) accepted: AtomicU64,
    pub(super) requests: AtomicU64,
    pub(super) answered: AtomicU64,
}
