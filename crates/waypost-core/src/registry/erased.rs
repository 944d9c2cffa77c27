//! Type-erased handle on a registry of any backend.

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use tokio::time::Instant;

use super::{
    DeregisterOptions, Instance, Options, RegisterOptions, Registry, Result, SkippedRecords,
    WatchOptions, Watcher,
};
use crate::panics::contain;
use crate::record::{Key, Service};

type Boxed<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// Type-erased [`Registry`], cheap to clone. Every registry converts into it.
///
/// ```
/// use waypost_core::memory::MemoryRegistry;
/// use waypost_core::registry::AnyRegistry;
///
/// let registry: AnyRegistry = MemoryRegistry::new().into();
/// assert_eq!(registry.name(), "memory");
/// ```
#[derive(Clone)]
pub struct AnyRegistry(Arc<Shared<dyn DynRegistry>>);

struct Shared<R: ?Sized> {
    pulse: OnceLock<Instant>,
    registry: R,
}

impl AnyRegistry {
    /// Creates a handle on `registry`.
    pub fn new(registry: impl Registry) -> Self {
        Self(Arc::new(Shared {
            pulse: OnceLock::new(),
            registry,
        }))
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

impl<R: Registry> From<R> for AnyRegistry {
    fn from(registry: R) -> Self {
        Self::new(registry)
    }
}

impl AnyRegistry {
    /// Returns the name of the backend; see [`Registry::name`].
    pub fn name(&self) -> &'static str {
        self.registry().dyn_name()
    }

    /// Returns the registry's options; see [`Registry::options`].
    pub fn options(&self) -> &Options {
        self.registry().dyn_options()
    }

    /// Registers the one node of `service`, or refreshes its record; see [`Registry::register`].
    ///
    /// # Errors
    /// The backend's error.
    ///
    /// # Cancel safety
    /// As for [`Registry::register`].
    pub async fn register(&self, service: &Service, options: &RegisterOptions) -> Result<()> {
        self.registry().dyn_register(service, options).await
    }

    /// Removes the record of the node; see [`Registry::deregister`].
    ///
    /// # Errors
    /// The backend's error.
    ///
    /// # Cancel safety
    /// As for [`Registry::deregister`].
    pub async fn deregister(&self, service: &Service, options: &DeregisterOptions) -> Result<()> {
        self.registry().dyn_deregister(service, options).await
    }

    /// Returns the service, one record for each version; see [`Registry::get_service`].
    ///
    /// # Errors
    /// The backend's error.
    ///
    /// # Cancel safety
    /// As for [`Registry::get_service`].
    pub async fn get_service(&self, name: &str) -> Result<Vec<Service>> {
        self.registry().dyn_get_service(name).await
    }

    /// Returns all services; see [`Registry::list_services`].
    ///
    /// # Errors
    /// The backend's error.
    ///
    /// # Cancel safety
    /// As for [`Registry::list_services`].
    pub async fn list_services(&self) -> Result<Vec<Service>> {
        self.registry().dyn_list_services().await
    }

    /// Watches one service, or all; see [`Registry::watch`].
    ///
    /// # Errors
    /// Invalid options, or a closed registry. An outage is an item of the watcher.
    ///
    /// # Cancel safety
    /// As for [`Registry::watch`].
    pub async fn watch(&self, options: &WatchOptions) -> Result<Watcher> {
        self.registry().dyn_watch(options).await
    }

    /// Waits until another writer has changed or deleted the record of `instance`; see
    /// [`Registry::overwritten`].
    ///
    /// # Cancel safety
    /// As for [`Registry::overwritten`].
    pub async fn overwritten(&self, key: &Key, instance: &Instance) {
        self.registry().dyn_overwritten(key, instance).await;
    }

    /// Returns the addresses of this host from which it reaches the registry; see
    /// [`Registry::local_addresses`].
    ///
    /// # Cancel safety
    /// As for [`Registry::local_addresses`].
    pub async fn local_addresses(&self) -> Vec<IpAddr> {
        self.registry().dyn_local_addresses().await
    }

    /// Returns the skipped records of one service, or of all; see [`Registry::skipped`]. A backend
    /// that panics has none.
    pub fn skipped(&self, service: Option<&str>) -> SkippedRecords {
        contain(|| self.registry().dyn_skipped(service)).unwrap_or_default()
    }

    /// Closes the registry for all clones; see [`Registry::close`].
    ///
    /// # Errors
    /// The backend's error.
    ///
    /// # Cancel safety
    /// As for [`Registry::close`].
    pub async fn close(&self) -> Result<()> {
        self.registry().dyn_close().await
    }
}

/// [`Registry`] with boxed futures. The method names differ from those of [`Registry`], so that no
/// call is ambiguous.
trait DynRegistry: fmt::Debug + Send + Sync {
    fn dyn_name(&self) -> &'static str;
    fn dyn_options(&self) -> &Options;
    fn dyn_register<'a>(
        &'a self,
        service: &'a Service,
        options: &'a RegisterOptions,
    ) -> Boxed<'a, ()>;
    fn dyn_deregister<'a>(
        &'a self,
        service: &'a Service,
        options: &'a DeregisterOptions,
    ) -> Boxed<'a, ()>;
    fn dyn_get_service<'a>(&'a self, name: &'a str) -> Boxed<'a, Vec<Service>>;
    fn dyn_list_services(&self) -> Boxed<'_, Vec<Service>>;
    fn dyn_watch<'a>(&'a self, options: &'a WatchOptions) -> Boxed<'a, Watcher>;
    fn dyn_skipped(&self, service: Option<&str>) -> SkippedRecords;
    fn dyn_close(&self) -> Boxed<'_, ()>;
    fn dyn_overwritten<'a>(
        &'a self,
        key: &'a Key,
        instance: &'a Instance,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;
    fn dyn_local_addresses(&self) -> Pin<Box<dyn Future<Output = Vec<IpAddr>> + Send + '_>>;
}

impl<R: Registry> DynRegistry for R {
    fn dyn_name(&self) -> &'static str {
        self.name()
    }

    fn dyn_options(&self) -> &Options {
        self.options()
    }

    fn dyn_register<'a>(
        &'a self,
        service: &'a Service,
        options: &'a RegisterOptions,
    ) -> Boxed<'a, ()> {
        Box::pin(self.register(service, options))
    }

    fn dyn_deregister<'a>(
        &'a self,
        service: &'a Service,
        options: &'a DeregisterOptions,
    ) -> Boxed<'a, ()> {
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

    fn dyn_skipped(&self, service: Option<&str>) -> SkippedRecords {
        self.skipped(service)
    }

    fn dyn_close(&self) -> Boxed<'_, ()> {
        Box::pin(self.close())
    }

    fn dyn_overwritten<'a>(
        &'a self,
        key: &'a Key,
        instance: &'a Instance,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(self.overwritten(key, instance))
    }

    fn dyn_local_addresses(&self) -> Pin<Box<dyn Future<Output = Vec<IpAddr>> + Send + '_>> {
        Box::pin(self.local_addresses())
    }
}
