//! Health check of a node, which decides if the node is registered.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// Reason for a failed [`RegisterCheck`].
pub type CheckError = Box<dyn std::error::Error + Send + Sync>;

/// Health check of a node, called at every interval in parallel with the heartbeat. `Err` is the
/// reason why clients should not find the node.
///
/// Nothing is registered before the first check has passed. After that, a slow check does not delay
/// the heartbeat; if it takes longer than the interval, it is called again as soon as it has ended.
/// The check is called from one task, never concurrently. It is dropped after
/// [`Config::timeout`](super::Config::timeout), which counts as a failure, as does a panic. It must
/// not block its thread. Any `Fn() -> impl Future<Output = Result<(), CheckError>>` is a check: `?`
/// converts every error, and `.into()` a text.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
/// use waypost_core::registrar::{CheckError, RegisterCheck};
/// # use waypost_core::registrar::State;
/// # use waypost_core::{memory::MemoryRegistry, record::{Node, Service}, registrar::Registration};
/// # let mut service = Service::new("greeter");
/// # service.nodes.push(Node::with_id("greeter", "a", "127.0.0.1:9001"));
/// # let memory = MemoryRegistry::new();
///
/// struct CacheIsWarm(Arc<AtomicBool>);
///
/// impl RegisterCheck for CacheIsWarm {
///     async fn check(&self) -> Result<(), CheckError> {
///         if self.0.load(Relaxed) { Ok(()) } else { Err("the cache is cold".into()) }
///     }
/// }
///
/// let warm = Arc::new(AtomicBool::new(false));
/// let check = CacheIsWarm(warm.clone());
/// let registration = Registration::builder(memory.open(), service).check(check).start()?;
/// # registration.watch().wait_for(|state| matches!(state, State::Unhealthy { .. })).await?;
/// warm.store(true, Relaxed);
/// registration.registered().await?; // after the next checks
/// # Ok(()) }
/// ```
pub trait RegisterCheck: Send + Sync + 'static {
    /// Checks that the node can serve calls.
    ///
    /// # Errors
    /// Returns the reason for a failed check, which logs and states show.
    fn check(&self) -> impl Future<Output = Result<(), CheckError>> + Send;
}

impl<F, A> RegisterCheck for F
where
    F: Fn() -> A + Send + Sync + 'static,
    A: Future<Output = Result<(), CheckError>> + Send,
{
    fn check(&self) -> impl Future<Output = Result<(), CheckError>> + Send {
        self()
    }
}

/// Type-erased, clonable [`RegisterCheck`]. The handle implements `RegisterCheck` itself.
#[derive(Clone)]
pub struct AnyCheck(Arc<dyn DynCheck>);

impl AnyCheck {
    /// Creates a handle on `check`.
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
    fn check(&self) -> impl Future<Output = Result<(), CheckError>> + Send {
        self.0.dyn_check()
    }
}

trait DynCheck: Send + Sync {
    fn dyn_check(&self) -> Pin<Box<dyn Future<Output = Result<(), CheckError>> + Send + '_>>;
}

impl<C: RegisterCheck> DynCheck for C {
    fn dyn_check(&self) -> Pin<Box<dyn Future<Output = Result<(), CheckError>> + Send + '_>> {
        Box::pin(self.check())
    }
}
