//! gRPC status of a failed call.

use std::error::Error;
use std::sync::Arc;

use tonic::{Code, Status};
use waypost_http::{BodyError, CallError, FailureKind, RequestError};

/// Returns the status of a call without a response: `DEADLINE_EXCEEDED` for any deadline, the code
/// of the reset if the node reset it, and else `UNAVAILABLE` (no ready peer, a full queue, an
/// outage of the registry).
pub(crate) fn from_call_error(mut error: CallError) -> Status {
    let source = error.source.take();
    match source.map(<dyn Error + Send + Sync>::downcast) {
        Some(Ok(request)) => return from_request_error(*request),
        source => error.source = source.and_then(Result::err),
    }
    let code = match error.kind {
        FailureKind::Deadline => Code::DeadlineExceeded,
        FailureKind::Reset(reason) => code_of_reset(reason),
        _ => Code::Unavailable,
    };
    let mut status = Status::new(code, error.to_string());
    status.set_source(Arc::new(error));
    status
}

/// Returns the status of a request that failed by itself: the status that its body ended with, such
/// as the one of a message above `max_encoding_message_size`; `RESOURCE_EXHAUSTED` for headers
/// above the server's limit; and else `INTERNAL`. Never `UNAVAILABLE`, which would ask the caller
/// to retry.
fn from_request_error(error: RequestError) -> Status {
    if let Some(status) = own_status(&error) {
        return status.clone();
    }
    let code = match &error {
        RequestError::HeadersTooLarge { .. } => Code::ResourceExhausted,
        _ => Code::Internal,
    };
    let text = match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    let mut status = Status::new(code, text);
    status.set_source(Arc::new(error));
    status
}

/// Returns the first status in the chain of causes.
fn own_status(error: &RequestError) -> Option<&Status> {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(status) = error.downcast_ref() {
            return Some(status);
        }
        source = error.source();
    }
    None
}

/// Returns the status of a response whose body broke off.
pub(crate) fn from_body_error(error: BodyError) -> Status {
    let error = match error {
        BodyError::Request(error) => return from_request_error(error),
        error => error,
    };
    let code = match &error {
        BodyError::Deadline => Code::DeadlineExceeded,
        BodyError::Broken(error) => error.reset_code().map_or(Code::Unavailable, code_of_reset),
        _ => Code::Unavailable,
    };
    let text = match &error {
        BodyError::Broken(cause) => format!("{error}: {cause}"),
        _ => error.to_string(),
    };
    let mut status = Status::new(code, text);
    status.set_source(Arc::new(error));
    status
}

/// Returns the gRPC code of an HTTP/2 error code, by the table of the gRPC over HTTP/2 protocol.
fn code_of_reset(reason: u32) -> Code {
    match reason {
        0x7 => Code::Unavailable,
        0x8 => Code::Cancelled,
        0xb => Code::ResourceExhausted,
        0xc => Code::PermissionDenied,
        _ => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("wrapped")]
    struct Wrapped(#[source] Status);

    #[test]
    fn a_request_that_fails_by_itself_has_its_own_status_or_is_internal() {
        let own = Status::out_of_range("message of 9 bytes exceeds max_encoding_message_size 8");
        let wrapped = Wrapped(own.clone());
        let table = [
            (
                RequestError::Body(Box::new(own.clone())),
                own.code(),
                own.message(),
            ),
            (
                RequestError::Body(Box::new(wrapped)),
                own.code(),
                own.message(),
            ),
            (
                RequestError::Body("no more".into()),
                Code::Internal,
                "request body failed: no more",
            ),
            (
                RequestError::BodyPanicked("boom".into()),
                Code::Internal,
                "request body panicked: boom",
            ),
            (
                RequestError::BodyAborted,
                Code::Internal,
                "request body was abandoned: the runtime that sends it has shut down",
            ),
            (
                RequestError::HeadersTooLarge {
                    size: 70_000,
                    limit: 16_384,
                },
                Code::ResourceExhausted,
                "request headers take 70000 bytes, and the server accepts 16384 (SETTINGS_MAX_HEADER_LIST_SIZE): send less metadata",
            ),
        ];
        for (error, code, text) in table {
            let status = from_request_error(error);
            assert_eq!((status.code(), status.message()), (code, text));
        }
    }
}
