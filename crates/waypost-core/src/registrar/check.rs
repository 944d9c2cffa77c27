//! The health check that decides if a node is in the registry.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// Health check of a node, called at every interval beside the heartbeat; `Err` says why clients should not find the node.
///
/// Nothing is registered before the first check has passed. After that a check that is still running delays no heartbeat, and is called
/// again as soon as it has ended where that takes longer than the interval. Called from one task, never twice at once, and dropped when it
/// takes longer than [`Config::timeout`](super::Config::timeout), which counts as a failure, as does a panic. It must not block its
/// thread. Any `Fn() -> impl Future<Output = Result<(), String>>` is one.
pub trait RegisterCheck: Send + Sync + 'static {
    /// Checks that the node is fit to be called.
    ///
    /// # Errors
    /// Returns why it is not, for people to read.
    fn check(&self) -> impl Future<Output = Result<(), String>> + Send;
}

impl<F, A> RegisterCheck for F
where
    F: Fn() -> A + Send + Sync + 'static,
    A: Future<Output = Result<(), String>> + Send,
{
    fn check(&self) -> impl Future<Output = Result<(), String>> + Send {
        self()
    }
}

/// Clonable handle on any [`RegisterCheck`]; it is a `RegisterCheck` itself.
#[derive(Clone)]
pub struct AnyCheck(Arc<dyn DynCheck>);

impl AnyCheck {
    /// Makes a handle on `check`.
    pub fn new(check: impl RegisterCheck) -> Self {
        Self(Arc::new(check))
    }
}

impl fmt::Debug for AnyCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AnyCheck")
    }
}

impl RegisterCheck for AnyCheck {
    fn check(&self) -> impl Future<Output = Result<(), String>> + Send {
        self.0.dyn_check()
    }
}

trait DynCheck: Send + Sync {
    fn dyn_check(&self) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>>;
}

impl<C: RegisterCheck> DynCheck for C {
    fn dyn_check(&self) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>> {
        Box::pin(self.check())
    }
}
