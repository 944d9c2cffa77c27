//! Contract of a registry backend, and the handle that the rest of the code uses.
//!
//! A type that implements [`Registry`] is a backend. The suite in `waypost-conformance` checks the
//! contract. This module defines events and errors; it does not depend on the watchers or the
//! registrants.

mod broadcaster;
mod check;
mod erased;
mod error;
mod event;
mod interner;
mod node_set;
mod options;
mod redacted;
mod skipped;
pub(crate) mod sorted_set;

use std::fmt::Debug;
use std::future::Future;
use std::net::IpAddr;

use crate::record::{Key, Service};

pub use broadcaster::{Broadcaster, Change, Newest};
pub(crate) use check::{LONGEST_TTL, SHORTEST_TTL};
pub use check::{check_keys, check_name, check_registration};
pub use erased::AnyRegistry;
pub(crate) use error::chain;
pub use error::{Error, Result, in_millis};
pub use event::{Event, Watcher};
pub use interner::{BadRecord, Interner};
pub use node_set::{Entries, Insertion, NodeChange, NodeSet};
pub use options::{DeregisterOptions, Instance, Options, RegisterOptions, WatchOptions};
pub use redacted::redacted_url;
pub use skipped::{SkipTable, SkippedRecord, SkippedRecords};

/// Backend in which servers register their records and clients find them: go-micro's interface,
/// with an additional `close`.
///
/// Implement it with plain `async fn`. All methods may be called from many tasks at once; none may
/// block its thread.
///
/// A read-only registry of the nodes that an inventory reports. The [`Broadcaster`] keeps the contract
/// of the watchers.
///
/// ```
/// use waypost_core::record::{Entry, Service};
/// use waypost_core::registry::{
///     Broadcaster, DeregisterOptions, Error, Options, RegisterOptions, Registry, Result, WatchOptions, Watcher,
/// };
///
/// #[derive(Debug)]
/// struct Inventory(Options, Broadcaster);
///
/// impl Registry for Inventory {
///     fn name(&self) -> &'static str {
///         "inventory"
///     }
///     fn options(&self) -> &Options {
///         &self.0
///     }
///     async fn register(&self, _: &Service, _: &RegisterOptions) -> Result<()> {
///         Err(Error::Unsupported { registry: "inventory", operation: "register" })
///     }
///     async fn deregister(&self, _: &Service, _: &DeregisterOptions) -> Result<()> {
///         Err(Error::Unsupported { registry: "inventory", operation: "deregister" })
///     }
///     async fn get_service(&self, name: &str) -> Result<Vec<Service>> {
///         let mut services = self.list_services().await?;
///         services.retain(|service| service.name == name);
///         if services.is_empty() { Err(Error::NotFound { service: name.into() }) } else { Ok(services) }
///     }
///     async fn list_services(&self) -> Result<Vec<Service>> {
///         let nodes = self.1.nodes().ok_or(Error::Closed)?;
///         Ok(Entry::to_services(&nodes))
///     }
///     async fn watch(&self, options: &WatchOptions) -> Result<Watcher> {
///         Ok(self.1.subscribe(options))
///     }
///     async fn close(&self) -> Result<()> {
///         self.1.forget();
///         self.1.close();
///         Ok(())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// # use waypost_core::record::Node;
/// # use waypost_core::registry::{AnyRegistry, NodeSet};
/// # let mut reported = Service::new("greeter");
/// # reported.nodes.push(Node::with_id("greeter", "a", "10.0.0.7:9001"));
/// let nodes = Broadcaster::default();
/// let registry = AnyRegistry::new(Inventory(Options::new(), nodes.clone()));
/// nodes.reset(reported.entries().into_iter().collect()); // at every report
/// assert_eq!(registry.list_services().await?, [reported]);
/// # registry.close().await?;
/// # assert!(matches!(registry.get_service("greeter").await, Err(Error::Closed)));
/// # Ok(()) }
/// ```
pub trait Registry: Debug + Send + Sync + 'static {
    /// Returns the name of the backend: `memory`, `local`, `etcd`.
    fn name(&self) -> &'static str;

    /// Returns the options with which the registry was created.
    fn options(&self) -> &Options;

    /// Creates, refreshes or repairs the records. After `Ok` the record of every node in `service`
    /// exists, belongs to `options.instance`, and stays for at least `ttl` unless refreshed.
    ///
    /// The call is idempotent and serves as the heartbeat: it is repeated at every interval, and an
    /// unchanged record costs no write. The backend writes `options.instance` into each node's
    /// metadata (see [`RegisterOptions::stamp`]). The existing record decides the effect:
    ///
    /// * It carries this instance: refresh it, and write it only if it differs.
    /// * It cannot be decoded, or has no owner: repair it.
    /// * It has the same id at the same address, and this is the instance's first write: take it
    ///   over, it is the record of a predecessor.
    /// * It is the live record of another instance: return [`Error::IdTaken`].
    ///
    /// # Errors
    /// [`Error::IdTaken`] (retry, and report it), [`Error::Invalid`] (do not retry),
    /// [`Error::Unavailable`] and [`Error::Timeout`] (retry with backoff), [`Error::Unsupported`],
    /// [`Error::Closed`].
    ///
    /// # Cancel safety
    /// If the future is dropped, the record may or may not have been written; call again.
    fn register(
        &self,
        service: &Service,
        options: &RegisterOptions,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Deregisters in two steps that a watcher receives as two events: marks each node with
    /// `waypost.state=leaving`, then deletes it.
    ///
    /// Removes only the records of `options.instance`, unless forced. A missing record is not an
    /// error.
    ///
    /// # Errors
    /// The same as for [`register`](Registry::register); [`Error::IdTaken`] if the record belongs
    /// to another instance.
    ///
    /// # Cancel safety
    /// If the future is dropped, the record may be unchanged, marked, or deleted; call again.
    fn deregister(
        &self,
        service: &Service,
        options: &DeregisterOptions,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Returns all nodes of one service, as one [`Service`] per version.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the service has no node.
    fn get_service(&self, name: &str) -> impl Future<Output = Result<Vec<Service>>> + Send;

    /// Returns all records of the registry, as one [`Service`] per name and version, in that order.
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::Timeout`], [`Error::Closed`]. An empty registry returns an
    /// empty list.
    fn list_services(&self) -> impl Future<Output = Result<Vec<Service>>> + Send;

    /// Watches one service or all, with ordered, gap-free events. See [`Watcher`] for the contract.
    ///
    /// # Errors
    /// Only for invalid options or a closed registry. An unreachable registry is an `Err` item of
    /// the watcher.
    fn watch(&self, options: &WatchOptions) -> impl Future<Output = Result<Watcher>> + Send;

    /// Waits until another writer has changed or deleted the record that `instance` has registered
    /// under `key`, as far as the backend is notified of that. The registrar then registers again at
    /// once, and not only at its next heartbeat. Completes at once if this handle has no such record.
    ///
    /// The default, for a backend without notifications, never completes.
    ///
    /// # Cancel safety
    /// If it is dropped, nothing is lost: the next call completes if the change is still there.
    fn overwritten(&self, key: &Key, instance: &Instance) -> impl Future<Output = ()> + Send {
        let _ = (key, instance);
        std::future::pending()
    }

    /// Returns the records of one service, or of all, that this handle has read and skipped, because
    /// they are not a valid record of their key. A record that was repaired or deleted is no longer
    /// included, as far as the handle's watchers and lists have read it.
    ///
    /// The errors of calls and of the command line name them: a service whose only record is skipped
    /// looks like one without nodes. The method is called for each such error, must not block, and
    /// does no I/O. [`SkipTable`] keeps the records. The default, for a registry without records to
    /// decode, returns none.
    fn skipped(&self, service: Option<&str>) -> SkippedRecords {
        let _ = service;
        SkippedRecords::default()
    }

    /// Releases all resources: ends what keeps its records alive (such as a lease), ends the
    /// watchers, joins the tasks. The call is idempotent.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if something could not be revoked. The registry is closed
    /// nevertheless.
    fn close(&self) -> impl Future<Output = Result<()>> + Send;

    /// Returns the addresses of this host from which it reaches the registry, best first. A server
    /// that listens on every interface advertises the first that clients on other hosts can dial:
    /// the registry's readers are in the network in which the registry is reached.
    ///
    /// Called once for a registration, and awaited for at most 2 s. Nothing need be sent: the
    /// system's routes decide. A backend that is not reached through a network has none, which is
    /// the default.
    fn local_addresses(&self) -> impl Future<Output = Vec<IpAddr>> + Send {
        std::future::ready(Vec::new())
    }
}
