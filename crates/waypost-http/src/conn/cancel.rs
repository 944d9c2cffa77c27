//! Streams of abandoned calls, reset at a pace that servers accept.

use std::any::Any;

/// Stream of an abandoned call: everything whose drop resets it, and the permit that it holds until then.
pub(crate) struct CancelledStream {
    pub(super) id: u32,
    _handles: Box<dyn Any + Send>,
}

impl CancelledStream {
    /// Wraps the h2 handles of the stream with this id, and its permit, in the order in which they are to be dropped.
    pub(crate) fn new(id: u32, handles: impl Send + 'static) -> Self {
        Self { id, _handles: Box::new(handles) }
    }
}

/// Queue of the streams to be reset.
#[derive(Default)]
pub(super) struct CancelQueue;
