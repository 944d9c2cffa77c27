//! What a protocol over HTTP means: the one thing the sender asks about.

use std::fmt::Debug;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use waypost_core::attempt::Pushback;

use crate::error::BodyError;

/// Any error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What an answer says of the node that gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The node did its work, whatever the answer says of the caller's request; or it is too early to tell.
    Fine,
    /// The node could not do its work, and another may not either: the answer goes to the caller.
    Failed,
    /// The node could not do its work, and another may.
    Unavailable(Pushback),
}

/// What a protocol means. Called for every attempt, from many tasks at once; it must not block.
pub trait Protocol: Debug + Send + Sync + 'static {
    /// How long the caller wants to wait, as the request's headers say it.
    fn timeout(&self, headers: &HeaderMap) -> Option<Duration>;

    /// Fits the headers for one attempt: the number of attempts before it, and what remains of the caller's time.
    fn prepare(&self, headers: &mut HeaderMap, earlier_attempts: u32, remaining: Option<Duration>);

    /// Judges a response by its status and headers.
    fn classify_head(&self, status: StatusCode, headers: &HeaderMap) -> Verdict;

    /// Judges a response by its trailers.
    fn classify_trailers(&self, trailers: &HeaderMap) -> Verdict;

    /// How a body that broke off is told to the caller.
    fn body_error(&self, error: BodyError) -> BoxError;
}
