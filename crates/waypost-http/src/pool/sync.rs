//! Synchronization primitives of [`handover`](super::handover), in a module that a model checker
//! can replace by its own.

pub(super) use std::sync::atomic::{AtomicUsize, Ordering, fence};
pub(super) use std::sync::{Mutex, MutexGuard, PoisonError};
