//! Registry in a directory of one host: no server to install.
//!
//! `<dir>/<service>/<id>.json` is the record, written by atomic rename. The owner holds `<id>.lock`
//! beside it open and locked while it runs, so that the kernel reports the owner's death. There is
//! no clock and no heartbeat on disk, and a frozen owner stays registered. To deregister, the owner
//! renames the record to `<id>.left` and removes it; that name is the tombstone. `ls` and `cat` are
//! the admin tools.
//!
//! This crate knows files and locks, and no networks.

mod dir;
mod file;
mod lock;
mod machine;
mod reader;
mod registrations;
mod signals;
mod task;
#[cfg(test)]
#[cfg(unix)]
mod tests;
mod watcher;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};
use waypost_core::record::{Entry, RecordLimits, Service};
use waypost_core::registry::{
    DeregisterOptions, Error, Options, RegisterOptions, Registry, Result, SkippedRecords,
    WatchOptions, Watcher, check_keys, check_name, check_registration,
};

use dir::Dir;
use reader::Reader;
use registrations::{Claimed, Registrations};
use signals::SignalSource;
use watcher::DirWatcher;

/// Name of this backend in errors and URLs.
const NAME: &str = "local";

/// Time for which a held id is retried, since a reader's probe or a sweep holds a lock for a
/// moment.
const CLAIM_TIMEOUT: Duration = Duration::from_millis(500);

/// Interval between two such attempts.
const CLAIM_RETRY: Duration = Duration::from_millis(10);

/// Options of a [`LocalRegistry`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LocalOptions {
    /// Directory of the registry. The first registration creates it, accessible to its owner only. By
    /// default `$XDG_RUNTIME_DIR/waypost`, else `waypost-<uid>` in the temporary directory, which
    /// must belong to the current user and deny access to all others.
    pub dir: Option<PathBuf>,
    /// Maximum size of a record that is registered or read.
    pub limits: RecordLimits,
}

impl LocalOptions {
    /// Creates options for a directory, with defaults for the others.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: Some(dir.into()),
            limits: RecordLimits::default(),
        }
    }
}

/// Handle on the registry in a directory.
///
/// If it is dropped without [`close`](Registry::close), its locks are released and its records
/// lost, like those of a killed process.
pub struct LocalRegistry {
    options: Options,
    registrations: Arc<Registrations>,
    reader: Arc<Reader>,
    watching: DirWatcher,
}

impl LocalRegistry {
    /// Opens the registry. Its directory need not exist: the first registration creates it, and
    /// readers never do.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use waypost_core::record::{Node, Service};
    /// use waypost_core::registry::{Instance, RegisterOptions, Registry};
    /// use waypost_local::{LocalOptions, LocalRegistry};
    ///
    /// # let tempdir = tempfile::tempdir()?;
    /// # let dir = tempdir.path().join("registry");
    /// let server = LocalRegistry::open(LocalOptions::new(&dir))?;
    /// let mut service = Service::new("users");
    /// service.nodes.push(Node::new("users", "127.0.0.1:8080"));
    /// let options = RegisterOptions { ttl: Duration::from_secs(15), instance: Instance::random() };
    /// server.register(&service, &options).await?;
    ///
    /// // Another process opens the same directory.
    /// let client = LocalRegistry::open(LocalOptions::new(&dir))?;
    /// assert_eq!(client.get_service("users").await?[0].nodes[0].address, "127.0.0.1:8080");
    ///
    /// server.close().await?;
    /// assert!(client.list_services().await?.is_empty());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Denied`] if the directory may not be used, [`Error::Invalid`] if it is not a directory.
    pub fn open(options: LocalOptions) -> Result<Self> {
        Self::open_as(options, SignalSource::best())
    }

