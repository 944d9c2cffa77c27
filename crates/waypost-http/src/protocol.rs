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
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # mod plain {
/// #     include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/plain.rs"));
/// #     pub(super) async fn node() -> Address { serve(200).await }
/// # }
/// # use std::{sync::Arc, time::Duration};
/// # use bytes::Bytes;
/// # use http::{HeaderMap, Request, StatusCode};
/// # use http_body_util::Empty;
/// # use waypost_http::*;
/// /// Plain HTTP.
/// #[derive(Debug)]
/// struct PlainHttp;
///
/// impl Protocol for PlainHttp {
///     fn timeout(&self, _: &HeaderMap) -> Option<Duration> { None }
///     fn prepare(&self, _: &mut HeaderMap, _: u32, _: Option<Duration>) {}
///     fn classify_head(&self, status: StatusCode, _: &HeaderMap) -> ResponseClass {
///         match status.as_u16() {
///             503 => ResponseClass::Unavailable(Pushback::None),
///             500..=599 => ResponseClass::NodeFailed,
///             _ => ResponseClass::Success,
///         }
///     }
///     fn classify_trailers(&self, _: &HeaderMap) -> ResponseClass { ResponseClass::Success }
///     fn body_error(&self, error: BodyError) -> BoxError { error.into() }
/// }
///
/// # let registry = waypost_core::static_list::StaticRegistry::new([plain::node().await], "http");
/// # let client = Client::new(registry, ClientConfig::default());
/// let users = client.channel("users".parse()?, ChannelConfig::default(), Arc::new(PlainHttp));
/// let response = users.call(Request::get("/users/7").body(Empty::<Bytes>::new())?).await?;
/// assert_eq!(response.status(), StatusCode::OK);
/// # Ok(()) }
/// ```
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
