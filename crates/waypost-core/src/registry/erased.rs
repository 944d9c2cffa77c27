//! Type-erased handle on a registry of any backend.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use tokio::time::Instant;

use super::{DeregisterOptions, Options, RegisterOptions, Registry, Result, WatchOptions, Watcher};
use crate::record::Service;

type Boxed<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// Type-erased [`Registry`], cheap to clone. The handle implements `Registry` itself.
#[derive(Clone)]
pub struct AnyRegistry(Arc<Shared<dyn DynRegistry>>);

struct Shared<R: ?Sized> {
    pulse: OnceLock<Instant>,
    registry: R,
}

impl AnyRegistry {
    /// Creates a handle on `registry`.
    pub fn new(registry: impl Registry) -> Self {
        Self(Arc::new(Shared { pulse: OnceLock::new(), registry }))
    }

    /// Returns the phase of the heartbeats of all registrations made through this handle: an
    /// instant from which they count their intervals. The registrations of one process send their
    /// heartbeats together, which saves the registry work; different processes send at different
    /// times. The first call sets the instant with `choose`.
    pub(crate) fn pulse(&self, choose: impl FnOnce() -> Instant) -> Instant {
        *self.0.pulse.get_or_init(choose)
    }

    fn registry(&self) -> &dyn DynRegistry {
        &self.0.registry
    }
}

impl fmt::Debug for AnyRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.registry().fmt(f)
    }
}

impl Registry for AnyRegistry {
    fn name(&self) -> &'static str {
        self.registry().dyn_name()
    }

    fn options(&self) -> &Options {
        self.registry().dyn_options()
    }

    async fn register(&self, service: &Service, options: &RegisterOptions) -> Result<()> {
        self.registry().dyn_register(service, options).await
    }

    async fn deregister(&self, service: &Service, options: &DeregisterOptions) -> Result<()> {
        self.registry().dyn_deregister(service, options).await
    }

    async fn get_service(&self, name: &str) -> Result<Vec<Service>> {
        self.registry().dyn_get_service(name).await
    }

    async fn list_services(&self) -> Result<Vec<Service>> {
        self.registry().dyn_list_services().await
    }

    async fn watch(&self, options: &WatchOptions) -> Result<Watcher> {
        self.registry().dyn_watch(options).await
    }

    async fn close(&self) -> Result<()> {
        self.registry().dyn_close().await
    }
}

/// [`Registry`] with boxed futures. The method names differ from those of [`Registry`], so that no
/// call is ambiguous.
trait DynRegistry: fmt::Debug + Send + Sync {
    fn dyn_name(&self) -> &'static str;
    fn dyn_options(&self) -> &Options;
    fn dyn_register<'a>(&'a self, service: &'a Service, options: &'a RegisterOptions) -> Boxed<'a, ()>;
    fn dyn_deregister<'a>(&'a self, service: &'a Service, options: &'a DeregisterOptions) -> Boxed<'a, ()>;
    fn dyn_get_service<'a>(&'a self, name: &'a str) -> Boxed<'a, Vec<Service>>;
    fn dyn_list_services(&self) -> Boxed<'_, Vec<Service>>;
    fn dyn_watch<'a>(&'a self, options: &'a WatchOptions) -> Boxed<'a, Watcher>;
    fn dyn_close(&self) -> Boxed<'_, ()>;
}

impl<R: Registry> DynRegistry for R {
    fn dyn_name(&self) -> &'static str {
        self.name()
    }

    fn dyn_options(&self) -> &Options {
        self.options()
    }

    fn dyn_register<'a>(&'a self, service: &'a Service, options: &'a RegisterOptions) -> Boxed<'a, ()> {
        Box::pin(self.register(service, options))
    }

    fn dyn_deregister<'a>(&'a self, service: &'a Service, options: &'a DeregisterOptions) -> Boxed<'a, ()> {
        Box::pin(self.deregister(service, options))
    }

    fn dyn_get_service<'a>(&'a self, name: &'a str) -> Boxed<'a, Vec<Service>> {
        Box::pin(self.get_service(name))
    }

    fn dyn_list_services(&self) -> Boxed<'_, Vec<Service>> {
        Box::pin(self.list_services())
    }

    fn dyn_watch<'a>(&'a self, options: &'a WatchOptions) -> Boxed<'a, Watcher> {
        Box::pin(self.watch(options))
    }

    fn dyn_close(&self) -> Boxed<'_, ()> {
        Box::pin(self.close())
    }
}
