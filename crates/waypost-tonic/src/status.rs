//! What a failed call looks like to a gRPC caller.

use std::sync::Arc;

use tonic::{Code, Status};
use waypost_http::{BodyError, CallError, FailureKind};

/// A call that got no answer: no peer, full queue and registry trouble are `UNAVAILABLE`, a deadline anywhere is `DEADLINE_EXCEEDED`.
pub(crate) fn of_call(error: CallError) -> Status {
    let code = match error.kind {
        FailureKind::Deadline => Code::DeadlineExceeded,
        FailureKind::Reset(reason) => of_reset(reason),
        _ => Code::Unavailable,
    };
    let mut status = Status::new(code, error.to_string());
    status.set_source(Arc::new(error));
    status
}

/// A response that broke off.
pub(crate) fn of_body(error: BodyError) -> Status {
    let code = match &error {
        BodyError::Deadline => Code::DeadlineExceeded,
        BodyError::Broken(error) if error.is_reset() && error.is_remote() => {
            error.reason().map_or(Code::Unavailable, |reason| of_reset(reason.into()))
        }
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

/// HTTP/2 error codes as gRPC codes, by the table of the gRPC over HTTP/2 protocol.
fn of_reset(reason: u32) -> Code {
    match reason {
        0x7 => Code::Unavailable,
        0x8 => Code::Cancelled,
        0xb => Code::ResourceExhausted,
        0xc => Code::PermissionDenied,
        _ => Code::Internal,
    }
}