    fn open_as(options: LocalOptions, kind: SignalSource) -> Result<Self> {
        let LocalOptions { dir, limits } = options;
        let dir = Dir::open(dir, limits)?;
        let mut options = Options::new();
        options.limits = limits;
        options.on_this_host = true;
        options.addresses = vec![dir.root().display().to_string()];
        let reader = Arc::new(Reader::new(dir.clone()));
        let watching = DirWatcher::new(Arc::clone(&reader), kind);
        Ok(Self {
            options,
            registrations: Arc::new(Registrations::new(dir)),
            reader,
            watching,
        })
    }

    fn is_open(&self) -> Result<()> {
        if self.watching.is_closed() {
            Err(Error::Closed)
        } else {
            Ok(())
        }
    }

    /// Registers one node. A held id is retried for [`CLAIM_TIMEOUT`].
    async fn claim(&self, entry: &Entry, options: &RegisterOptions) -> Result<()> {
        let deadline = Instant::now() + CLAIM_TIMEOUT;
        loop {
            let (registrations, entry, instance) = (
                Arc::clone(&self.registrations),
                entry.clone(),
                options.instance.clone(),
            );
            match blocking(move || registrations.register(&entry, &instance)).await?? {
                Claimed::Done => return Ok(()),
                Claimed::Held(taken) if Instant::now() >= deadline => return Err(taken),
                Claimed::Held(_) => sleep(CLAIM_RETRY).await,
            }
        }
    }

    async fn scan(&self, service: Option<&str>) -> Result<Vec<Service>> {
        self.is_open()?;
        let (reader, service) = (Arc::clone(&self.reader), service.map(str::to_owned));
        let entries = blocking(move || reader.list(service.as_deref())).await??;
        Ok(Entry::into_services(entries))
    }
}

impl fmt::Debug for LocalRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalRegistry")
            .field("dir", &self.options.addresses[0])
            .field("broadcaster", self.watching.broadcaster())
            .finish()
    }
}

impl Drop for LocalRegistry {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

impl Registry for LocalRegistry {
    fn name(&self) -> &'static str {
        NAME
    }

    fn options(&self) -> &Options {
        &self.options
    }

    async fn register(&self, service: &Service, options: &RegisterOptions) -> Result<()> {
        check_registration(service, options, &self.options.limits)?;
        let mut result = Ok(());
        for entry in options.stamp(service).entries() {
            result = result.and(self.claim(&entry, options).await);
        }
        result
    }

    async fn deregister(&self, service: &Service, options: &DeregisterOptions) -> Result<()> {
        check_keys(service)?;
        let (registrations, reader) = (Arc::clone(&self.registrations), Arc::clone(&self.reader));
        let (entries, options) = (service.entries(), options.clone());
        blocking(move || {
            let results: Vec<_> = entries
                .iter()
                .map(|entry| registrations.deregister(&entry.key(), &options, &reader))
                .collect();
            results.into_iter().collect()
        })
        .await?
    }

    async fn get_service(&self, name: &str) -> Result<Vec<Service>> {
        check_name(name)?;
        let services = self.scan(Some(name)).await?;
        if services.is_empty() {
            Err(Error::NotFound {
                service: name.to_owned(),
            })
        } else {
            Ok(services)
        }
    }

    async fn list_services(&self) -> Result<Vec<Service>> {
        self.scan(None).await
    }

    async fn watch(&self, options: &WatchOptions) -> Result<Watcher> {
        options.service.as_deref().map_or(Ok(()), check_name)?;
        self.watching.watch(options)
    }

    fn skipped(&self, service: Option<&str>) -> SkippedRecords {
        self.reader.skipped(service)
    }

    async fn close(&self) -> Result<()> {
        let mut tasks = self.watching.close();
        while tasks.join_next().await.is_some() {}
        let registrations = Arc::clone(&self.registrations);
        blocking(move || registrations.close()).await
    }
}

/// Runs file operations on a thread that may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    spawn_blocking(work)
        .await
        .map_err(|error| Error::unavailable(NAME, "its work on files was stopped", error))
}

/// Classifies an I/O error.
fn unavailable(what: String, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Error::Denied {
            registry: NAME,
            what,
            source: Some(error.into()),
        },
        _ => Error::unavailable(NAME, what, error),
    }
}
