//! Interface between the suite and a backend.

use std::future::{Future, ready};
use std::pin::Pin;

use waypost_core::record::Key;
use waypost_core::registry::{AnyRegistry, Error, Result};

/// One manual change: bytes to put under a key, or `None` to delete it.
pub type RawChange = (Key, Option<Vec<u8>>);

/// Registry under test, fresh and empty when created, and dropped at the end of a case.
///
/// An ability that the backend lacks keeps its default, `Unsupported`. The cases that need it are
/// skipped by name.
///
/// A harness with an ability: its registry lets records expire on demand.
///
/// ```
/// use waypost_conformance::Harness;
/// use waypost_core::memory::MemoryRegistry;
/// use waypost_core::record::Key;
/// use waypost_core::registry::{AnyRegistry, Result};
///
/// struct Memory(MemoryRegistry);
///
/// impl Harness for Memory {
///     async fn open(&self) -> Result<AnyRegistry> {
///         Ok(AnyRegistry::new(self.0.open()))
///     }
///
///     async fn expire(&self, key: &Key) -> Result<()> {
///         self.0.faults().expire(key);
///         Ok(())
///     }
/// #   fn may_skip(&self) -> bool {
/// #       false
/// #   }
/// }
/// # use waypost_conformance::{Time, check};
/// # check("example", "an_expired_record_comes_back", Time::Paused, || Memory(MemoryRegistry::new()));
/// ```
pub trait Harness: Send + Sync + 'static {
    /// Opens a separate handle on the registry, as another process would have. The suite closes it.
    fn open(&self) -> impl Future<Output = Result<AnyRegistry>> + Send;

    /// Applies several manual changes, as close to atomically as the registry can. A record that
    /// was put stays until it is deleted.
    fn batch(&self, changes: Vec<RawChange>) -> impl Future<Output = Result<()>> + Send {
        let _ = changes;
        unsupported("take changes by hand")
    }

    /// Ends the lease, or its counterpart, that keeps a record alive, as if its owner had died.
    fn expire(&self, key: &Key) -> impl Future<Output = Result<()>> + Send {
        let _ = key;
        unsupported("let a record expire")
    }

    /// Causes a gap in the events of all watchers, and ends it.
    fn cut(&self) -> impl Future<Output = Result<()>> + Send {
        unsupported("cut its watchers off")
    }

    /// Returns true if a record whose registration sends no heartbeats ends after its TTL, although its
    /// handle is open. Default true. False for a registry whose records live as long as their process.
    fn expires(&self) -> bool {
        true
    }

    /// Returns true if cases may be skipped. False for a backend with all abilities: a skipped case
    /// then fails.
    fn may_skip(&self) -> bool {
        true
    }

    /// Returns the seed of the random cases. A failing case prints its seed: return it here to
    /// reproduce the failure.
    fn seed(&self) -> u64 {
        fastrand::u64(..)
    }
}

fn unsupported(operation: &'static str) -> impl Future<Output = Result<()>> + Send {
    ready(Err(Error::Unsupported {
        registry: "tested",
        operation,
    }))
}

type Boxed<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// Object-safe [`Harness`], with boxed futures.
pub(crate) trait DynHarness: Send + Sync {
    fn dyn_open(&self) -> Boxed<'_, AnyRegistry>;
    fn dyn_batch(&self, changes: Vec<RawChange>) -> Boxed<'_, ()>;
    fn dyn_expire<'a>(&'a self, key: &'a Key) -> Boxed<'a, ()>;
    fn dyn_cut(&self) -> Boxed<'_, ()>;
    fn dyn_expires(&self) -> bool;
}

impl<H: Harness> DynHarness for H {
    fn dyn_open(&self) -> Boxed<'_, AnyRegistry> {
        Box::pin(self.open())
    }

    fn dyn_batch(&self, changes: Vec<RawChange>) -> Boxed<'_, ()> {
        Box::pin(self.batch(changes))
    }

    fn dyn_expire<'a>(&'a self, key: &'a Key) -> Boxed<'a, ()> {
        Box::pin(self.expire(key))
    }

    fn dyn_cut(&self) -> Boxed<'_, ()> {
        Box::pin(self.cut())
    }

    fn dyn_expires(&self) -> bool {
        self.expires()
    }
}
