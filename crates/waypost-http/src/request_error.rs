//! Errors of the caller's own request.

use std::any::Any;

/// Boxed error of any type.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Error of the caller's own request: no node is at fault, and no other attempt would succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The request body returned an error. The source is the body's own error.
    #[error("request body failed")]
    Body(#[source] BoxError),
    /// The request body panicked, with this message.
    #[error("request body panicked: {0}")]
    BodyPanicked(String),
    /// The task that sends the request body was aborted, as when its runtime shuts down.
    #[error("request body was abandoned: the runtime that sends it has shut down")]
    BodyAborted,
    /// The headers exceed the limit that the server announced.
    #[error(
        "request headers take {size} bytes, and the server accepts {limit} (SETTINGS_MAX_HEADER_LIST_SIZE): send less metadata"
    )]
    HeadersTooLarge {
        /// Size of the headers as counted by HTTP/2, in bytes.
        size: usize,
        /// Limit of the server, in bytes.
        limit: usize,
    },
}

impl RequestError {
    /// Creates the error for a panic with this payload.
    pub(crate) fn from_panic(payload: &(dyn Any + Send)) -> Self {
        let text = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        Self::BodyPanicked(text.unwrap_or("a value that is not text").to_owned())
    }
}
