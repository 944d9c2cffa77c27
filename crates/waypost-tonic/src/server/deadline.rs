//! Deadlines of calls on the server. A call whose deadline has passed is answered before any
//! handler or interceptor runs. tonic polls the handler first, and would serve a call with
//! `grpc-timeout: 0n`.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tower_service::Service;

/// Service that answers `DEADLINE_EXCEEDED` if the deadline has passed, and else calls the inner
/// service.
#[derive(Clone, Debug)]
pub(super) struct Deadlines<S>(pub(super) S);

impl<S> Service<Request<Body>> for Deadlines<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Unpin,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = HandlerCall<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let timeout = timeout(request.headers());
        if timeout.is_some_and(|timeout| timeout.is_zero()) {
            return HandlerCall {
                deadline: None,
                inner: None,
            };
        }
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        HandlerCall {
            deadline,
            inner: Some(self.0.call(request)),
        }
    }
}

/// Response future of a call. Without an inner future, the answer is `DEADLINE_EXCEEDED`.
pub(super) struct HandlerCall<F> {
    /// Deadline of the call until the first poll. From then on tonic enforces it.
    deadline: Option<Instant>,
    inner: Option<F>,
}

impl<F: Future<Output = Result<Response<Body>, Infallible>> + Unpin> Future for HandlerCall<F> {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self
            .deadline
            .take()
            .is_some_and(|deadline| deadline <= Instant::now())
        {
            self.inner = None;
        }
        match &mut self.inner {
            Some(inner) => Pin::new(inner).poll(cx),
            None => Poll::Ready(Ok(exceeded())),
        }
    }
}

fn exceeded() -> Response<Body> {
    Status::deadline_exceeded("the deadline passed before the call reached its handler").into_http()
}

/// Returns the timeout of a request, or none if it is malformed, as tonic does.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let in_range =
        (1..=8).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_digit());
    let value: u64 = digits.parse().ok().filter(|_| in_range)?;
    match unit {
        "H" => Some(Duration::from_secs(value * 3600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Duration> {
        timeout(&HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-timeout"),
            text.parse().unwrap(),
        )]))
    }

    #[test]
    fn a_timeout_is_read_in_every_unit() {
        for unit in ["H", "M", "S", "m", "u", "n"] {
            assert_eq!(read(&format!("0{unit}")), Some(Duration::ZERO));
            assert_eq!(read(&format!("00000000{unit}")), Some(Duration::ZERO));
        }
        assert_eq!(
            read("99999999H"),
            Some(Duration::from_secs(99_999_999 * 3600))
        );
        assert_eq!(read("2M"), Some(Duration::from_secs(120)));
        assert_eq!(read("7u"), Some(Duration::from_micros(7)));
    }

    #[test]
    fn a_malformed_timeout_is_none() {
        for text in [
            "",
            "0",
            "n",
            "+0n",
            "-0n",
            "0.0n",
            "0 n",
            "000000000n",
            "0x",
            "0ns",
        ] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }
}
