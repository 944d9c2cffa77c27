//! What the suite asks of a backend.

use std::future::{Future, ready};
use std::pin::Pin;

use waypost_core::record::Key;
use waypost_core::registry::{AnyRegistry, Error, Result};

/// One change by hand: bytes to put under a key, or `None` to delete it.
pub type RawChange = (Key, Option<Vec<u8>>);

/// One registry under test, fresh and empty when made; dropped at the end of a case.
///
/// What a backend cannot do stays at its default, `Unsupported`, and the cases that need it are skipped by name.
pub trait Harness: Send + Sync + 'static {
    /// A handle on the registry, of its own, as another process would have. The suite closes it.
    fn open(&self) -> impl Future<Output = Result<AnyRegistry>> + Send;

    /// Several changes by hand, as close to one moment as the registry knows. What is put stays until it is deleted.
    fn batch(&self, changes: Vec<RawChange>) -> impl Future<Output = Result<()>> + Send {
        let _ = changes;
        unsupported("take changes by hand")
    }

    /// Ends what keeps a record alive, as if its owner had died.
    fn expire(&self, key: &Key) -> impl Future<Output = Result<()>> + Send {
        let _ = key;
        unsupported("let a record expire")
    }

    /// Makes a gap in what all watchers hear, and ends it.
    fn cut(&self) -> impl Future<Output = Result<()>> + Send {
        unsupported("cut its watchers off")
    }

    /// Whether cases may be skipped. False for a backend that can do all: a skipped case then fails.
    fn may_skip(&self) -> bool {
        true
    }

    /// Where the random cases start. A failing one prints its seed: return it here to see the failure again.
    fn seed(&self) -> u64 {
        fastrand::u64(..)
    }
}

fn unsupported(operation: &'static str) -> impl Future<Output = Result<()>> + Send {
    ready(Err(Error::Unsupported { registry: "tested", operation }))
}

type Boxed<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// [`Harness`] with boxed futures.
pub(crate) trait DynHarness: Send + Sync {
    fn dyn_open(&self) -> Boxed<'_, AnyRegistry>;
    fn dyn_batch(&self, changes: Vec<RawChange>) -> Boxed<'_, ()>;
    fn dyn_expire<'a>(&'a self, key: &'a Key) -> Boxed<'a, ()>;
    fn dyn_cut(&self) -> Boxed<'_, ()>;
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
}
