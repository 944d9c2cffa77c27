//! What a protocol over HTTP means: the one thing that calls ask about.

use std::fmt::Debug;
use std::time::Duration;

use http::{HeaderMap, StatusCode};

use crate::error::BodyError;
use crate::retry::Pushback;

/// Any error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What a response says of the node that sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResponseClass {
    /// The node did its work, whatever the response says of the caller's request; or it is too early to tell.
    Success,
    /// The node could not do its work, and another may not either: the response goes to the caller.
    NodeFailed,
    /// The node could not do its work, and another may.
    Unavailable(Pushback),
}

/// Meaning of a protocol. Called for every attempt, from many tasks at once; it must not block.
pub trait Protocol: Debug + Send + Sync + 'static {
    /// The time that the caller allows, as the request's headers state it.
    fn timeout(&self, headers: &HeaderMap) -> Option<Duration>;

    /// Prepares the headers for one attempt: the number of attempts before it, and what remains of the caller's time. They may grow by 512
    /// bytes in all, at 32 bytes for each beside its name and value; more is not checked against the server's limit of header bytes.
    fn prepare(&self, headers: &mut HeaderMap, earlier_attempts: u32, remaining: Option<Duration>);

    /// Classifies a response by its status and headers.
    fn classify_head(&self, status: StatusCode, headers: &HeaderMap) -> ResponseClass;

    /// Classifies a response by its trailers.
    fn classify_trailers(&self, trailers: &HeaderMap) -> ResponseClass;

    /// Converts the end of a broken body into the error that the caller gets.
    fn body_error(&self, error: BodyError) -> BoxError;
}
