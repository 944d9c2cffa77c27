//! The promise a backend keeps, and the handle the rest of the code holds.
//!
//! Whoever implements [`Registry`] has brought a registry of their own; the suite in `waypost-conformance` tells whether it keeps the
//! promise. This room knows events and errors, and never who watches or who registers.

mod check;
mod erased;
mod error;
mod event;
mod feed;
mod heads;
mod node_set;
mod options;
mod redacted;
pub(crate) mod sorted_set;

use std::fmt::Debug;
use std::future::Future;

use crate::record::Service;

pub(crate) use check::{LONGEST_TTL, SHORTEST_TTL};
pub use check::{check_keys, check_name, check_registration};
pub use erased::AnyRegistry;
pub use error::{Error, Result, in_millis};
pub use event::{Event, Watcher};
pub use feed::{Change, Feed, Newest};
pub use heads::{BadRecord, Heads, LONGEST_RECORD};
pub use node_set::{Entries, Insertion, NodeChange, NodeSet};
pub use options::{DeregisterOptions, Instance, Options, RegisterOptions, WatchOptions};
pub use redacted::redacted_url;

/// Where servers put their records and clients find them: go-micro's interface, with the `close` it lacks.
///
/// Implement it with plain `async fn`. All methods may be called from many tasks at once; none may block its thread.
pub trait Registry: Debug + Send + Sync + 'static {
    /// The backend's name: `memory`, `local`, `etcd`.
    fn name(&self) -> &'static str;

    /// What it was made with.
    fn options(&self) -> &Options;

    /// Makes it so: after `Ok` the record of every node in `service` is there, is ours, and stays at least `ttl` unless refreshed.
    ///
    /// It creates, refreshes or repairs; called again at every interval it is the heartbeat, and unchanged it costs no write. The
    /// backend writes `options.instance` into each node's metadata (see [`RegisterOptions::stamp`]). A record that is there already is
    /// ours by that instance: keep it. One that cannot be decoded, or has lost its owner: repair it. One with the same id at the same
    /// address, at our first write, is our predecessor: take it over. Another's live record is [`Error::IdTaken`].
    ///
    /// # Errors
    /// [`Error::IdTaken`] (retry, and show it), [`Error::Invalid`] (do not retry), [`Error::Unavailable`] and
    /// [`Error::Timeout`] (retry with back-off), [`Error::Unsupported`], [`Error::Closed`].
    ///
    /// # Cancel safety
    /// Dropped half-way, the record may or may not have been written; call it again.
    fn register(&self, service: &Service, options: &RegisterOptions) -> impl Future<Output = Result<()>> + Send;

    /// Leaves: marks each node `waypost.state=leaving`, then deletes it, in two steps that a watcher sees as two events.
    ///
    /// Removes only what is ours by `options.instance`, unless forced. A record that is not there is no error.
    ///
    /// # Errors
    /// As for [`register`](Registry::register); [`Error::IdTaken`] if the record is another's.
    ///
    /// # Cancel safety
    /// Dropped half-way, the record may stand, be marked, or be gone; call it again.
    fn deregister(&self, service: &Service, options: &DeregisterOptions) -> impl Future<Output = Result<()>> + Send;

    /// All nodes of one service, one [`Service`] per version.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none.
    fn get_service(&self, name: &str) -> impl Future<Output = Result<Vec<Service>>> + Send;

    /// Everything in the registry, one [`Service`] per name and version, in that order.
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::Timeout`], [`Error::Closed`]; an empty registry is an empty list.
    fn list_services(&self) -> impl Future<Output = Result<Vec<Service>>> + Send;

    /// The ordered, gap-free events of one service or of all. See [`Watcher`] for what a watcher promises.
    ///
    /// # Errors
    /// Only on wrong options or a closed registry; an unreachable registry is an `Err` item of the watcher.
    fn watch(&self, options: &WatchOptions) -> impl Future<Output = Result<Watcher>> + Send;

    /// Lets go of everything: revokes what keeps its records alive, ends its watchers, joins its tasks. Twice is once.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if something could not be revoked; it is closed all the same.
    fn close(&self) -> impl Future<Output = Result<()>> + Send;
}
