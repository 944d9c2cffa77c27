//! Containment of panics in code that users provide: filters, strategies, connectors, checks,
//! registries and hooks.
//!
//! The caller decides how to proceed after a panic.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

/// Error of a contained panic, with the panic's message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("panicked: {0}")]
pub struct Panicked(String);

impl Panicked {
    /// Extracts the message from a panic's payload.
    pub fn from_payload(payload: &(dyn Any + Send)) -> Self {
        let text = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned());
        Self(
            text.or_else(|| payload.downcast_ref::<String>().cloned())
                .unwrap_or_else(|| "no message".to_owned()),
        )
    }
}

/// Runs `code` and converts a panic in it into an error. The panic hook runs first, so the message
/// is also on stderr.
///
/// # Errors
/// [`Panicked`] with the panic's message.
pub fn contain<T>(code: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(code)).map_err(|payload| Panicked::from_payload(&*payload))
}

/// Polls `future` to its end and converts a panic in it into an error.
///
/// # Errors
/// [`Panicked`] with the panic's message.
///
/// # Cancel safety
/// The same as that of `future`.
pub async fn contain_future<F: Future>(future: F) -> Result<F::Output, Panicked> {
    Contained(Box::pin(future)).await
}

struct Contained<F>(Pin<Box<F>>);

impl<F: Future> Future for Contained<F> {
    type Output = Result<F::Output, Panicked>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match contain(|| self.0.as_mut().poll(cx)) {
            Ok(polled) => polled.map(Ok),
            Err(panicked) => Poll::Ready(Err(panicked)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_with_its_message() {
        assert_eq!(contain(|| 7), Ok(7));
        assert_eq!(
            contain(|| panic!("no {}", "way")).map_err(|e: Panicked| e.to_string()),
            Err::<(), _>("panicked: no way".into())
        );
    }

    #[tokio::test]
    async fn a_panic_in_a_future_is_its_end() {
        let result = contain_future(async {
            tokio::task::yield_now().await;
            panic!("late")
        });
        assert_eq!(
            result.await.map_err(|e: Panicked| e.to_string()),
            Err::<(), _>("panicked: late".into())
        );
    }
}
