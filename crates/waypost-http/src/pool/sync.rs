//! The primitives under [`handover`](super::handover), in one place, so that a model checker can put its own there.

pub(super) use std::sync::atomic::{AtomicUsize, Ordering, fence};
pub(super) use std::sync::{Mutex, MutexGuard, PoisonError};
