//! Meaning of a protocol over HTTP, as an interface that calls use.

use std::fmt::Debug;
use std::time::Duration;

use http::{HeaderMap, StatusCode};

use crate::error::BodyError;
pub(crate) use crate::request_error::BoxError;
use crate::retry::Pushback;

/// Classification of a response with regard to the node that sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResponseClass {
    /// The node processed the request, whatever the response says about it; or the outcome is not
    /// known yet.
    Success,
    /// The node failed, and another may fail too: the response is returned to the caller.
    NodeFailed,
    /// The node failed, and another may succeed.
    Unavailable(Pushback),
}

/// Meaning of a protocol. Called for every attempt, from many tasks concurrently; implementations
/// must not block.
pub trait Protocol: Debug + Send + Sync + 'static {
    /// Returns the timeout set by the caller in the request's headers.
    fn timeout(&self, headers: &HeaderMap) -> Option<Duration>;

    /// Prepares the headers for one attempt. `earlier_attempts` is the number of attempts before
    /// it, `remaining` the time until the caller's deadline.
    ///
    /// The added headers may take 512 bytes in all, counting 32 bytes for each header in addition
    /// to its name and value. More is not checked against the server's limit of the header list
    /// size.
    fn prepare(&self, headers: &mut HeaderMap, earlier_attempts: u32, remaining: Option<Duration>);

    /// Classifies a response by its status and headers.
    fn classify_head(&self, status: StatusCode, headers: &HeaderMap) -> ResponseClass;

    /// Classifies a response by its trailers.
    fn classify_trailers(&self, trailers: &HeaderMap) -> ResponseClass;

    /// Converts the error of a broken body into the error that the caller receives.
    fn body_error(&self, error: BodyError) -> BoxError;
}
