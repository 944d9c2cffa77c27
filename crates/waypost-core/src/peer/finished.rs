//! Result of an attempt. It is created in one place and read by all code that judges a node.

use std::time::Duration;

use tokio::time::Instant;

/// End of an attempt on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttemptEnd {
    /// The node responded, even if the response reports an error of the caller's request.
    Answered,
    /// The node responded, in its headers or trailers, that it failed to process the request.
    NodeFailed,
    /// The connection was lost or became unresponsive before the response was complete.
    Lost,
    /// The node did not process the request: it was not sent, or was refused unprocessed.
    Refused,
    /// The caller's deadline expired.
    Deadline,
    /// The caller dropped the call.
    Cancelled,
    /// The request was invalid and could not be sent. The end carries no information about the
    /// node.
    LocalMistake,
}

impl AttemptEnd {
    /// Returns true if the end counts as a failure of the node.
    pub fn is_failure(self) -> bool {
        matches!(self, Self::NodeFailed | Self::Lost | Self::Deadline)
    }
}

/// Load that a node reported with a response (ORCA, gRFC A51).
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct ReportedLoad {
    /// Utilization by the application's own measure, from 0; may exceed 1.
    pub utilization: f64,
}

/// Record of one attempt that has ended.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Finished {
    /// Time of the send.
    pub sent: Instant,
    /// Time of the end.
    pub at: Instant,
    /// Time of the response headers, if they were received.
    pub head_at: Option<Instant>,
    /// Kind of the end.
    pub end: AttemptEnd,
    /// Load that the node reported, if any.
    pub load: Option<ReportedLoad>,
}

impl Finished {
    /// Creates the record of an attempt that was sent at `sent` and ended at `at`.
    pub fn new(sent: Instant, at: Instant, end: AttemptEnd) -> Self {
        Self {
            sent,
            at,
            head_at: None,
            end,
            load: None,
        }
    }

    /// Returns the time from the send to the end.
    pub fn waited(&self) -> Duration {
        self.at.saturating_duration_since(self.sent)
    }

    /// Returns the time from the send to the response headers, if they were received.
    pub fn first_byte(&self) -> Option<Duration> {
        self.head_at
            .map(|at| at.saturating_duration_since(self.sent))
    }
}

/// Observer of the attempts that follow from a picker's choice; provided by
/// [`Picker::observer`](crate::balance::Picker::observer).
///
/// Called once for each attempt, from many tasks at once, after the response has ended or was
/// dropped. It must not block. A panic in it is contained.
///
/// A picker that learns from the end of each attempt:
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
/// use waypost_core::balance::{PickContext, Picker, ReadySet};
/// use waypost_core::peer::{AttemptObserver, Finished};
///
/// #[derive(Default)]
/// struct LastFailed(AtomicBool);
///
/// impl AttemptObserver for LastFailed {
///     fn finished(&self, finished: &Finished) {
///         self.0.store(finished.end.is_failure(), Relaxed);
///     }
/// }
///
/// struct Careful(Vec<Arc<LastFailed>>);
///
/// impl Picker for Careful {
///     # fn pick(&self, ready: &ReadySet, _: &PickContext<'_>) -> usize {
///     #     let start = fastrand::usize(..ready.len());
///     #     let mut in_turn = (0..ready.len()).map(|step| (start + step) % ready.len());
///     #     in_turn.find(|&index| !self.0[index].0.load(Relaxed)).unwrap_or(start)
///     # }
///     // `pick` passes over the peers that failed last.
///     fn observer(&self, index: usize) -> Option<Arc<dyn AttemptObserver>> {
///         Some(self.0[index].clone())
///     }
/// }
/// # use tokio::time::Instant;
/// # use waypost_core::peer::{AttemptEnd, LoadTable, Peer};
/// # use waypost_core::record::{Node, Service};
/// # let mut service = Service::new("greeter");
/// # service.nodes.push(Node::with_id("greeter", "a", "10.0.0.7:9001"));
/// # service.nodes.push(Node::with_id("greeter", "b", "10.0.0.8:9001"));
/// # let (loads, now) = (LoadTable::default(), Instant::now());
/// # let peers = service.entries().into_iter().map(|entry| (Arc::new(Peer::new(entry, &loads, now)), now));
/// # let ready = ReadySet::new(&loads, peers);
/// # let picker = Careful(vec![Arc::default(), Arc::default()]);
/// # picker.observer(0).expect("an observer").finished(&Finished::new(now, now, AttemptEnd::Lost));
/// # assert!((0..100).all(|_| picker.pick(&ready, &PickContext::new("/greeter.Greeter/Hello", now)) == 1));
/// ```
pub trait AttemptObserver: Send + Sync {
    /// Processes the end of an attempt.
    fn finished(&self, finished: &Finished);
}
